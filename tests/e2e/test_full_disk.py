"""Disks that fill: publishes are refused before they are full, and nodes start with full ones."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.nemesis.disk import Mounts

from node.client.streaming import Client, connect
from node.errors import RefusedError
from node.protocol.positions import StartPosition

pytestmark = pytest.mark.slow

SETTINGS = {
    "store": {"dir": "data/{node}"},
    "raft": {"journal_segment": "1MiB", "trailing_logs": 200},
    "limits": {"max_channels": 0, "max_msgs": 0, "max_bytes": 0},
}
BODY = bytes(64 * 1024)
REFUSAL = r"stan: no space left: the disks? of n.* nearly full"
STEADY_S = 3.0
"""Three looks at a disk, and ten checkpoints."""
FLOODERS = 64
"""Publishes at once at each node: 4 MiB, what an origin holds at most."""


@pytest.fixture
def small(make_cluster: MakeCluster, tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes with disks of 96 MiB, ready."""
    if not Mounts.can_be_had(tmp_path):
        pytest.skip("a file system of its own for each node needs root")
    cluster = make_cluster(settings=SETTINGS)
    disks = Mounts(cluster)
    cluster.start()
    cluster.wait_ready()
    yield cluster
    cluster.end()
    disks.close()


async def fill(cluster: Cluster, channel: str) -> int:
    """Publish until it is refused for good; returns how many messages were taken.

    A first refusal may end by itself: messages that wait for a checkpoint count twice, as the store will need
    pages and the journal still has its segments.
    """
    count = 0
    refused_since = math.inf
    async with connect(cluster.addresses(), cluster.cluster_id, "filler") as client:
        while trio.current_time() - refused_since < STEADY_S:
            try:
                await client.publish(channel, BODY)
            except RefusedError as error:
                assert re.search(REFUSAL, str(error))  # noqa: PT017  # it may be refused and taken in turns
                refused_since = min(refused_since, trio.current_time())
                await trio.sleep(0.1)
            else:
                refused_since = math.inf
                count += 1
    return count


async def flood(cluster: Cluster, channel: str) -> int:
    """Publish at each node, as much at once as a node accepts, until all is refused. Returns how many
    messages were taken.
    """
    count = 0

    async def publish(client: Client) -> None:
        nonlocal count
        with pytest.raises(RefusedError, match=REFUSAL):  # noqa: PT012
            while True:
                await client.publish(channel, BODY)
                count += 1

    async def flood_at(name: str, address: str) -> None:
        async with (
            connect([address], cluster.cluster_id, f"flood-{name}") as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(FLOODERS):
                nursery.start_soon(publish, client)

    async with trio.open_nursery() as nursery:
        for name, address in zip(cluster.names, cluster.addresses(), strict=True):
            nursery.start_soon(flood_at, name, address)
    return count


async def read_all(cluster: Cluster, channel: str, count: int) -> None:
    """Deliveries and acknowledgements go on."""
    seen = 0
    done = trio.Event()
    async with connect(cluster.addresses(), cluster.cluster_id, "reader") as client:

        def take(_message: object) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                done.set()

        await client.subscribe(channel, take, start=StartPosition.FIRST, durable="audit")
        with trio.fail_after(60):
            await done.wait()


def admin(cluster: Cluster, *words: str) -> str:
    command = [str(STANCHION), *words, "--config", str(cluster.config)]
    return subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout


def takes_publishes(cluster: Cluster, channel: str) -> bool:
    async def publish() -> bool:
        async with connect(cluster.addresses(), cluster.cluster_id, "again") as client:
            try:
                await client.publish(channel, b"x")
            except RefusedError:
                return False
            return True

    return trio.run(publish)


def test_replicas_that_fill_together_go_on(small: Cluster) -> None:
    count = trio.run(fill, small, "foo")
    assert count > 100
    assert small.running == small.names
    trio.run(read_all, small, "foo", count)
    refused = until(
        "a warning", lambda: [w for w in small.page("n1", "/healthz").get("warnings", []) if "refused" in w]
    )
    assert "no space left" in refused[0]
    assert not takes_publishes(small, "foo")
    admin(small, "channel", "purge", "foo")
    until("room again", lambda: takes_publishes(small, "foo"), 30)
    assert small.running == small.names


def test_flood_at_every_node_is_refused_before_a_disk_is_full(small: Cluster) -> None:
    """A 96 MiB disk is filled in a second or two: no clock that ticks once a second saves it."""
    count = trio.run(flood, small, "foo")
    assert count > 100
    assert small.running == small.names
    admin(small, "channel", "purge", "foo")
    until("room again", lambda: takes_publishes(small, "foo"), 30)
    assert small.running == small.names


def test_nodes_start_with_full_disks_and_purge(small: Cluster) -> None:
    """Something else has filled every disk to the last byte; nothing of that is given back."""
    trio.run(fill, small, "foo")
    for name in small.names:
        small.kill(name)
    disks = Mounts.__new__(Mounts)
    disks._cluster = small
    for name in small.names:
        disks.fill(name)
    small.start()
    small.wait_ready()
    trio.run(fill, small, "foo")  # what is left of their reserves
    admin(small, "channel", "purge", "foo")
    small.wait_ready()
    assert small.wait_same("foo")["msgs"] == 0
    for name in small.names:
        disks.free(name)
    until("room again", lambda: takes_publishes(small, "foo"), 30)
