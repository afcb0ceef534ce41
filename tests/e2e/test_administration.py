"""Operators look at a real cluster and change it, at the leader, at a follower, and while nodes die."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.wire import Wire

from node.client import Client, Message, connect

pytestmark = pytest.mark.slow

Told = tuple[int, int]
"""A sequence and its redelivery count."""


class Heard:
    """What a subscription was sent, acknowledged at once."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self._more = trio.Event()

    def __call__(self, message: Message) -> None:
        self.told.append((message.seq, message.redelivery_count))
        message.ack()
        self._more.set()
        self._more = trio.Event()

    async def take(self, *expected: Told) -> None:
        """Wait until that has come, and see that nothing else has."""
        with trio.move_on_after(15):
            while len(self.told) < len(expected):
                await self._more.wait()
        assert self.told == [*expected]
        self.told.clear()


def new(*seqs: int) -> list[Told]:
    return [(seq, 0) for seq in seqs]


def again(*seqs: int) -> list[Told]:
    return [(seq, 1) for seq in seqs]


def run(cluster: Cluster, node: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, asking this node and no other."""
    command = [str(STANCHION), *words, "--server", cluster.address(node), "--cluster", cluster.cluster_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


async def admin(cluster: Cluster, node: str, *words: str) -> Any:
    """What a node answers."""
    done = await trio.to_thread.run_sync(run, cluster, node, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def unacked(cluster: Cluster, node: str, number: str) -> int:
    """How many messages a subscription holds, as a node has it."""
    count: int = json.loads(run(cluster, node, "sub", "info", number, "--json").stdout)["unacked"]
    return count


async def refused(cluster: Cluster, node: str, *words: str) -> str:
    """What the command line says when it fails."""
    done = await trio.to_thread.run_sync(run, cluster, node, *words)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


async def publish(client: Client, channel: str, count: int) -> None:
    for _ in range(count):
        await client.publish(channel, b"x")


async def kill_leader(cluster: Cluster) -> tuple[str, str]:
    """kill -9; who led, and who does now."""
    dead = cluster.leader()
    cluster.kill(dead)
    return dead, await trio.to_thread.run_sync(cluster.leader)


async def test_a_durable_is_paused_moved_and_removed(cluster: Cluster, unique: str) -> None:
    """At any node, and the pause is there whoever leads; moved back, what it had before says so."""
    leader, follower = cluster.leader(), cluster.follower()
    channel = f"admin.{unique}"
    named = ("--channel", channel, "--durable", "d")
    received, witness = Heard(), Heard()
    async with connect(cluster.addresses(follower), cluster.cluster_id, f"{unique}-me") as client:
        await client.subscribe(channel, received, durable="d", manual_ack=True)
        await client.subscribe(channel, witness, manual_ack=True)
        await publish(client, channel, 5)
        await received.take(*new(1, 2, 3, 4, 5))
        (shown, _) = (await admin(cluster, leader, "sub", "ls", "--channel", channel))["subscriptions"]
        assert (shown["durable"], shown["cursor"], shown["online"]) == ("d", 5, True)
        number = str(shown["id"])

        assert (await admin(cluster, follower, "sub", "pause", *named))["paused"]
        dead, leader = await kill_leader(cluster)
        await publish(client, channel, 2)
        await witness.take(*new(1, 2, 3, 4, 5, 6, 7))
        await received.take()
        assert (await admin(cluster, leader, "subscription", "info", number))["behind"] == 2
        assert not (await admin(cluster, follower, "sub", "resume", number))["paused"]
        await received.take(*new(6, 7))

        cluster.start(dead)
        await trio.to_thread.run_sync(cluster.wait_ready)
        until(
            "its acks", lambda: run(cluster, dead, "sub", "info", number).stdout.count("\nunacked        0\n")
        )
        assert (await admin(cluster, dead, "sub", "seek", number, "--to", "seq:4"))["id"] == int(number)
        await received.take(*again(4, 5, 6, 7))
        await publish(client, channel, 1)
        await received.take(*new(8))

        assert "1 online subscription would end" in await refused(cluster, follower, "sub", "rm", number)
        await admin(cluster, follower, "sub", "rm", number, "--force")
        assert "there is no subscription with id" in await refused(cluster, follower, "sub", "info", number)
    await trio.to_thread.run_sync(cluster.wait_same, channel)


async def test_a_channel_is_read_purged_and_removed(cluster: Cluster, unique: str) -> None:
    """What a follower was asked for survives the leader; made again, the channel starts at 1."""
    leader, follower = cluster.leader(), cluster.follower()
    channel = f"admin.{unique}"
    received = Heard()
    async with connect(cluster.addresses(follower), cluster.cluster_id, f"{unique}-me") as client:
        await client.subscribe(channel, received, manual_ack=True)
        await publish(client, channel, 6)
        await received.take(*new(1, 2, 3, 4, 5, 6))
        purged = await admin(cluster, follower, "channel", "purge", channel, "--up-to", "4")
        assert (purged["first"], purged["last"], purged["messages"]) == (5, 6, 2)
        dead, leader = await kill_leader(cluster)
        for node in (leader, follower):
            seen = await admin(cluster, node, "channel", "peek", channel)
            assert [message["seq"] for message in seen["messages"]] == [5, 6]
        assert "1 online subscription would end" in await refused(cluster, leader, "channel", "rm", channel)
        await admin(cluster, leader, "channel", "rm", channel, "--force")
        assert "there is no channel" in await refused(cluster, follower, "channel", "info", channel)
        await client.subscribe(channel, received, manual_ack=True)
        await publish(client, channel, 1)
        await received.take(*new(1))
        cluster.start(dead)
        await trio.to_thread.run_sync(cluster.wait_ready)
        seen = await admin(cluster, dead, "channel", "peek", channel)
        assert [(message["seq"], message["data"]) for message in seen["messages"]] == [(1, "x")]
    assert (await trio.to_thread.run_sync(cluster.wait_same, channel))["last_seq"] == 1


async def test_a_kicked_client_learns_of_it(cluster: Cluster, unique: str) -> None:
    """By its next ping; its durable keeps its place, and its ID is free again."""
    leader, follower = cluster.leader(), cluster.follower()
    name = f"{unique}-me"
    async with connect(cluster.addresses(leader), cluster.cluster_id, name) as client:
        await client.subscribe(f"admin.{unique}", Heard(), durable="d")
        assert (await admin(cluster, follower, "client", "info", name))["subscriptions"] == 1
        await admin(cluster, follower, "client", "kick", name)
        with trio.fail_after(15):
            await client.ended.wait()
        assert "no longer registered" in str(client.lost)
    assert name in await refused(cluster, leader, "client", "kick", name)
    (durable,) = (await admin(cluster, leader, "sub", "ls", "--client", name))["subscriptions"]
    assert (durable["online"], durable["durable"]) == (False, "d")


def test_limits_are_applied_to_the_whole_cluster(make_cluster: MakeCluster) -> None:
    """R23: first shown, then applied at once on what is stored, and kept by whoever leads next."""
    cluster = make_cluster()
    cluster.start()
    cluster.wait_ready()
    assert run(cluster, "n1", "pub", "foo", "x", "--count", "9").returncode == 0
    wanted = ("config", "apply", str(cluster.config), "--set", "limits.max_msgs=4")
    follower = cluster.follower()

    def applied(node: str, *words: str) -> list[str]:
        done = run(cluster, node, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    change = "max_msgs: 1000000 -> 4"
    assert applied(follower, *wanted, "--dry-run") == [change, "not applied: this was a dry run"]
    assert cluster.channel(follower, "foo")["msgs"] == 9
    assert applied(follower, *wanted) == [change, "applied"]
    cluster.kill(cluster.leader())
    assert applied(cluster.leader(), *wanted) == ["no changes: the cluster already has these settings"]
    assert cluster.channel(cluster.leader(), "foo")["msgs"] == 4
    done = run(cluster, follower, *wanted[:-1], "limits.max_msgs=-4")
    assert (done.returncode, done.stdout) == (2, "")


def test_what_nobody_waits_for_any_more_is_not_done(make_cluster: MakeCluster) -> None:
    """R8: asked for while nobody led, and given up; when there is a leader again it stays undone."""
    cluster = make_cluster()
    cluster.start()
    cluster.wait_ready()
    durable = ("foo", "--durable", "d", "--start", "first", "--count", "1")
    assert run(cluster, "n1", "pub", "foo", "x").returncode == 0
    assert run(cluster, "n1", "sub", *durable).returncode == 0
    alone = cluster.follower()
    others = [name for name in cluster.names if name != alone]
    for name in others:
        cluster.pause(name)
    done = run(cluster, alone, "sub", "pause", "--durable", "d", "--timeout", "1")
    assert (done.returncode, done.stdout) == (1, "")
    for name in others:
        cluster.resume(name)
    cluster.wait_ready()
    assert run(cluster, alone, "channel", "purge", "foo").returncode == 0  # behind it in the same session
    shown = json.loads(run(cluster, alone, "sub", "info", "--durable", "d", "--json").stdout)
    assert (shown["paused"], shown["behind"]) == (False, 0)


def test_only_an_operator_may_ask(cluster: Cluster, tmp_path: Path) -> None:
    """Being on the node's machine is no credential: a proxy there makes all its clients local."""
    name = cluster.names[0]
    with Wire(cluster.ports[name]["client"]) as wire:
        wire.hello()
        answer = json.loads(wire.ask(f"_STANCHION.admin.{cluster.cluster_id}.channel.ls", b"{}"))
        assert "administration needs the operator token" in answer["error"]

    def ask(*words: str, token: str = "") -> subprocess.CompletedProcess[str]:
        """As a user without a state directory of their own."""
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "STANCHION_CLIENT_TOKEN": token}
        command = [str(STANCHION), "channel", "ls", *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=environment
        )

    directly = ("--server", cluster.address(name), "--cluster", cluster.cluster_id)
    assert "has shown none" in ask(*directly).stderr
    assert "has shown none" in ask(*directly, token="guessed").stderr
    file = cluster.data(name) / "operator.token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert ask(*directly, token=file.read_text().strip()).returncode == 0
    assert ask("--config", str(cluster.config)).returncode == 0
