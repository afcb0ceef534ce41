"""One run: a cluster, its clients, faults for a while, and what is demanded afterwards.

**Progress**: while a majority is well, somebody leads it within `faults.LEADER_S`; after each round of faults
all nodes are ready within `faults.READY_S`; after the last, a publish to every channel is acknowledged within
`PROBE_S`, and within `DRAINED_S` everything that was acknowledged has come to everybody and is acknowledged
on every node.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from e2e.harness import Cluster
from e2e.load import replay
from e2e.nemesis.disk import JOURNAL_SEGMENT_BYTES, Disks, Limits, Mounts
from e2e.nemesis.faults import STARTED_S, Nemesis, NoProgressError, leaves
from e2e.nemesis.history import History, Violation
from e2e.nemesis.load import CHANNELS, Load
from e2e.nemesis.network import Namespaces, Network, Relays
from e2e.ports import Guard, Ports

from node.errors import NodeError

PROBE_S = 5.0
DRAINED_S = 20.0
SHOWN_MAX = 15
TEXT_MAX = 600
"""Characters of one violation."""
AROUND_S = 1.5

SETTINGS: dict[str, Any] = {"raft": {"journal_segment": f"{JOURNAL_SEGMENT_BYTES >> 20}MB"}}


@dataclass(slots=True)
class Run:
    """What happened, as it is told when something was wrong."""

    folder: Path
    seed: int
    size: int
    seconds: float
    by: str
    """What cuts the network: kernel or proxies."""
    test: str
    """Part of the name of the test that shows it again."""
    history: History = field(default_factory=History)
    faults: list[str] = field(default_factory=list)
    at_once: int = 0
    violations: list[Violation] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)
    began_s: float = 0.0
    began_unix_s: float = 0.0

    def note(self, text: str) -> None:
        self.lines.append((trio.current_time(), text))

    @property
    def summary(self) -> str:
        history = self.history
        deliveries = sum(
            len(events) for cursor in history.cursors.values() for events in cursor.events.values()
        )
        return (
            f"{self.size} nodes, seed {self.seed}: {len(self.faults)} faults, up to {self.at_once} at once, "
            f"{len(history.published_s)} publishes, {len(history.stored_s)} acknowledged, "
            f"{deliveries} deliveries and acks, slowest after a death {history.slowest_s:.2f} s "
            f"(bounds x {history.pace.factor:.1f}), {len(self.violations)} violations"
        )

    def told(self) -> str:
        """The time line, and last: seed, violations and how to run it again.

        The first line, which pytest's summary repeats, is the seed and the first violation.
        """
        began = time.strftime("%H:%M:%S", time.gmtime(self.began_unix_s))
        first = f"{self.violations[0].rule}: {self.violations[0].text}" if self.violations else "held"
        text = [f"seed {self.seed}: {first}", ""]
        text += [f"what was done, in seconds from {began}.{self.began_unix_s % 1 * 1000:03.0f} UTC:"]
        text += [f"{self._at(at_s)} {line}" for at_s, line in self.lines]
        text += ["", f"the nodes' logs: {self.folder}", "", *self.verdict()]
        text += [
            "again, as nearly as that can be:",
            f"  STANCHION_NEMESIS_BY={self.by} STANCHION_NEMESIS_SEED={self.seed} "
            f"STANCHION_NEMESIS_SECONDS={self.seconds:g} "
            f"python -m pytest tests/e2e/test_nemesis.py -k {self.test}",
        ]
        return "\n".join(text)

    def verdict(self) -> list[str]:
        """The summary with the seed, and the first violations."""
        text = [self.summary]
        for violation in self.violations[:SHOWN_MAX]:
            text.append(f"{self._at(violation.at_s)} {violation.rule}: {violation.text[:TEXT_MAX]}")
        if len(self.violations) > SHOWN_MAX:
            text.append(f"and {len(self.violations) - SHOWN_MAX} more")
        return text

    def failed(self, error: BaseException) -> None:
        """Record an exception that ended the run: a violation, and its traceback in the time line."""
        for leaf in leaves(error):
            now_s = trio.current_time()
            self.history.broke(now_s, "ended", f"the run ended with {type(leaf).__name__}: {leaf}")
            self.lines.append((now_s, "".join(traceback.format_exception(leaf)).rstrip()))

    def _at(self, at_s: float) -> str:
        return f"{at_s - self.began_s:8.3f}"


@contextmanager
def cluster_in_trouble(
    folder: Path,
    ports: Ports,
    guard: Guard,
    size: int,
    *,
    privileged: bool,
    cluster: type[Cluster] = Cluster,
) -> Iterator[tuple[Network, Disks]]:
    """A cluster whose network can be cut and whose disks filled, by the kernel where ``privileged``.

    Another kind of ``cluster`` than the usual one lives behind proxies.
    """
    network: Network
    if privileged and cluster is Cluster and Namespaces.can_be_had():
        network = Namespaces(folder, ports, guard, size=size, settings=SETTINGS)
    else:
        network = Relays(folder, ports, guard, size=size, settings=SETTINGS, cluster=cluster)
    with_mounts = privileged and Mounts.can_be_had(folder)
    disks: Disks = Mounts(network.cluster) if with_mounts else Limits(network.cluster)
    try:
        yield network, disks
    finally:
        network.cluster.end()
        network.close()
        disks.close()


async def torment(network: Network, disks: Disks, seed: int, seconds: float) -> Run:
    """Start the cluster, hurt it for a while, and see what its clients saw."""
    cluster = network.cluster
    by = "kernel" if network.kind == Namespaces.kind else "proxies"
    size = len(cluster.names)
    test = f"on_{size}_nodes" if type(cluster) is Cluster else "behind"
    run = Run(cluster.folder, seed, size, seconds, by, test)
    run.began_s, run.began_unix_s = trio.current_time(), time.time()
    run.note(f"{network.kind}, {disks.kind}")
    pace = run.history.pace
    load = Load(cluster, run.history, seed, run.note)
    nemesis = Nemesis(network, disks, run.history, run.note, random.Random(seed), pace)
    run.faults = nemesis.done
    is_complete = False
    try:
        cluster.start()
        await trio.to_thread.run_sync(cluster.wait_ready, None, STARTED_S)
        pace.started(size, trio.current_time() - run.began_s)
        run.note(f"all ready; bounds are multiplied by {pace.factor:.1f}, so slow is this machine")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pace.watch)
            await nursery.start(load.run)
            try:
                await nemesis.run(seconds)
                await _demand_progress(cluster, load, PROBE_S * pace.factor)
                load.calm()
                await _drain(run.history, cluster)
                await _compare(run, cluster)
                is_complete = True
            except NoProgressError as error:
                run.history.broke(trio.current_time(), "progress", str(error))
                run.note(f"given up: {error}")
                load.calm()
            nursery.cancel_scope.cancel()
    except (
        Exception
    ) as error:  # a client, the nemesis or a node: told with the seed, like any other violation
        run.failed(error)
    run.at_once = nemesis.at_once
    run.violations = run.history.judge(is_complete=is_complete)
    return run


async def _demand_progress(cluster: Cluster, load: Load, within_s: float) -> None:
    for channel in CHANNELS:
        try:
            with trio.fail_after(within_s):
                await load.probe(channel)
        except (trio.TooSlowError, NodeError) as error:
            text = f"no publish to {channel} within {within_s:.1f} s of the last fault: {error!r}"
            raise NoProgressError(text) from error


async def _drain(history: History, cluster: Cluster) -> None:
    """Wait until everything has come, and nobody holds anything any more."""
    pending: list[str] = []
    bound_s = DRAINED_S * history.pace.factor
    with trio.move_on_after(bound_s):
        while True:
            missing = sum(len(history.missing(cursor)) for cursor in history.cursors.values())
            if not missing:
                pending = await trio.to_thread.run_sync(_pending, cluster)
                if not pending:
                    return
            await trio.sleep(0.1)
    if pending:
        raise NoProgressError(
            f"{bound_s:.1f} s after the last publish there is pending: {'; '.join(pending)}"
        )
    # What is missing, the verdict tells.


def _pending(cluster: Cluster) -> list[str]:
    return [
        f"on {name}, {channel}: {sub['pending_count']} of {sub['client_id']}"
        for name in cluster.names
        for channel in CHANNELS
        for sub in cluster.channel(name, channel)["subscriptions"]
        if sub["pending_count"]
    ]


async def _compare(run: Run, cluster: Cluster) -> None:
    """Every node tells the same channels, and they are what subscribers saw."""
    for channel in CHANNELS:
        last = (await trio.to_thread.run_sync(cluster.wait_same, channel))["last_seq"]
        seen = {seq: text for (name, seq), text in run.history.messages.items() if name == channel}
        if len(seen) != last or max(seen, default=0) != last:
            run.history.broke(trio.current_time(), "diverged", f"{channel} ends at {last}, seen: {len(seen)}")
        for name in cluster.names:
            told = await replay(
                cluster.address(name),
                cluster.cluster_id,
                f"replay-{name}-{channel.replace('.', '-')}",
                channel,
                last,
            )
            if [(seq, data.decode()) for seq, data in told] != sorted(seen.items()):
                run.history.broke(trio.current_time(), "diverged", f"{name} tells another {channel}")
