"""Nodes that come back: with all they had, with a torn journal, with a damaged one, or asked to leave."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.load import replay

from node.client.streaming import connect
from node.raft.disk import RealDisk
from node.raft.journal import Journal
from node.raft.records import RECORD_BYTES, Kind
from node.raft.segments import Segment, segment_number

HEADER_BYTES = 4096  # in front of a segment of the journal

pytestmark = pytest.mark.slow


async def publish(cluster: Cluster, channel: str, first: int, last: int) -> None:
    async with connect(cluster.addresses(), cluster.cluster_id, f"publisher-{first}") as client:
        for n in range(first, last + 1):
            await client.publish(channel, b"%d" % n)


def check_channel(cluster: Cluster, channel: str, last: int) -> None:
    """All nodes say the same of the channel, and each has its messages."""
    assert cluster.wait_same(channel)["last_seq"] == last
    expected = [(n, b"%d" % n) for n in range(1, last + 1)]
    for name in cluster.running:
        told = trio.run(replay, cluster.address(name), cluster.cluster_id, f"reader-{name}", channel, last)
        assert told == expected


@pytest.fixture
def mine(make_cluster: MakeCluster) -> Cluster:
    """Three nodes with a channel of 200 messages; their disks may be spoiled.

    No checkpoint comes in between: what a node's store has, its journal may lose without harm.
    """
    cluster = make_cluster()
    cluster.options = {name: ["--set", "store.checkpoint_interval=30s"] for name in cluster.names}
    cluster.start()
    cluster.wait_ready()
    trio.run(publish, cluster, "foo", 1, 200)
    cluster.wait_same("foo")
    return cluster


def written(cluster: Cluster, name: str) -> tuple[Path, int]:
    """The newest segment of a node's journal, and where in it the last record ends.

    There the next flush begins, and a seal may lie that says so.
    """
    folder = cluster.data(name) / "journal"
    path = max(folder.glob("segment-*.log"))
    number = segment_number(path.name)
    assert number is not None
    segment = Segment.open(RealDisk(folder), number)
    try:
        return path, max(
            offset + RECORD_BYTES + len(record.payload)
            for offset, record in segment.records()
            if record.kind != Kind.SEGMENT_END
        )
    finally:
        segment.close()


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_torn_end_is_cut_and_fetched_again(mine: Cluster) -> None:
    """RST-11. As a power cut leaves it: behind what was promised a record that is not whole."""
    victim = mine.follower()
    mine.kill(victim)
    segment, end = written(mine, victim)
    first_record = segment.read_bytes()[HEADER_BYTES:end]
    overwrite(segment, end, first_record[:4] + os.urandom(100) + b"\x01")  # the marker, and no more
    trio.run(publish, mine, "foo", 201, 220)
    mine.start(victim)
    mine.wait_ready()
    assert "105 bytes" in mine.tail(victim), "the log says what was cut"
    check_channel(mine, "foo", 220)


def test_what_was_promised_and_is_gone_keeps_a_node_out(mine: Cluster) -> None:
    """Its disk has lost what the others count on: it isn't trusted again, they go on without it."""
    victim, leader = mine.follower(), mine.leader()
    mine.kill(victim)
    segment, end = written(mine, victim)
    overwrite(segment, end - 20, bytes(20 + RECORD_BYTES))  # and the seal, or it would be known for damage
    mine.start(victim)
    until("the leader to say so", lambda: f"{victim} acknowledged entry" in mine.tail(leader))
    assert mine.get(victim, "/healthz")[0] != 200
    trio.run(publish, mine, "foo", 201, 210)


def test_damage_in_the_middle_is_refused(mine: Cluster) -> None:
    """Bytes that were synced and have changed: the node says where and what to do, and does not start."""
    victim = mine.follower()
    mine.kill(victim)
    segment, end = written(mine, victim)
    middle = HEADER_BYTES + (end - HEADER_BYTES) // 2
    overwrite(segment, middle, bytes(byte ^ 0xFF for byte in segment.read_bytes()[middle : middle + 1]))
    mine.start(victim)
    assert mine.children[victim].wait(10) == 1
    said = mine.tail(victim)
    assert segment.name in said
    assert "damage" in said
    assert "replace" in said, "the message says what to do"
    trio.run(publish, mine, "foo", 201, 210)
    assert mine.wait_same("foo")["last_seq"] == 210


def test_node_that_lost_its_disk_does_not_join_by_itself(mine: Cluster) -> None:
    """Empty, it could vote away what it once promised: an operator has to replace it."""
    victim = mine.follower()
    mine.kill(victim)
    subprocess.run(["rm", "-r", str(mine.data(victim))], check=True)
    mine.start(victim)
    assert mine.children[victim].wait(10) != 0
    assert "replace" in mine.tail(victim)
    trio.run(publish, mine, "foo", 201, 210)


def test_whole_cluster_comes_back_with_everything(mine: Cluster) -> None:
    for name in mine.names:
        mine.kill(name)
    mine.start()
    mine.wait_ready()
    trio.run(publish, mine, "foo", 201, 210)
    check_channel(mine, "foo", 210)


def test_single_node_comes_back_with_everything(single: Cluster) -> None:
    trio.run(publish, single, "foo", 1, 100)
    single.kill("n1")
    single.start()
    single.wait_ready()
    trio.run(publish, single, "foo", 101, 110)
    check_channel(single, "foo", 110)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_node_that_is_asked_leaves_at_once(cluster: Cluster, role: str, number: signal.Signals) -> None:
    """Exit code 0 within five seconds; the others have a leader."""
    name = cluster.leader() if role == "leader" else cluster.follower()
    term = cluster.page(name, "/raftz")["term"]
    cluster.ask_to_stop(name, number)
    assert cluster.children[name].wait(5) == 0
    cluster.wait_ready()
    leader = cluster.leader(timeout_s=5)
    if role == "follower":
        assert cluster.page(leader, "/raftz")["term"] == term


def test_paused_leader_returns_as_a_follower(cluster: Cluster, unique: str) -> None:
    """SIGSTOP: the others go on; woken, it follows, and has what it missed."""
    leader = cluster.leader()
    cluster.pause(leader)
    others = [name for name in cluster.names if name != leader]
    until("another leader", lambda: cluster.ready_leader(among=others))
    try:
        trio.run(publish_to, cluster, others, unique)
    finally:
        cluster.resume(leader)
    cluster.wait_ready()
    assert cluster.leader() != leader
    assert cluster.wait_same(unique)["last_seq"] == 20


async def publish_to(cluster: Cluster, names: list[str], channel: str) -> None:
    servers = [cluster.address(name) for name in names]
    async with connect(servers, cluster.cluster_id, f"publisher-{channel}") as client:
        for n in range(20):
            await client.publish(channel, b"%d" % n)


def test_config_with_mistakes_is_refused_with_all_of_them(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(
        "cluster:\n"
        "  nodes:\n"
        "    n1: {client: 127.0.0.1:99999}\n"
        "raft: {heartbeat: soon}\n"
        "limits: {max_msgs: -1, max_mesages: 5}\n"
    )
    command = [str(STANCHION), "node", "--config", str(config), "--name", "n1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    said = done.stderr.splitlines()
    for line, mistake in ((3, "99999"), (4, "soon"), (5, "-1"), (5, "max_mesages")):
        assert any(f"{config.name}:{line}:" in text and mistake in text for text in said), said


def test_directories_in_the_last_term_of_an_earlier_release_are_usable(mine: Cluster) -> None:
    """One frame with the term 2**63 - 1 did that to a whole cluster, and no restart helped."""
    poisoned = (1 << 63) - 1
    for name in mine.names:
        mine.kill(name)
    for name in mine.names:
        journal = Journal.open(RealDisk(mine.data(name) / "journal"))
        journal.set_term(poisoned, None)
        flush = journal.begin_flush()
        assert flush is not None
        flush.run()
        journal.end_flush(flush)
        journal.close()
    mine.start()
    mine.wait_ready()
    trio.run(publish, mine, "foo", 201, 300)
    leader = mine.leader()
    assert mine.page(leader, "/raftz")["term"] > poisoned
    mine.kill(leader)
    trio.run(publish, mine, "foo", 301, 400)
    mine.start()
    mine.wait_ready()
    check_channel(mine, "foo", 400)
