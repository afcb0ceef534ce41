"""A node dies between an entry's commit and its subscriber's socket: the message comes at once, elsewhere.

The subscriber's node is stopped first, so that it surely has not written what is published from then on, and
then killed; its client connects to another node. AckWait is so long that it plays no part.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from e2e.harness import Cluster

from node.client.streaming import Client, Message, connect

ACK_WAIT_S = 60
WITHIN_S = 1.0
"""From when the client is connected again."""

SLACK_S = 2.0
"""More of that on a machine which is busy with other things; AckWait is much longer all the same."""

MESSAGES = 5

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class Inbox:
    """What came to one subscriber, not acknowledged by it."""

    came: list[Message] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    def take(self, message: Message) -> None:
        self.came.append(message)
        self.changed.set()
        self.changed = trio.Event()

    def data(self) -> list[bytes]:
        return [message.data for message in self.came]

    async def wait(self, count: int, within_s: float) -> None:
        with trio.move_on_after(within_s):
            while len(self.came) < count:
                await self.changed.wait()
        assert len(self.came) >= count, f"only {len(self.came)} of {count} came within {within_s} s"


async def subscribed(client: Client, channel: str, inbox: Inbox, queue: str = "") -> None:
    await client.subscribe(
        channel, inbox.take, queue=queue, ack_wait_s=ACK_WAIT_S, manual_ack=True, max_in_flight=100
    )


async def killed_unwritten(
    cluster: Cluster, client: Client, publisher: Client, channel: str, victim: str
) -> float:
    """Stop ``victim``, publish, kill it; when ``client``, which was connected to it, is back elsewhere."""
    await trio.to_thread.run_sync(cluster.pause, victim)
    for number in range(MESSAGES):
        await publisher.publish(channel, b"unwritten %d" % number)
    cluster.kill(victim)
    with trio.fail_after(10):
        while not client.nats.connected.is_set() or client.nats.reconnects == 0:  # noqa: ASYNC110  # two things
            await trio.sleep(0.005)
    return trio.current_time()


@pytest.mark.parametrize("queue", ["", "group"])
async def test_what_a_killed_follower_had_not_written_comes_at_once(
    cluster: Cluster, unique: str, queue: str
) -> None:
    leader = await trio.to_thread.run_sync(cluster.leader)
    victim, other = (name for name in cluster.names if name != leader)
    channel, inbox = f"{unique}.dead", Inbox()
    async with (
        connect([cluster.address(other)], cluster.cluster_id, f"{unique}-pub") as publisher,
        connect([cluster.address(victim)], cluster.cluster_id, f"{unique}-sub") as client,
    ):
        await subscribed(client, channel, inbox, queue)
        await publisher.publish(channel, b"written")
        await inbox.wait(1, 5.0)
        await trio.sleep(0.2)  # the node has told how far it has come
        await killed_unwritten(cluster, client, publisher, channel, victim)
        await inbox.wait(1 + MESSAGES, WITHIN_S + SLACK_S)
        assert inbox.data() == [b"written", *(b"unwritten %d" % number for number in range(MESSAGES))]
        assert not inbox.came[0].redelivered
        assert all(message.redelivered and message.redelivery_count == 1 for message in inbox.came[1:])
        await trio.sleep(1.0)
        assert len(inbox.came) == 1 + MESSAGES, "what had been written keeps its AckWait"


async def test_what_a_killed_leader_had_not_written_comes_at_once(cluster: Cluster, unique: str) -> None:
    """R10: the next leader dates anew what the last one had stamped, and the client has moved meanwhile."""
    leader = await trio.to_thread.run_sync(cluster.leader)
    other = next(name for name in cluster.names if name != leader)
    channel, inbox = f"{unique}.dead", Inbox()
    async with (
        connect([cluster.address(other)], cluster.cluster_id, f"{unique}-pub") as publisher,
        connect([cluster.address(leader)], cluster.cluster_id, f"{unique}-sub") as client,
    ):
        await subscribed(client, channel, inbox)
        published = 0
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def publish_on() -> None:
                    nonlocal published
                    while client.nats.reconnects == 0:
                        await publisher.publish(channel, b"%d" % published)
                        published += 1

                nursery.start_soon(publish_on)
                await inbox.wait(20, 20.0)
                cluster.kill(leader)
        await trio.to_thread.run_sync(cluster.ready_leader, [n for n in cluster.names if n != leader])
        with trio.move_on_after(WITHIN_S + SLACK_S):
            while set(inbox.data()) != {b"%d" % number for number in range(published)}:
                await inbox.changed.wait()
        missing = {b"%d" % number for number in range(published)} - set(inbox.data())
        assert not missing, f"{len(missing)} of {published} did not come: {sorted(missing)[:5]}"
