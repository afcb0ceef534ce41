"""Presence is that of clients, and of nobody else (R15); and durables may be asked for again (R17)."""

from __future__ import annotations

import itertools

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import Cluster, until
from e2e.load import abandoned
from e2e.test_redelivery import Inbox
from e2e.wire import Wire

from node.client.streaming import connect
from node.protocol import nats, streaming

pytestmark = pytest.mark.slow


async def test_a_bystander_does_not_keep_what_a_dead_member_holds(cluster: Cluster, unique: str) -> None:
    """Somebody subscribes to everything, at another node: the messages waited for their AckWait."""
    channel, first, second = f"{unique}.c", Inbox(), Inbox()
    with Wire(cluster.ports["n2"]["client"]) as bystander:
        bystander.hello()
        bystander.send(nats.sub(b"_INBOX.>", b"", b"1"))
        assert bystander.answers()
        async with abandoned([cluster.address("n1")], cluster.cluster_id, f"{unique}-a") as dying:
            await dying.subscribe(channel, first, queue="q", ack_wait_s=60, manual_ack=True)
            for number in range(4):
                await dying.publish(channel, b"%d" % number)
            await first.wait(4)
        async with connect([cluster.address("n3")], cluster.cluster_id, f"{unique}-b") as living:
            await living.subscribe(channel, second, queue="q", ack_wait_s=60)
            messages = await second.wait(4, timeout_s=8)
    assert [message.seq for message in messages] == [1, 2, 3, 4]
    assert all(message.redelivered for message in messages)


class Retrying:
    """A client that subscribes to its durable again and again, each time with another inbox."""

    def __init__(self, wire: Wire, client_id: str, channel: str) -> None:
        self.wire = wire
        self.client_id = client_id
        self.channel = channel
        self._sids = itertools.count(1000)

    def subscribe(self, inbox: str, *, listens: bool = True) -> str:
        """The error of the answer; empty for none."""
        if listens:
            self.wire.send(nats.sub(inbox.encode(), b"", b"%d" % next(self._sids)))
        request = streaming.SubscriptionRequest(
            self.client_id, self.channel, "", inbox, 10, 30, "durable", streaming.StartPosition.FIRST
        )
        answer = self.wire.ask("_STAN.sub.test-cluster", streaming.encode_subscription(request))
        return streaming.decode_subscription_response(answer).error

    def gives_up(self) -> None:
        """It unsubscribes from its latest inbox, as stan.go does when no answer came in time."""
        sid = next(self._sids) - 1
        self.wire.send(nats.unsub(b"%d" % sid, None))


async def test_a_durable_is_not_refused_to_the_client_that_asks_again(cluster: Cluster, unique: str) -> None:
    """It was a duplicate for as long as the client lived."""
    with Wire(cluster.ports["n1"]["client"]) as wire:
        wire.hello()
        wire.register(f"{unique}-c")
        client = Retrying(wire, f"{unique}-c", f"{unique}.c")
        assert client.subscribe("inbox.1") == ""
        assert client.subscribe("inbox.2") == "stan: duplicate durable registration"
        assert client.subscribe("inbox.1", listens=False) == "", "the same inbox: the same answer"
        assert client.subscribe("inbox.3", listens=False) == "stan: duplicate durable registration"


async def test_a_durable_without_a_subscribed_inbox_is_replaced(cluster: Cluster, unique: str) -> None:
    with Wire(cluster.ports["n1"]["client"]) as wire, Wire(cluster.ports["n2"]["client"]) as bystander:
        bystander.hello()
        bystander.send(nats.sub(f"{unique}.>".encode(), b"", b"1"))
        assert bystander.answers()
        wire.hello()
        wire.register(f"{unique}-c")
        client = Retrying(wire, f"{unique}-c", f"{unique}.c")
        assert client.subscribe(f"{unique}.inbox.1") == ""
        client.gives_up()
        assert client.subscribe(f"{unique}.inbox.2") == ""


async def test_a_client_whose_connection_closed_is_removed_at_its_next_heartbeat(
    make_cluster: MakeCluster, unique: str
) -> None:
    """The Go server's heartbeat comes back with "no responders"; here it waited for the time-out of 10 s."""
    cluster = make_cluster(size=1, settings={"streaming": {"hb_interval": "500ms", "hb_fail_count": 0}})
    cluster.start()
    cluster.wait_ready()
    async with abandoned([cluster.address("n1")], cluster.cluster_id, unique):
        pass
    closed_s = trio.current_time()

    def is_gone() -> bool:
        return not any(
            each["id"] == unique for each in cluster.page("n1", "/streaming/clientsz?limit=100")["clients"]
        )

    await trio.to_thread.run_sync(until, "it is removed", is_gone)
    assert trio.current_time() - closed_s < 3
