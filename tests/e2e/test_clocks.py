"""Wall clocks that are wrong: no message is dropped for its age because a clock moved, operators are told.

That is rule R13. Each node of these tests has a wall clock of its own: `shifted_clock.c` is preloaded.
Deadlines and elections go by the monotonic clock, which nobody shifts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.test_redelivery import Inbox

from node.client.streaming import connect
from node.protocol.positions import StartPosition

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
AGE_S = 2.0
"""The ``max_age`` of channel ``aged``; of ``kept`` it is an hour, of ``archive`` 20 days."""
FASTEST = 1.1
"""Timestamps advance at 110 % of the speed of time at most."""
NEAR_S = 10.0
"""Timestamps that agree with a clock are so near to it. A shift is hours, and a machine may be busy."""

LIMITS = {
    "max_channels": 0,
    "channels": {
        "aged": {"max_age": f"{AGE_S:g}s"},
        "kept": {"max_age": "1h"},
        "archive": {"max_age": "480h"},
    },
}

pytestmark = pytest.mark.slow


class WallClocks:
    """The wall clock and the time since boot of each node, as `shifted_clock.c` reads them."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._folder = folder
        self._library = library

    def launcher(self, name: str) -> list[str]:
        """The words that start a node's command under its own clocks, which are right at first."""
        self.shift(name, 0)
        return ["env", f"LD_PRELOAD={self._library}", f"SHIFTED_CLOCK={self._file(name)}"]

    def shift(self, name: str, wall_s: float, boot_s: float = 0.0) -> None:
        """Set a node's clocks so far ahead of this machine's, or behind; at once, if it runs."""
        with self._file(name).open("r+b" if self._file(name).exists() else "wb") as file:
            file.write(struct.pack("=qq", round(wall_s * 1e9), round(boot_s * 1e9)))

    def _file(self, name: str) -> Path:
        return self._folder / f"clock-{name}"


@pytest.fixture(scope="session")
def clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        text = "no C compiler for shifted_clock.c (Debian: gcc, libc6-dev)"
        pytest.fail(text) if os.environ.get("STANCHION_REQUIRE_CLIENTS") else pytest.skip(text)
    library = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    words = [
        compiler,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        str(source),
        "-o",
        str(library),
    ]
    subprocess.run(words, check=True)
    return library


@pytest.fixture
def clocks(clock_library: Path, tmp_path: Path) -> WallClocks:
    return WallClocks(tmp_path, clock_library)


@pytest.fixture
def nodes(make_cluster: MakeCluster, clocks: WallClocks) -> Callable[[int], Cluster]:
    """Start a cluster whose clocks can be shifted: ``nodes(3)``; ready when it is returned."""

    def start(size: int, ahead_s: float = 0.0) -> Cluster:
        launchers = {f"n{i + 1}": clocks.launcher(f"n{i + 1}") for i in range(size)}
        settings = {"limits": LIMITS, "raft": {"election_timeout": ["4s", "5s"]}}  # load elects nobody
        cluster = make_cluster(size, settings, launchers=launchers)
        for name in cluster.names:
            clocks.shift(name, ahead_s)
        cluster.start()
        cluster.wait_ready()
        return cluster

    return start


# --- asking -------------------------------------------------------------------------------------------


def warnings(cluster: Cluster, name: str) -> list[str]:
    """What a node's health check wants looked after, whether or not the node serves just now."""
    _, body = cluster.get(name, "/healthz")  # 503 for moments after a change of leader: it is catching up
    assert isinstance(body, dict), body
    found: list[str] = body.get("warnings", [])
    return found


def warned(cluster: Cluster, name: str, pattern: str) -> None:
    until(
        f"{name} to warn {pattern!r}",
        lambda: any(re.search(pattern, text) for text in warnings(cluster, name)),
    )


def no_longer_warned(cluster: Cluster) -> None:
    for name in cluster.running:
        until(f"{name} to warn no longer", lambda name=name: not warnings(cluster, name))  # type: ignore[misc]


def logged(cluster: Cluster, name: str, pattern: str) -> None:
    until(f"{name} to log {pattern!r}", lambda: re.search(pattern, cluster.log(name).read_text()))


def count(cluster: Cluster, name: str, channel: str) -> int:
    msgs: int = cluster.channel(name, channel)["msgs"]
    return msgs


def command(cluster: Cluster, *words: str) -> str:
    """What an operator's command prints; the command's exit code is 0."""
    line = [str(STANCHION), *words, "--config", str(cluster.config)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def publish(cluster: Cluster, *channels: str) -> None:
    """Store one message in each channel."""

    async def run() -> None:
        async with connect(cluster.addresses(), cluster.cluster_id, "publisher") as client:
            for channel in channels:
                await client.publish(channel, b"")

    trio.run(run)


def dates(cluster: Cluster, channel: str, length: int) -> list[float]:
    """When the first messages of a channel were stored, by their timestamps: Unix time."""

    async def run() -> list[float]:
        async with connect(cluster.addresses(), cluster.cluster_id, "reader") as client:
            inbox = Inbox()
            await client.subscribe(channel, inbox, start=StartPosition.FIRST)
            return [message.timestamp_ns / 1e9 for message in await inbox.wait(length)]

    return trio.run(run)


def is_dated(stamp_s: float, since_s: float, ahead_s: float = 0.0) -> bool:
    """Whether a message that was published since then is dated by a clock that is so far ahead of ours."""
    return since_s - NEAR_S < stamp_s - ahead_s < time.time() + NEAR_S


def dropped_in_time(cluster: Cluster, channel: str, since_s: float) -> None:
    """All messages of ``aged`` are dropped on every node, and not before they are old enough."""
    for name in cluster.running:
        until(f"{channel} empty at {name}", lambda name=name: count(cluster, name, channel) == 0)  # type: ignore[misc]
    assert time.monotonic() - since_s >= AGE_S / FASTEST


# --- a cluster ----------------------------------------------------------------------------------------


def test_a_followers_clock_is_wrong(nodes: Callable[[int], Cluster], clocks: WallClocks) -> None:
    """8 h behind while it runs, 30 days ahead when it starts: it does no harm, and says so."""
    cluster = nodes(3)
    follower = cluster.follower()
    others = [name for name in cluster.names if name != follower]
    publish(cluster, "kept")

    clocks.shift(follower, -8 * HOUR_S)
    logged(cluster, follower, r"this node's wall clock is 28[78]\d\d\.\d s behind the cluster's median")
    warned(cluster, follower, r"this node's wall clock is -28[78]\d\d\.\d s from the cluster's median")
    assert f"{follower}: this node's wall clock is -28" in command(cluster, "status")
    began_s = time.monotonic()
    publish(cluster, "kept", "aged")
    dropped_in_time(cluster, "aged", began_s)
    assert [warnings(cluster, name) for name in others] == [[], []]

    clocks.shift(follower, 0)
    logged(cluster, follower, "this node's wall clock agrees with the cluster's again")
    no_longer_warned(cluster)

    cluster.kill(follower)
    clocks.shift(follower, 30 * DAY_S)
    cluster.start(follower)
    cluster.wait_ready()
    warned(cluster, follower, r"this node's wall clock is \+259[12]\d\d\d\.\d s from the cluster's median")
    began_s, published_s = time.monotonic(), time.time()
    publish(cluster, "kept", "aged")
    dropped_in_time(cluster, "aged", began_s)
    assert [warnings(cluster, name) for name in others] == [[], []]
    assert [count(cluster, name, "kept") for name in cluster.names] == [3, 3, 3]
    assert is_dated(dates(cluster, "kept", 3)[-1], published_s)
    clocks.shift(follower, 0)
    no_longer_warned(cluster)


def test_a_leader_whose_clock_is_set_back_hands_over(
    nodes: Callable[[int], Cluster], clocks: WallClocks
) -> None:
    """8 h. Until another node leads, no node drops a message for its age; then all go on."""
    cluster = nodes(3)
    first = cluster.leader()
    publish(cluster, "kept")

    clocks.shift(first, -8 * HOUR_S)
    for name in cluster.names:
        warned(cluster, name, "no message is dropped for its age: the leader's wall clock is wrong")
    warned(cluster, first, r"this node's wall clock is -28[78]\d\d\.\d s from the cluster's median")
    publish(cluster, "kept", "aged")
    since_s = time.monotonic()
    longest_s = 0.0
    while cluster.ready_leader() in {"", first}:
        assert time.monotonic() - since_s < 30.0, "nobody took over"
        for name in cluster.names:
            if not cluster.page(name, "/raftz")["ages_wait"]:
                continue
            age_s, msgs = time.monotonic() - since_s, count(cluster, name, "aged")
            if cluster.page(name, "/raftz")["ages_wait"]:
                assert msgs == 1, f"dropped at {name}"
                longest_s = max(longest_s, age_s)
    assert longest_s > AGE_S, "seen to be kept beyond its age"
    logged(cluster, first, "its wall clock is wrong: handing over to a node with a right clock")

    for name in cluster.names:
        until("ages go on", lambda name=name: not cluster.page(name, "/raftz")["ages_wait"])  # type: ignore[misc]
        until("the old message dropped", lambda name=name: count(cluster, name, "aged") == 0)  # type: ignore[misc]
    published_s = time.time()
    publish(cluster, "kept")
    stored = dates(cluster, "kept", 3)
    assert stored == sorted(stored)
    assert is_dated(stored[-1], published_s)
    assert [count(cluster, name, "kept") for name in cluster.names] == [3, 3, 3]
    assert cluster.ready_leader() != first
    assert warnings(cluster, first), "its clock is still wrong"
    clocks.shift(first, 0)
    no_longer_warned(cluster)


# --- a node alone -------------------------------------------------------------------------------------


def test_a_single_nodes_clock_is_set_back(nodes: Callable[[int], Cluster], clocks: WallClocks) -> None:
    """8 h: timestamps don't go back, and messages are dropped when they have been there for their time."""
    cluster = nodes(1)
    publish(cluster, "kept")
    clocks.shift("n1", -8 * HOUR_S)
    warned(
        cluster, "n1", r"timestamps are 28[78]\d\d\.\d s ahead of the nodes' .* see stanchion cluster clock"
    )
    logged(cluster, "n1", r"wall clocks are 28[78]\d\d\.\d s behind the timestamps so far")
    assert "n1: timestamps are 28" in command(cluster, "status")
    assert "s behind the timestamps of messages" in command(cluster, "cluster", "clock")
    began_s, published_s = time.monotonic(), time.time()
    publish(cluster, "kept", "aged")
    dropped_in_time(cluster, "aged", began_s)
    stored = dates(cluster, "kept", 2)
    assert stored == sorted(stored)
    assert is_dated(stored[-1], published_s), "by the time that elapses, not by the clock"
    clocks.shift("n1", 0)
    no_longer_warned(cluster)


def test_a_single_node_goes_on_after_a_suspension(
    nodes: Callable[[int], Cluster], clocks: WallClocks
) -> None:
    """8 h in which its machine was suspended count: for timestamps at once, and for ages."""
    cluster = nodes(1)
    publish(cluster, "archive")
    cluster.pause("n1")
    clocks.shift("n1", 8 * HOUR_S, boot_s=8 * HOUR_S)
    cluster.resume("n1")
    assert warnings(cluster, "n1") == [], "what it knew of the clock before is out of date"
    published_s = time.time()
    publish(cluster, "archive", "kept")
    stored = dates(cluster, "archive", 2)
    assert is_dated(stored[-1], published_s, ahead_s=8 * HOUR_S)

    cluster.pause("n1")
    clocks.shift("n1", 16 * HOUR_S, boot_s=16 * HOUR_S)
    cluster.resume("n1")
    until("what is older than an hour dropped", lambda: count(cluster, "n1", "kept") == 0)
    assert count(cluster, "n1", "archive") == 2
    assert warnings(cluster, "n1") == []


def test_a_single_nodes_clock_jumps_ahead(nodes: Callable[[int], Cluster], clocks: WallClocks) -> None:
    """8 h without a suspension: nothing is dropped, unless an operator confirms that the clock is right."""
    cluster = nodes(1)
    publish(cluster, "kept", "archive")
    clocks.shift("n1", 8 * HOUR_S)
    warned(cluster, "n1", r"timestamps are 28[78]\d\d\.\d s behind the nodes' .* see stanchion cluster clock")
    logged(cluster, "n1", r"wall clocks are 28[78]\d\d\.\d s ahead of the timestamps so far")
    assert "s ahead of the timestamps of messages" in command(cluster, "cluster", "clock")
    published_s = time.time()
    publish(cluster, "archive")
    assert count(cluster, "n1", "kept") == 1
    assert is_dated(dates(cluster, "archive", 2)[-1], published_s)

    command(cluster, "cluster", "clock", "--confirm")
    logged(cluster, "n1", r"an operator has confirmed the cluster's wall clocks, \+28")
    until("what is older than an hour dropped", lambda: count(cluster, "n1", "kept") == 0)
    published_s = time.time()
    publish(cluster, "archive")
    assert is_dated(dates(cluster, "archive", 3)[-1], published_s, ahead_s=8 * HOUR_S)
    no_longer_warned(cluster)


def test_a_single_node_starts_30_days_ahead(nodes: Callable[[int], Cluster], clocks: WallClocks) -> None:
    """What it has is kept, and dated on; when the clock is set right, all is as if nothing had been."""
    cluster = nodes(1)
    publish(cluster, "kept", "archive")
    killed_s = time.time()
    cluster.kill("n1")
    clocks.shift("n1", 30 * DAY_S)
    cluster.start("n1")
    cluster.wait_ready()
    logged(
        cluster,
        "n1",
        "are NOT believed: timestamps and message ages advance with elapsed time only",
    )
    warned(cluster, "n1", r"timestamps are 259[12]\d\d\d\.\d s behind the nodes' wall clocks")
    answer = json.loads(command(cluster, "cluster", "clock", "--json"))
    assert answer["believed"] is False
    began_s = time.monotonic()
    publish(cluster, "kept", "archive", "aged")
    dropped_in_time(cluster, "aged", began_s)
    assert [count(cluster, "n1", "kept"), count(cluster, "n1", "archive")] == [2, 2]

    clocks.shift("n1", 0)
    until(
        "no warning of 30 days",
        lambda: not any("timestamps are 259" in text for text in warnings(cluster, "n1")),
    )
    assert json.loads(command(cluster, "cluster", "clock", "--json"))["believed"] is True
    publish(cluster, "archive")
    stored = dates(cluster, "archive", 3)
    assert stored == sorted(stored)
    assert is_dated(stored[-1], killed_s), "by the time that elapsed, but for that when the node was down"
    assert [count(cluster, "n1", "kept"), count(cluster, "n1", "archive")] == [2, 3]


def test_a_new_node_starts_30_days_ahead(nodes: Callable[..., Cluster], clocks: WallClocks) -> None:
    """Its first messages are dated ahead, for nothing else is known; it says so when the clock is right."""
    cluster = nodes(1, ahead_s=30 * DAY_S)
    published_s = time.time()
    publish(cluster, "kept")
    assert is_dated(dates(cluster, "kept", 1)[0], published_s, ahead_s=30 * DAY_S)
    clocks.shift("n1", 0)
    logged(cluster, "n1", "are NOT believed")
    warned(cluster, "n1", r"timestamps are 259[12]\d\d\d\.\d s ahead of the nodes' wall clocks")
    began_s = time.monotonic()
    publish(cluster, "kept", "aged")
    dropped_in_time(cluster, "aged", began_s)
    assert count(cluster, "n1", "kept") == 2
