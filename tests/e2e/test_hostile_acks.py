"""Acknowledgements that a client makes up cost the cluster no entry of the log."""

from __future__ import annotations

import pytest
import trio
from e2e.harness import Cluster

from node.client.streaming import Message, connect
from node.protocol import streaming as stan
from node.protocol.positions import StartPosition

pytestmark = pytest.mark.slow

READS = 400
"""Each is a read of its own at the node, and was an entry of its own."""
ENTRIES_MAX = 60
"""Of what these clients ask, and of ticks."""


async def make_up(cluster: Cluster, address: str, channel: str) -> None:
    """Acknowledge what was delivered, then as many messages on inboxes that nobody has."""
    async with connect([address], cluster.cluster_id, channel) as client:
        await client.publish(channel, b"m")
        done = trio.Event()

        def take(_message: Message) -> None:
            done.set()

        subscription = await client.subscribe(channel, take, start=StartPosition.FIRST)
        with trio.fail_after(10):
            await done.wait()
        prefix = subscription.ack_inbox[: subscription.ack_inbox.rindex(b".") + 1]
        for number in range(READS):
            client.nats.publish(prefix + b"%022d" % number, stan.encode_ack(stan.Ack(channel, number + 1)))
            await client.nats.flush()


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_acks_on_unknown_inboxes_are_not_replicated(cluster: Cluster, unique: str, where: str) -> None:
    """R18: with the tag of one ack inbox a client could order an entry with each read."""
    name = cluster.leader() if where == "leader" else cluster.follower()
    before = cluster.page(name, "/raftz")["last_index"]
    address = f"127.0.0.1:{cluster.ports[name]['client']}"
    trio.run(make_up, cluster, address, unique)
    assert cluster.page(name, "/raftz")["last_index"] - before < ENTRIES_MAX
