"""Unacked messages across a leader's death: when they come again, to whom, and how they are marked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
from e2e.harness import Cluster, until
from e2e.load import abandoned

from node.client.streaming import Client, Message, connect
from node.protocol.positions import StartPosition

EARLY_S = 0.25
LATE_S = 2.5  # less than what a timer that starts again at the kill would be late by

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class Inbox:
    """What came in on a subscription, and a way to wait for more."""

    messages: list[Message] = field(default_factory=list)
    _changed: trio.Event = field(default_factory=trio.Event)

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()
        self._changed = trio.Event()

    @property
    def seqs(self) -> list[int]:
        return [message.seq for message in self.messages]

    async def wait(self, count: int, timeout_s: float = 15.0) -> list[Message]:
        """The messages once there are ``count``."""
        return await self.until(f"{count} messages", lambda: len(self.messages) >= count, timeout_s)

    async def until(self, what: str, check: Callable[[], bool], timeout_s: float = 15.0) -> list[Message]:
        with trio.move_on_after(timeout_s):
            while not check():
                await self._changed.wait()
        seen = [(message.seq, message.redelivery_count) for message in self.messages]
        assert check(), f"not within {timeout_s:g} s: {what}; came (seq, count): {seen}"
        return self.messages


async def publish(client: Client, channel: str, first: int, last: int) -> None:
    for n in range(first, last + 1):
        await client.publish(channel, f"m{n}".encode())


async def kill_leader(cluster: Cluster) -> float:
    """Kill it, and wait until another is ready; the moment when it was."""
    cluster.kill(await trio.to_thread.run_sync(cluster.leader))
    await trio.to_thread.run_sync(cluster.leader)
    return trio.current_time()


@pytest.mark.alone
async def test_ack_wait_goes_on_across_the_leaders_death(cluster: Cluster, unique: str) -> None:
    """1 s, 5 s and 30 s: redelivered when due as their client reckons, flagged, the count going on."""
    server = cluster.address(await trio.to_thread.run_sync(cluster.follower))
    inboxes = {ack_wait_s: Inbox() for ack_wait_s in (1, 5, 30)}
    async with connect([server], cluster.cluster_id, unique) as client:
        for ack_wait_s, inbox in inboxes.items():
            await client.subscribe(f"{unique}.{ack_wait_s}", inbox, ack_wait_s=ack_wait_s, manual_ack=True)
            await publish(client, f"{unique}.{ack_wait_s}", 1, 3)
        await inboxes[1].wait(9)  # three came twice: two seconds have passed
        ready_s = await kill_leader(cluster)
        assert not [message for message in inboxes[5].messages if message.redelivered]
        for ack_wait_s, inbox in inboxes.items():
            repeats = {1: 4, 5: 2, 30: 1}[ack_wait_s]
            messages = await inbox.wait(3 * (1 + repeats), timeout_s=40)
            for seq in (1, 2, 3):
                mine = [message for message in messages if message.seq == seq]
                check_repeats(mine, ack_wait_s, ready_s)


def check_repeats(messages: list[Message], ack_wait_s: int, ready_s: float) -> None:
    """One sequence's deliveries: counted on without a gap, each an AckWait behind the last."""
    assert [message.redelivery_count for message in messages] == list(range(len(messages)))
    assert [message.redelivered for message in messages] == [False] + [True] * (len(messages) - 1)
    for earlier, later in pairwise(messages):
        due_s = earlier.received_s + ack_wait_s
        was_gap = due_s < ready_s < later.received_s
        late_s = later.received_s - (ready_s if was_gap else due_s)
        assert later.received_s > due_s - EARLY_S, f"{due_s - later.received_s:.3f} s early"
        assert late_s < LATE_S, f"{late_s:.3f} s late"


async def test_closing_member_leaves_its_messages_to_the_others(cluster: Cluster, unique: str) -> None:
    """At once, in order, flagged; not after the AckWait."""
    staying, leaving = Inbox(), Inbox()
    async with connect(cluster.addresses("n1"), cluster.cluster_id, f"{unique}-a") as a:
        async with connect(cluster.addresses("n2"), cluster.cluster_id, f"{unique}-b") as b:
            sub = await b.subscribe(unique, leaving, queue="q", manual_ack=True)
            await publish(a, unique, 1, 6)
            await leaving.wait(6)
            await a.subscribe(unique, staying, queue="q", manual_ack=True)
            await sub.close()
            messages = await staying.wait(6, timeout_s=5)
        assert [message.seq for message in messages] == [1, 2, 3, 4, 5, 6]
        assert {message.redelivery_count for message in messages} == {1}


@pytest.mark.parametrize("leader_dies", [False, True], ids=["alone", "with-the-leader"])
@pytest.mark.parametrize("at", ["leader", "follower"])
async def test_dead_members_messages_go_to_the_others(
    cluster: Cluster, unique: str, at: str, leader_dies: bool
) -> None:
    """Its sockets close without a word, perhaps as the leader dies: the others get what it held."""
    leader = await trio.to_thread.run_sync(cluster.leader)
    follower = await trio.to_thread.run_sync(cluster.follower)
    survivor = next(name for name in cluster.names if name not in (leader, follower))
    staying, dying = Inbox(), Inbox()
    async with connect([cluster.address(survivor)], cluster.cluster_id, f"{unique}-a") as a:
        servers = [cluster.address(leader if at == "leader" else follower)]
        async with abandoned(servers, cluster.cluster_id, f"{unique}-b") as b:
            await b.subscribe(unique, dying, queue="q", manual_ack=True)
            await publish(a, unique, 1, 6)
            await dying.wait(6)
            await a.subscribe(unique, staying, queue="q", manual_ack=True)
            if leader_dies:
                cluster.kill(leader)
        messages = await staying.wait(6, timeout_s=10)
        assert [message.seq for message in messages] == [1, 2, 3, 4, 5, 6]
        assert all(message.redelivered for message in messages)
        for message in messages:
            message.ack()
        await publish(a, unique, 7, 8)
        await staying.until("new messages", lambda: staying.seqs[6:] == [7, 8])


async def test_cold_start_brings_unacked_messages_first(cluster: Cluster, unique: str) -> None:
    """All three nodes die. What was unacked comes first, flagged; then what is new."""
    inbox = Inbox()
    async with connect(cluster.addresses(), cluster.cluster_id, unique) as client:
        sub = await client.subscribe(
            unique, inbox, durable="d", manual_ack=True, max_in_flight=5, start=StartPosition.FIRST
        )
        await publish(client, unique, 1, 8)
        messages = await inbox.wait(5)
        sub.ack(2)
        await inbox.wait(6)
        assert inbox.seqs == [1, 2, 3, 4, 5, 6]
        await client.nats.flush()
        await trio.to_thread.run_sync(_wait_pending, cluster, unique, 5)
        for name in cluster.names:
            cluster.kill(name)
        cluster.start()
        await trio.to_thread.run_sync(cluster.wait_ready)
        messages = (await inbox.wait(11))[6:]
        assert [message.seq for message in messages] == [1, 3, 4, 5, 6]
        assert [message.redelivery_count for message in messages] == [1] * 5
        for message in messages:
            message.ack()
        await inbox.until("the new ones", lambda: inbox.seqs[11:] == [7, 8])
        assert not any(message.redelivered for message in inbox.messages[11:])


def _wait_pending(cluster: Cluster, channel: str, count: int) -> None:
    def pending() -> bool:
        subs = [sub for name in cluster.names for sub in cluster.channel(name, channel)["subscriptions"]]
        return all(sub["pending_count"] == count for sub in subs)

    until(f"{count} pending on all nodes", pending)
