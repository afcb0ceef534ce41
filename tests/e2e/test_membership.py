"""Nodes come and go while a cluster runs, and come back from what is left of one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.load import History, publish_for_ever, replay
from e2e.ports import Ports

from node.cli.administer import Cluster as Operators
from node.cli.administer import ask
from node.client.streaming import connect
from node.protocol.positions import StartPosition

RATE = 200
COMMAND_S = 40.0

pytestmark = pytest.mark.slow


def known(cluster: Cluster, ports: Ports, name: str) -> None:
    """Write a node into the cluster's file; those that run don't read it again."""
    cluster.ports[name] = {kind: ports.take() for kind in ("client", "peer", "http")}
    cluster.names.append(name)
    document = json.loads(cluster.config.read_text())
    document["cluster"]["nodes"][name] = {
        kind: f"127.0.0.1:{port}" for kind, port in cluster.ports[name].items()
    }
    cluster.config.write_text(json.dumps(document))


def command(cluster: Cluster, *words: str, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
    """Run ``stanchion cluster …`` against the cluster's file."""
    line = [str(STANCHION), "cluster", *words, "--config", str(cluster.config)]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False)


def done(cluster: Cluster, *words: str) -> str:
    """What it prints; it must succeed."""
    result = command(cluster, *words)
    assert result.returncode == 0, f"{words}: {result.stderr}{result.stdout}"
    return result.stdout.strip()


def roles(cluster: Cluster) -> dict[str, str]:
    """Everybody's role, as the leader says."""
    where = Operators(cluster.addresses(), cluster.cluster_id).as_operator()
    answer = trio.run(partial(ask, where, "cluster.members", {}, repeats=True))
    return {member["name"]: member["role"] for member in answer["members"]}


def ended(cluster: Cluster, name: str, code: int, timeout_s: float = 20.0) -> None:
    cluster.expect_end(name)
    assert cluster.children[name].wait(timeout_s) == code, cluster.tail(name)


async def publish(cluster: Cluster, channel: str, first: int, last: int, size: int = 0) -> None:
    async with connect(cluster.addresses(), cluster.cluster_id, f"publisher-{first}") as client:
        for n in range(first, last + 1):
            await client.publish(channel, b"%d" % n + b"." * size)


def messages(cluster: Cluster, name: str, channel: str, last: int) -> list[tuple[int, bytes]]:
    return trio.run(replay, cluster.address(name), cluster.cluster_id, f"reader-{name}", channel, last)


@pytest.fixture
def mine(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster()
    cluster.start()
    cluster.wait_ready()
    return cluster


async def test_a_node_is_added_under_load_and_votes(mine: Cluster, ports: Ports) -> None:
    """CLU-18: service goes on; it has all there is, and with it the cluster survives two others' death."""
    cluster = mine
    run = trio.to_thread.run_sync
    known(cluster, ports, "n4")
    history = History()
    servers = [cluster.address(name) for name in ("n1", "n2", "n3")]
    async with (
        connect(servers, cluster.cluster_id, "consumer") as consumer,
        connect(servers, cluster.cluster_id, "publisher") as publisher,
        trio.open_nursery() as nursery,
    ):
        await consumer.subscribe(
            "load", history.delivered, durable="d", start=StartPosition.FIRST, ack_wait_s=5
        )
        nursery.start_soon(publish_for_ever, publisher, history, "load", "p", RATE)
        await history.wait_acked(RATE)
        cluster.start("n4")
        said = await run(partial(done, cluster, "add", "n4"))
        assert said == "n4 votes"
        await history.wait_acked(RATE)
        assert (await run(roles, cluster))["n4"] == "voter"
        assert await run(partial(done, cluster, "add", "n4")) == "n4 is already a voting member"
        # Of four, three are a majority: without n4's vote the cluster would stand still now.
        leader = await run(cluster.leader)
        victim = next(name for name in ("n1", "n2", "n3") if name != leader)
        history.kills_s.append(trio.current_time())
        cluster.kill(victim)
        await history.wait_acked(RATE, timeout_s=20)
        history.kills_s.append(trio.current_time())
        cluster.kill(leader)
        cluster.start(victim)
        await history.wait_acked(RATE, timeout_s=20)
        nursery.cancel_scope.cancel()
    cluster.start(leader)
    await run(cluster.wait_ready)
    last = (await run(cluster.wait_same, "load"))["last_seq"]
    found = await replay(cluster.address("n4"), cluster.cluster_id, "reader", "load", last)
    assert {data for _, data in found} >= history.acked_s.keys()


def test_a_joining_node_behind_the_log_gets_a_snapshot(
    make_cluster: MakeCluster, ports: Ports, tmp_path: Path
) -> None:
    """CLU-14, CLU-18: it is a learner until it has it, also if it comes long after it was added.

    The snapshot is encrypted, and what opens it comes with it, as do the members.
    """
    (tmp_path / "phrase").write_text("nobody knows this one")
    store = {"dir": "data/{node}", "encryption": {"key_file": str(tmp_path / "phrase")}}
    raft = {"trailing_logs": 0, "journal_segment": "64KB"}
    cluster = make_cluster(settings={"raft": raft, "store": store})
    cluster.start()
    cluster.wait_ready()
    trio.run(publish, cluster, "foo", 1, 300)
    trio.run(publish, cluster, "big", 1, 100, 10_000)
    until("the beginning of the log is gone", lambda: cluster.page("n1", "/raftz")["first_index"] > 100)
    known(cluster, ports, "n4")
    assert "it votes once it has joined" in done(cluster, "add", "n4", "--no-wait")
    assert roles(cluster)["n4"] == "learner"
    cluster.start("n4")
    until("n4 votes", lambda: roles(cluster)["n4"] == "voter")
    cluster.wait_ready()
    cluster.wait_same("foo")
    assert "installed a snapshot" in cluster.log("n4").read_text()
    assert messages(cluster, "n4", "foo", 300) == [(n, b"%d" % n) for n in range(1, 301)]


def test_a_follower_and_then_the_leader_are_removed(mine: Cluster, ports: Ports) -> None:
    """CLU-18: each stops by itself, and is refused when it is started again; the others go on."""
    cluster = mine
    known(cluster, ports, "n4")
    cluster.start("n4")
    done(cluster, "add", "n4")
    trio.run(publish, cluster, "foo", 1, 50)
    follower = cluster.follower()
    assert done(cluster, "remove", follower) == f"{follower} is removed"
    ended(cluster, follower, 0)
    assert "removed this node from the cluster: stopping" in cluster.tail(follower)
    leader = cluster.leader()
    result = command(cluster, "remove", leader)
    assert result.stdout == f"{leader} is removed\n", result.stderr
    assert result.stderr.count("hands over first") <= 1, result.stderr
    ended(cluster, leader, 0)
    assert done(cluster, "remove", leader) == f"{leader} is not a member"
    trio.run(publish, cluster, "foo", 51, 100)
    assert sorted(roles(cluster).values()) == ["voter", "voter"]
    for name in (follower, leader):
        cluster.start(name)
        ended(cluster, name, 2)
        assert f"node {name} was removed from this cluster" in cluster.tail(name)
    before = roles(cluster)
    for name in before:
        cluster.kill(name)
    cluster.start(*before)
    cluster.wait_ready(before)
    assert roles(cluster) == before, "whatever the file says, which still names all four"
    trio.run(publish, cluster, "foo", 101, 110)


def test_what_would_stop_the_cluster_is_refused(mine: Cluster) -> None:
    cluster = mine
    dead, other = [name for name in cluster.names if name != cluster.leader()]
    cluster.kill(dead)
    until("the dead node is missed", lambda: "disconnected" in done(cluster, "members"))
    refused = command(cluster, "remove", other)
    assert refused.returncode == 1
    assert f"without {other} there are 2 voters" in refused.stderr
    assert done(cluster, "remove", dead) == f"{dead} is removed"
    left = [cluster.leader(), other]
    until("nobody serves it", lambda: all(dead not in str(cluster.page(n, "/raftz")["peers"]) for n in left))
    for _ in range(2):  # it was away, and its own log doesn't know; whoever refuses it says so
        cluster.start(dead)
        ended(cluster, dead, 0)
        assert "removed this node from the cluster: stopping" in cluster.tail(dead)


def test_a_lost_directory_is_replaced(mine: Cluster, ports: Ports) -> None:
    """Empty, the old name is refused; a new one comes in its place; or the same one, as a newcomer."""
    cluster = mine
    trio.run(publish, cluster, "foo", 1, 100)
    cluster.kill("n3")
    shutil.rmtree(cluster.data("n3"))
    cluster.start("n3")
    ended(cluster, "n3", 2)
    assert "stanchion cluster replace n3 NEW" in cluster.tail("n3")
    known(cluster, ports, "n4")
    cluster.start("n4")
    assert done(cluster, "replace", "n3", "n4") == "n3 is removed; n4 votes"
    assert roles(cluster) == {"n1": "voter", "n2": "voter", "n4": "voter"}
    assert messages(cluster, "n4", "foo", 100) == [(n, b"%d" % n) for n in range(1, 101)]
    cluster.names.remove("n3")
    running = command(cluster, "replace", "n2", "n2")
    assert running.returncode == 1
    assert "n2 is running, with its directory: stop it first" in running.stderr
    cluster.kill("n2")
    until("n2 is missed", lambda: "disconnected" in done(cluster, "members"))
    shutil.rmtree(cluster.data("n2"))
    line = [str(STANCHION), "cluster", "replace", "n2", "n2", "--config", str(cluster.config)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replacing:
        until("n2 is a learner", lambda: roles(cluster).get("n2") == "learner")
        cluster.start("n2")
        out, err = replacing.communicate(timeout=COMMAND_S)
    assert (replacing.returncode, out.strip()) == (0, "n2 is removed; n2 votes"), err
    cluster.wait_ready()
    cluster.wait_same("foo")
    # Its vote counts: with it and one more there is a majority of three.
    cluster.kill(cluster.leader() if cluster.leader() != "n2" else "n1")
    trio.run(publish, cluster, "foo", 101, 120)


def test_an_interrupted_addition_ends_one_way_or_the_other(mine: Cluster, ports: Ports) -> None:
    """The leader dies while a node is being added: the command goes on with the next, or may be repeated."""
    cluster = mine
    for round_ in range(2):
        name = f"n{4 + round_}"
        known(cluster, ports, name)
        leader = cluster.leader()
        line = [str(STANCHION), "cluster", "add", name, "--config", str(cluster.config)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as adding:
            assert adding.stderr is not None
            adding.stderr.readline()  # it has begun
            cluster.kill(leader)
            cluster.start(name)
            cluster.start(leader)
            out, err = adding.communicate(timeout=COMMAND_S)
        assert adding.returncode == 0, err
        assert out.strip().startswith(f"{name} ")
        assert done(cluster, "add", name) == f"{name} is already a voting member"
        cluster.wait_ready()
        trio.run(publish, cluster, "foo", 1 + 10 * round_, 10 + 10 * round_)
        done(cluster, "remove", name)
        ended(cluster, name, 0)
        cluster.names.remove(name)


def test_one_directory_of_three_becomes_a_cluster_of_its_own(mine: Cluster, ports: Ports) -> None:
    """A majority is lost for good: what one node has goes on, under another name, and grows again."""
    cluster = mine
    trio.run(publish, cluster, "foo", 1, 200)
    cluster.wait_same("foo")
    for name in cluster.names:
        cluster.kill(name)
    before = command(cluster, "recover", "--name", "n1", "--force-new")
    assert before.returncode == 1
    assert "the new cluster needs another ID" in before.stderr
    document = json.loads(cluster.config.read_text())
    document["cluster"]["id"] = cluster.cluster_id = "after"
    cluster.config.write_text(json.dumps(document))
    shutil.rmtree(cluster.data("n3"))
    assert "nothing was changed" in done(cluster, "recover", "--name", "n1", "--dry-run")
    said = done(cluster, "recover", "--name", "n1", "--force-new")
    assert "node n1 of cluster test-cluster has all entries up to" in said
    cluster.start("n1")
    cluster.wait_ready(["n1"])
    assert messages(cluster, "n1", "foo", 200) == [(n, b"%d" % n) for n in range(1, 201)]
    cluster.start("n2")  # with what it had: another cluster's
    ended(cluster, "n2", 2)
    assert "belongs to cluster 'test-cluster'" in cluster.tail("n2")
    shutil.rmtree(cluster.data("n2"))
    cluster.start("n2", "n3")
    assert done(cluster, "add", "n2") == "n2 votes"
    assert done(cluster, "add", "n3") == "n3 votes"
    assert roles(cluster) == {"n1": "voter", "n2": "voter", "n3": "voter"}
    trio.run(publish, cluster, "foo", 201, 210)
    cluster.ask_to_stop("n1", signal.SIGTERM)
    cluster.children["n1"].wait(15)
    trio.run(publish, cluster, "foo", 211, 220)
    cluster.start("n1")
    cluster.wait_ready()
    assert cluster.wait_same("foo")["last_seq"] == 220


def test_the_go_servers_requests(make_cluster: MakeCluster, ports: Ports) -> None:
    """CLU-18: a node's name as plain text, +OK or -ERR; nobody answers unless that is switched on."""
    cluster = make_cluster()
    document: Any = json.loads(cluster.config.read_text())
    document["cluster"]["allow_add_remove_node"] = True
    cluster.config.write_text(json.dumps(document))
    cluster.start()
    cluster.wait_ready()
    known(cluster, ports, "n4")
    cluster.names.remove("n4")
    for name in cluster.names:  # so that they know where it is; that makes it no member
        cluster.ask_to_stop(name)
        cluster.children[name].wait(15)
        cluster.start(name)
        cluster.wait_ready()
    assert sorted(roles(cluster)) == ["n1", "n2", "n3"]

    async def ask(what: str, name: bytes) -> bytes:
        async with connect(cluster.addresses(), cluster.cluster_id, "operator") as client:
            with trio.fail_after(15):
                return await client.nats.request(
                    f"_STAN.raft.{cluster.cluster_id}.node.{what}".encode(), name
                )

    assert trio.run(ask, "add", b"") == b'-ERR adding node "": invalid node ID'
    assert trio.run(ask, "remove", b"nobody") == b"+OK"
    assert trio.run(ask, "add", b"n9").startswith(b'-ERR adding node "n9": ')
    assert trio.run(ask, "add", b"n4") == b"+OK"
    leader = cluster.leader()  # which has never heard n4: its pages say so, and don't fail
    (unheard,) = (each for each in cluster.page(leader, "/raftz")["peers"] if each["node_id"] == "n4")
    assert (unheard["is_connected"], unheard["last_contact_ms"]) == (False, None)
    assert cluster.page(leader, "/streaming/serverz")["role"] == "Leader"
    cluster.names.append("n4")
    cluster.start("n4")
    until("n4 votes", lambda: roles(cluster)["n4"] == "voter")
    assert trio.run(ask, "remove", b"n4") == b"+OK"
    ended(cluster, "n4", 0)
