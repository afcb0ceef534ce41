"""Attacks on a cluster of real nodes, and what they cost everybody else.

`endure` runs attacks in processes of their own while a *bystander* on each node publishes one message
after another and waits for its acknowledgement. It returns a `Damage`: the bystanders' latencies, changes
of leader, memory and log lines. `Damage.check` demands what docs promise: one client's worst costs another
client at most `ACK_P99_MAX_S`, no leader changes, the log doesn't grow by a line per attempt.

An attack is a function ``attack(port, until_s)`` in a module of ``e2e.attacks``: it must be importable,
because it runs in a spawned process. It does its worst to the node at ``port`` until ``time.monotonic()``
reaches ``until_s``, expects to be disconnected, and returns.

How long: `SECONDS` in ``make test``; ``STANCHION_HOSTILE_SECONDS`` says otherwise (``make soak``).
"""

from __future__ import annotations

import multiprocessing
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.harness import Cluster, until
from e2e.wire import Wire

from node.protocol import nats, streaming

SECONDS = float(os.environ.get("STANCHION_HOSTILE_SECONDS", "3"))
"""How long one attack lasts."""

ACK_P99_MAX_S = 0.25
"""The 99th percentile of a bystander's publish acknowledgements during an attack."""

SAMPLES_MIN = 200
"""So many publishes a 99th percentile needs: two of them are slower. Of fewer it would be the slowest one."""

SLOWEST = 4
"""How many times longer than the bound the slowest publish of a short attack may take."""

SLOWER = 10
"""How many times longer than without an attack a publish may wait where that is more than `ACK_P99_MAX_S`."""

NAP_S = 0.002
WAITS = 10
"""Between two rounds of publishes the test naps for `NAP_S`. How much too late a nap ends is how long the
machine lets any process wait. A publish takes some ten turns of processes, so it may wait `WAITS` times as
long where that is more than `ACK_P99_MAX_S`."""

LOG_LINES_MAX = 60
"""Lines that one node may log during an attack, however many attempts it is made of."""

ANSWER_MAX_S = 30.0
"""The client's own acknowledgement timeout: a bystander gives up after it."""

Attack = Callable[[int, float], None]


class Bystander:
    """A streaming client that publishes and waits for the acknowledgement, and answers heartbeats."""

    def __init__(self, port: int, client_id: str, channel: str, cluster_id: str = "test-cluster") -> None:
        self._wire = Wire(port)
        self._wire.hello()
        self._channel = channel
        self._subject = f"_STAN.pub.{cluster_id}.{channel}".encode()
        self._inbox = f"_INBOX.{client_id}.acks".encode()
        heartbeat = f"_INBOX.hb.{client_id}".encode()
        self._wire.send(nats.sub(heartbeat, b"", b"heartbeat") + nats.sub(self._inbox, b"", b"acks"))
        self._client_id = client_id
        self._number = 0
        response = self._wire.register(client_id, cluster_id)
        assert not response.error, response.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wire.socket.close()

    def publish(self) -> float:
        """Publish one message; returns the seconds until its acknowledgement.

        Raises:
            AssertionError: it was refused, or the connection was closed.
            TimeoutError: no acknowledgement within `ANSWER_MAX_S`.
        """
        self._number += 1
        guid = f"{self._client_id}.{self._number}"
        request = streaming.PublishRequest(self._client_id, guid, self._channel, "", b"x" * 64, b"")
        self._wire.socket.settimeout(ANSWER_MAX_S)
        started_s = time.monotonic()
        self._wire.send(nats.pub(self._subject, self._inbox, streaming.encode_publish(request)))
        while True:
            answer = self._next()
            if answer is not None:
                ack = streaming.decode_pub_ack(answer)
                assert not ack.error, ack.error
                if ack.guid == guid:
                    return time.monotonic() - started_s

    def idle(self) -> None:
        """Answer what has come meanwhile: heartbeats and PINGs."""
        while select.select([self._wire.socket], [], [], 0)[0]:
            self._next()

    def _next(self) -> bytes | None:
        """The payload of the next acknowledgement; None when it was something else, which is answered."""
        line = self._wire.line()
        assert line, "the bystander was disconnected"
        words = line.split(b" ")
        if words[0] == b"PING":
            self._wire.send(nats.PONG)
        if words[0] not in (b"MSG", b"HMSG"):
            return None
        payload = self._wire.payload(int(words[-1]))
        if words[2] == b"heartbeat":
            self._wire.send(nats.pub(words[3], b"", b""))
        return payload if words[2] == b"acks" else None


@dataclass(slots=True)
class Damage:
    """What an attack did to everybody else."""

    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    """By node: how long each publish of the bystander there waited for its acknowledgement."""
    calm_s: dict[str, list[float]] = field(default_factory=dict)
    """The same before the attack."""
    late_s: list[float] = field(default_factory=list)
    """How much too late each nap of the test ended during the attack: other processes had the processors."""
    terms: tuple[int, int] = (0, 0)
    """Before and after: equal when no leader changed."""
    memory_before: dict[str, int] = field(default_factory=dict)
    memory_peak: dict[str, int] = field(default_factory=dict)
    """Resident bytes by node."""
    log_lines: dict[str, int] = field(default_factory=dict)
    """How many lines each node has logged during the attack."""

    def p99_s(self, name: str) -> float:
        return quantile(self.latencies_s[name], 0.99)

    @property
    def memory_growth(self) -> int:
        """The most that one node's resident memory grew, in bytes."""
        return max(peak - self.memory_before[name] for name, peak in self.memory_peak.items())

    def check(
        self,
        *,
        p99_max_s: float = ACK_P99_MAX_S,
        memory_max: int = 256 << 20,
        log_lines_max: int = LOG_LINES_MAX,
    ) -> None:
        """Raises AssertionError when the attack cost somebody else more than it may.

        The 99th percentile is that of each node's bystander if each has published `SAMPLES_MIN` times, else
        that of all together if they have. Fewer samples, as in an attack of seconds, give a 95th percentile,
        and the slowest publish may take `SLOWEST` times as long. On a machine that is busy with other things
        the bound is later: `SLOWER` times what publishes wait without an attack, or `WAITS` times what any
        process waits for a processor during it, each at the 99th percentile.
        """
        calm_s = quantile([one for calm in self.calm_s.values() for one in calm], 0.99)
        bound_s = max(p99_max_s, SLOWER * calm_s, WAITS * quantile(self.late_s, 0.99))
        everybody_s = [one for each in self.latencies_s.values() for one in each]
        part = 0.99 if len(everybody_s) >= SAMPLES_MIN else 0.95
        if min(map(len, self.latencies_s.values())) >= SAMPLES_MIN:
            late_s = max(self.p99_s(name) for name in self.latencies_s)
        else:
            late_s = quantile(everybody_s, part)
        told = f"p{part * 100:.0f} {late_s * 1e3:.0f} of {bound_s * 1e3:.0f} ms: {self}"
        assert late_s <= bound_s, f"publish acks, {told}"
        assert part == 0.99 or max(everybody_s) <= SLOWEST * bound_s, f"the slowest publish ack, {told}"
        assert self.terms[0] == self.terms[1], f"the leader changed: {self}"
        assert self.memory_growth <= memory_max, f"memory: {self}"
        assert max(self.log_lines.values()) <= log_lines_max, f"log lines: {self}"

    def __str__(self) -> str:
        nodes = [
            f"{name}: p50 {quantile(calm, 0.5) * 1e3:.1f} -> "
            f"{quantile(self.latencies_s[name], 0.5) * 1e3:.1f} ms, "
            f"p99 {quantile(calm, 0.99) * 1e3:.1f} -> {self.p99_s(name) * 1e3:.1f} ms, "
            f"max {max(self.latencies_s[name]) * 1e3:.0f} ms of {len(self.latencies_s[name])}, "
            f"memory {self.memory_before[name] >> 20} -> {self.memory_peak[name] >> 20} MiB, "
            f"{self.log_lines[name]} log lines"
            for name, calm in self.calm_s.items()
        ]
        late_ms = quantile(self.late_s, 0.99) * 1e3
        return f"terms {self.terms[0]} -> {self.terms[1]}; naps late by {late_ms:.1f} ms; " + "; ".join(nodes)


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` of the values are (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def endure(
    cluster: Cluster,
    unique: str,
    attacks: Mapping[str, Sequence[Attack]],
    *,
    seconds: float = SECONDS,
    ports: Mapping[str, int] | None = None,
) -> Damage:
    """Let attacks run against nodes, and measure the bystanders of all nodes.

    Args:
        cluster: all its nodes are ready.
        unique: begins the bystanders' client IDs and channel.
        attacks: by node, what is done to it; each in a process of its own.
        seconds: how long.
        ports: by node, the port attacked; else its client port.

    Raises:
        AssertionError: a bystander was refused or disconnected, a node has ended, or an attack failed.
    """
    damage = Damage()
    with ExitStack() as stack:
        bystanders = {
            name: stack.enter_context(
                Bystander(cluster.ports[name]["client"], f"{unique}-{name}", unique, cluster.cluster_id)
            )
            for name in cluster.running
        }
        _endure(cluster, damage, bystanders, attacks, seconds, ports or {})
    return damage


def _endure(
    cluster: Cluster,
    damage: Damage,
    bystanders: Mapping[str, Bystander],
    attacks: Mapping[str, Sequence[Attack]],
    seconds: float,
    ports: Mapping[str, int],
) -> None:
    before = _term(cluster)
    lines = {name: _lines(cluster.log(name)) for name in bystanders}
    _measure(bystanders, damage.calm_s, time.monotonic() + 1.0, lambda: None)
    damage.memory_before = {name: resident_bytes(cluster.children[name].process.pid) for name in bystanders}
    damage.memory_peak = dict(damage.memory_before)
    context = multiprocessing.get_context("spawn")
    until_s = time.monotonic() + seconds + 1.0  # a second in which the processes start
    processes = [
        context.Process(
            target=attack, args=(ports.get(name, cluster.ports[name]["client"]), until_s), daemon=True
        )
        for name, several in attacks.items()
        for attack in several
    ]
    try:
        for process in processes:
            process.start()
        noted_s = 0.0

        def each_round() -> None:
            nonlocal noted_s
            began_s = time.monotonic()
            time.sleep(NAP_S)
            damage.late_s.append(time.monotonic() - began_s - NAP_S)
            if began_s - noted_s > 0.1:
                noted_s = began_s
                _note_memory(cluster, damage)

        _measure(bystanders, damage.latencies_s, until_s, each_round)
        for process in processes:
            process.join(30)
            assert process.exitcode == 0, f"the attack itself ended with {process.exitcode}"
        damage.terms = (before, _term(cluster))
        damage.log_lines = {name: _lines(cluster.log(name)) - count for name, count in lines.items()}
    finally:
        for process in processes:
            process.kill()
            process.join()
    dead = [name for name in bystanders if not cluster.children[name].is_running]
    assert not dead, f"{', '.join(dead)} ended: {cluster.tail(dead[0])}"


def _measure(
    bystanders: Mapping[str, Bystander],
    latencies_s: dict[str, list[float]],
    until_s: float,
    each_round: Callable[[], None],
) -> None:
    """Publish at one node after the other until ``until_s``."""
    while time.monotonic() < until_s or not latencies_s:
        for name, bystander in bystanders.items():
            bystander.idle()
            latencies_s.setdefault(name, []).append(bystander.publish())
        each_round()


def _note_memory(cluster: Cluster, damage: Damage) -> None:
    for name, peak in damage.memory_peak.items():
        damage.memory_peak[name] = max(peak, resident_bytes(cluster.children[name].process.pid))


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, in bytes; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def _term(cluster: Cluster) -> int:
    """The highest term of all nodes. A monitoring page may take a while under attack."""
    pages = [
        until(f"/raftz of {name}", lambda name=name: cluster.get(name, "/raftz"), 20.0)  # type: ignore[misc]
        for name in cluster.running
    ]
    assert all(status == 200 for status, _ in pages), pages
    return max(page["term"] for _, page in pages)


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


class Yardstick:
    """Debian's ``nats-server`` under the same attack: the latency of a request to oneself.

    For attacks that a plain NATS server knows. ``p99_s`` is what another client of it sees. The server ends
    with the block.
    """

    def __init__(self, server: str, port: int, folder: Path) -> None:
        self._port = port
        with (folder / "nats-server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [server, "-a", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=log
            )
        until("nats-server to listen", self._listens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _listens(self) -> bool:
        try:
            Wire(self._port).socket.close()
        except OSError:
            return False
        return True

    def p99_s(self, attacks: Sequence[Attack], seconds: float = SECONDS) -> float:
        """The 99th percentile of a round trip between two messages of one client during the attacks."""
        context = multiprocessing.get_context("spawn")
        until_s = time.monotonic() + seconds + 1.0
        processes = [context.Process(target=one, args=(self._port, until_s), daemon=True) for one in attacks]
        latencies_s = []
        try:
            with Wire(self._port) as wire:
                wire.hello()
                wire.send(nats.sub(b"yardstick", b"", b"1"))
                for process in processes:
                    process.start()
                while time.monotonic() < until_s:
                    latencies_s.append(self._round_trip_s(wire))
                    time.sleep(NAP_S)
            for process in processes:
                process.join(30)
                assert process.exitcode == 0, f"the attack itself ended with {process.exitcode}"
        finally:
            for process in processes:
                process.kill()
                process.join()
        return quantile(latencies_s, 0.99)

    def _round_trip_s(self, wire: Wire) -> float:
        started_s = time.monotonic()
        wire.send(nats.pub(b"yardstick", b"", b"x" * 64))
        line = wire.line()
        while not line.startswith(b"MSG"):
            assert line, "nats-server closed the connection"
            if line == b"PING":
                wire.send(nats.PONG)
            line = wire.line()
        wire.payload(int(line.split(b" ")[-1]))
        return time.monotonic() - started_s
