"""A node that was away for longer than the others keep their journals is sent a snapshot.

The cluster keeps so little journal that a few hundred messages are enough. Its third node can be cut
off from the others by relays, with its clients still connected.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import Cluster, until
from e2e.load import replay
from e2e.ports import Ports
from e2e.relay import Island
from e2e.test_redelivery import Inbox

from node.client.streaming import Client, connect

VICTIM = "n3"
SEGMENT_BYTES = 64 * 1024
PAYLOAD_BYTES = 4096
MESSAGES = 400  # many segments
SETTINGS = {
    "raft": {"journal_segment": SEGMENT_BYTES, "trailing_logs": 10},
    "store": {"dir": "data/{node}", "checkpoint_interval": "50ms"},
}

pytestmark = pytest.mark.slow


class Setting:
    """The cluster, and its third node's island."""

    def __init__(self, cluster: Cluster, ports: Ports) -> None:
        self.cluster = cluster
        self.island = Island(cluster, ports, VICTIM)
        self.others = [name for name in cluster.names if name != VICTIM]
        self.last = 0

    def servers(self, *names: str) -> list[str]:
        return [self.cluster.address(name) for name in names]

    async def fill(self, count: int = MESSAGES) -> None:
        """Publish to channel ``foo`` through the others until the journal has lost its beginning."""
        async with connect(self.servers(*self.others), self.cluster.cluster_id, "filler") as client:
            self.last = await publish(client, "foo", self.last + 1, count)

    def are_trimmed(self) -> bool:
        """Neither of the others still has what the third node needs."""
        behind = self.cluster.page(VICTIM, "/raftz")["last_index"]
        return all(self.cluster.page(name, "/raftz")["first_index"] > behind + 1 for name in self.others)

    def let_victim_follow(self) -> None:
        """If the third node leads, let another: it is killed and comes back."""
        while self.cluster.leader() == VICTIM:
            self.cluster.kill(VICTIM)
            self.cluster.wait_ready()
            self.cluster.start(VICTIM)
            self.cluster.wait_ready()

    def installed(self) -> int:
        """How many snapshots the third node says it has installed."""
        return self.cluster.log(VICTIM).read_text().count("installed a snapshot")

    def check(self) -> None:
        """All nodes hold the same, and the third tells all of it to a client."""
        assert self.cluster.wait_same("foo")["last_seq"] == self.last
        where = self.cluster.address(VICTIM)
        told = trio.run(replay, where, self.cluster.cluster_id, "reader", "foo", self.last)
        assert [(seq, int(data[:8])) for seq, data in told] == [(n, n) for n in range(1, self.last + 1)]


async def publish(client: Client, channel: str, first: int, count: int) -> int:
    """Publish numbered messages without waiting between them. Returns the last number."""
    left, done = count, trio.Event()

    def answered(error: str) -> None:
        nonlocal left
        assert not error
        left -= 1
        if not left:
            done.set()

    for n in range(first, first + count):
        client.publish_async(channel, b"%08d" % n + bytes(PAYLOAD_BYTES), answered)
    with trio.fail_after(20):
        await done.wait()
    return first + count - 1


@pytest.fixture
def setting(make_cluster: MakeCluster, ports: Ports) -> Iterator[Setting]:
    setting = Setting(make_cluster(settings=SETTINGS), ports)
    setting.cluster.start()
    setting.cluster.wait_ready()
    setting.let_victim_follow()
    yield setting
    setting.island.close()


def test_node_that_was_away_gets_a_snapshot_and_can_lead(setting: Setting) -> None:
    """It has everything, serves it, and leads when it is the only one that can."""
    cluster = setting.cluster
    cluster.kill(VICTIM)
    trio.run(setting.fill)
    cluster.start(VICTIM)
    cluster.wait_ready()
    assert setting.installed() == 1
    setting.check()
    # The other follower is away until the leader is dead: only the third can be elected.
    leader = cluster.leader()
    absent = next(name for name in setting.others if name != leader)
    cluster.kill(absent)
    trio.run(publish_one, setting, leader)
    until("the third node has it", lambda: cluster.channel(VICTIM, "foo")["last_seq"] == setting.last)
    cluster.kill(leader)
    cluster.start(absent)
    assert cluster.leader() == VICTIM
    cluster.start(leader)
    cluster.wait_ready()
    trio.run(setting.fill, 10)
    setting.check()


async def publish_one(setting: Setting, name: str) -> None:
    async with connect(setting.servers(name), setting.cluster.cluster_id, "one") as client:
        setting.last = await publish(client, "foo", setting.last + 1, 1)


def test_clients_of_a_node_that_was_cut_off(setting: Setting) -> None:
    """They are sent what was assigned to them in the entries that the snapshot skipped, and what follows."""
    trio.run(_clients_of_a_node_that_was_cut_off, setting)
    setting.check()


async def _clients_of_a_node_that_was_cut_off(setting: Setting) -> None:
    cluster, inbox = setting.cluster, Inbox()
    async with connect(setting.servers(VICTIM), cluster.cluster_id, "islander") as client:
        sub = await client.subscribe("bar", inbox, manual_ack=True, max_in_flight=5, durable="d")
        async with connect(setting.servers(*setting.others), cluster.cluster_id, "mainlander") as other:
            await other.publish("bar", b"1")
            await inbox.wait(1)
            setting.island.cut()
            for n in range(2, 9):
                await other.publish("bar", b"%d" % n)
            await setting.fill()
            await trio.to_thread.run_sync(
                until, "journals without what the third node needs", setting.are_trimmed
            )
            setting.island.heal()
            await inbox.wait(5)
            assert setting.installed() == 1
            for seq in range(1, 6):
                sub.ack(seq)
            await inbox.until("all of them", lambda: set(inbox.seqs) == set(range(1, 9)))
            assert list(dict.fromkeys(inbox.seqs)) == list(range(1, 9)), "in order"
            seen: set[int] = set()
            for message in inbox.messages:
                assert message.redelivered or message.seq not in seen, f"{message.seq} came twice, unflagged"
                seen.add(message.seq)


def test_killed_in_the_middle_of_the_transfer(setting: Setting) -> None:
    """The receiver goes on where it was; when the sender dies another sends its own."""
    cluster, relays = setting.cluster, setting.island.relays
    cluster.kill(VICTIM)
    trio.run(setting.fill)
    relays[VICTIM].hold_snapshots(after=600 * 1024)
    cluster.start(VICTIM)
    assert relays[VICTIM].holding.wait(30), "no snapshot was sent"
    parts = cluster.data(VICTIM) / "received"
    until("a part", lambda: any(part.stat().st_size for part in parts.glob("*.part/data.mdb")))
    cluster.kill(VICTIM)
    relays[VICTIM].release()
    relays[VICTIM].hold_snapshots(after=900 * 1024)
    cluster.start(VICTIM)
    assert relays[VICTIM].holding.wait(30), "no snapshot was sent again"
    leader = cluster.leader()
    cluster.kill(leader)
    relays[VICTIM].release()
    cluster.wait_ready()
    cluster.start(leader)
    cluster.wait_ready()
    setting.check()


def test_killed_while_it_installs(setting: Setting) -> None:
    """Whatever moment it was killed at: it is the old node or the new one."""
    cluster = setting.cluster
    received = cluster.data(VICTIM) / "received"
    for _ in range(2):
        cluster.kill(VICTIM)
        trio.run(setting.fill)
        cluster.start(VICTIM)
        before = setting.installed()
        until("the snapshot", lambda: is_whole(received) or setting.installed() > before, timeout_s=30)  # noqa: B023
        cluster.kill(VICTIM)
        cluster.start(VICTIM)
        cluster.wait_ready()
    setting.check()


def is_whole(received: Path) -> bool:
    return received.exists() and any(path.suffix != ".part" for path in received.iterdir())


def test_killed_between_store_and_journal(setting: Setting) -> None:
    """The store is the snapshot's, the journal still the old one: it begins anew behind the store."""
    cluster = setting.cluster
    cluster.kill(VICTIM)
    journal = cluster.data(VICTIM) / "journal"
    kept = shutil.copytree(journal, cluster.folder / "kept")
    trio.run(setting.fill)
    setting.island.relays[VICTIM].hold_snapshots(after=600 * 1024)
    cluster.start(VICTIM)
    assert setting.island.relays[VICTIM].holding.wait(30), "no snapshot was sent"
    setting.island.cut(snapshots=False)  # so that nobody hears that it has anything
    setting.island.relays[VICTIM].release()
    until("the snapshot's installation", lambda: setting.installed() == 1)
    cluster.kill(VICTIM)
    shutil.rmtree(journal)
    kept.rename(journal)
    setting.island.heal()
    cluster.start(VICTIM)
    cluster.wait_ready()
    assert "behind the store's snapshot" in cluster.tail(VICTIM)
    trio.run(setting.fill, 10)
    setting.check()
