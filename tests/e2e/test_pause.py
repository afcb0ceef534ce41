"""A node that stands still for a while: what it has missed is applied before anything is delivered.

Its clients stay connected, for their sockets live on in the kernel. When it runs again, what was
assigned to them meanwhile may have been redelivered to others, and acknowledged: none of that may
reach them. What lay in the node's own buffers at the moment it stopped is not promised (and excused).
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import trio
from e2e.harness import Cluster
from e2e.load import History, publish_for_ever
from e2e.test_redelivery import Inbox

from node.client.streaming import Client, Message, connect

PAUSE_S = 3.0
RATE = 100  # publishes a second and publisher
ACK_WAIT_S = 1
ACKED_S = 1.0  # an ack older than this has had its effect

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Delivery:
    node: str
    seq: int
    data: bytes
    redelivered: bool
    at_s: float
    published_s: float
    """Unix time."""


@dataclass(slots=True)
class Pause:
    """When the node stood still: trio's clock, and Unix time for the beginning."""

    node: str
    began_s: float = 0.0
    began_unix_s: float = 0.0
    ended_s: float = 0.0

    def swallows(self, delivery: Delivery) -> bool:
        """Whether the ack of a delivery went into the node that stood still, or just before it did."""
        at_s = delivery.at_s
        return delivery.node == self.node and self.began_s - ACKED_S < at_s < self.ended_s + ACKED_S

    def excuses(self, delivery: Delivery) -> bool:
        """Whether the delivery can have lain in the node's buffers since before."""
        is_first = not delivery.redelivered and delivery.node == self.node
        return is_first and delivery.published_s < self.began_unix_s


@dataclass(slots=True)
class Group:
    """The deliveries of one subscription, or of all members of a queue group."""

    deliveries: list[Delivery] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    async def join(self, client: Client, node: str, channel: str, queue: str, durable: str) -> None:
        def take(message: Message) -> None:
            self.deliveries.append(
                Delivery(
                    node,
                    message.seq,
                    message.data,
                    message.redelivered,
                    message.received_s,
                    message.timestamp_ns / 1e9,
                )
            )
            self.changed.set()
            self.changed = trio.Event()

        await client.subscribe(channel, take, queue=queue, durable=durable, ack_wait_s=ACK_WAIT_S)

    async def wait(self, history: History) -> None:
        """Until everything whose publish was acked has come."""
        with trio.move_on_after(15):
            while not history.acked_s.keys() <= self.data:
                await self.changed.wait()
        missing = history.acked_s.keys() - self.data
        assert not missing, f"{len(missing)} never came: {sorted(missing)[:10]}"

    @property
    def data(self) -> set[bytes]:
        return {delivery.data for delivery in self.deliveries}

    def check(self, pause: Pause) -> None:
        """Nothing new twice, nothing again that was acknowledged."""
        by_seq: dict[int, list[Delivery]] = defaultdict(list)
        for delivery in self.deliveries:
            for earlier in by_seq[delivery.seq]:
                both = f"{earlier}, then {delivery}; {pause}"
                assert earlier.redelivered or delivery.redelivered, f"unflagged twice: {both}"
                acked = delivery.at_s - earlier.at_s > ACKED_S and not pause.swallows(earlier)
                assert not acked or pause.excuses(delivery), f"again after its ack: {both}"
            by_seq[delivery.seq].append(delivery)


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_paused_node_delivers_nothing_stale(cluster: Cluster, unique: str, role: str) -> None:
    leader = await trio.to_thread.run_sync(cluster.leader)
    others = [name for name in cluster.names if name != leader]
    victim = leader if role == "leader" else others[0]
    awake = [name for name in cluster.names if name != victim]
    pause, history, alone, queue = Pause(victim), History(), Group(), Group()
    async with AsyncExitStack() as clients:

        async def client(node: str, what: str) -> Client:
            connection = connect([cluster.address(node)], cluster.cluster_id, f"{unique}-{what}-{node}")
            return await clients.enter_async_context(connection)

        await alone.join(await client(victim, "alone"), victim, unique, "", "d")
        for node in cluster.names:
            await queue.join(await client(node, "member"), node, unique, "q", "d")
        publishers = {node: await client(node, "publisher") for node in (victim, awake[0])}
        async with trio.open_nursery() as load:
            for node, publisher in publishers.items():
                load.start_soon(publish_for_ever, publisher, history, unique, node, RATE)
            await history.wait_acked(RATE)
            pause.began_s, pause.began_unix_s = trio.current_time(), time.time()
            cluster.pause(victim)
            await trio.sleep(PAUSE_S)  # it is the length of the pause that is tested
            cluster.resume(victim)
            pause.ended_s = trio.current_time()
            await trio.to_thread.run_sync(cluster.wait_ready)
            await history.wait_acked(2 * RATE)
            load.cancel_scope.cancel()
        for group in (alone, queue):
            await group.wait(history)
    alone.check(pause)
    queue.check(pause)
    assert not history.refused


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_acks_sent_while_all_nodes_stood_still_count(cluster: Cluster, unique: str, role: str) -> None:
    """R9: they lie in sockets when the nodes go on, and their AckWaits are over."""
    at = await trio.to_thread.run_sync(cluster.leader if role == "leader" else cluster.follower)
    received = Inbox()
    async with connect([cluster.address(at)], cluster.cluster_id, unique) as client:
        await client.subscribe(unique, received, ack_wait_s=3, manual_ack=True)
        for number in range(20):
            await client.publish(unique, b"%d" % number)
        await received.wait(20)
        for name in cluster.names:
            cluster.pause(name)
        for message in received.messages[:-1]:
            message.ack()
        await trio.sleep(6)
        for name in cluster.names:
            cluster.resume(name)
        await received.wait(21)
        await trio.sleep(1)
    assert set(received.seqs[20:]) == {20}, "acknowledged in time, and sent again"
