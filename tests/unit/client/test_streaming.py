"""The streaming client with a server that follows the protocol."""

from __future__ import annotations

import pytest
import trio
from unit.client.scripted_server import ScriptedServer

from node.client.nats import LATE_MAX, Nats
from node.client.streaming import Client, Message, connect
from node.errors import RefusedError, UnavailableError
from node.protocol import nats
from node.protocol import streaming as stan
from node.protocol.message import message, message_body, redelivered

SESSION = stan.ConnectResponse(
    pub_prefix="_STAN.pub.c",
    sub_requests="_STAN.sub.c",
    unsub_requests="_STAN.unsub.c",
    close_requests="_STAN.close.c",
    sub_close_requests="_STAN.subclose.c",
    ping_requests="_STAN.discover.c.pings",
    ping_interval_s=5,
    ping_max_out=88,
    protocol=1,
)


class Service:
    """A streaming service that accepts all requests by default."""

    def __init__(self) -> None:
        self.subscribed: stan.SubscriptionRequest | None = None
        self.acked: list[int] = []
        self.ended: list[bytes] = []
        self.refuse = ""
        self.server = ScriptedServer(self.answer)

    def answer(self, here: ScriptedServer, pub: nats.Pub) -> None:
        subject, reply, payload = pub
        if subject == b"_STAN.discover.c":
            here.message(reply, stan.encode_connect_response(SESSION))
        elif subject.startswith(b"_STAN.pub.c."):
            here.message(reply, stan.encode_pub_ack(stan.decode_publish(payload).guid, self.refuse))
        elif subject == b"_STAN.sub.c":
            self.subscribed = stan.decode_subscription(payload)
            here.message(reply, stan.encode_subscription_response("" if self.refuse else "acks", self.refuse))
            if not self.refuse:
                body = message_body("foo", "", b"first")
                here.message(self.subscribed.inbox.encode(), message(1, 7, body))
        elif subject == b"acks":
            self.acked.append(stan.decode_ack(payload).seq)
        elif subject in {b"_STAN.subclose.c", b"_STAN.unsub.c"} or subject == b"_STAN.close.c":
            self.ended.append(subject)
            here.message(reply, b"")


async def opened(service: Service, nursery: trio.Nursery) -> Client:
    await nursery.start(service.server.run)
    connection = Nats([service.server.server])
    client = Client(connection, "c", "me")
    nursery.start_soon(connection.run)
    await client.open()
    return client


async def test_a_publish_ends_when_it_is_stored(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    await client.publish("foo", b"data")
    assert client.unanswered == 0


async def test_a_refused_publish_says_why(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    service.refuse = "too many channels"
    with pytest.raises(RefusedError, match="too many channels"):
        await client.publish("foo", b"data")


async def test_the_first_message_can_be_acknowledged(nursery: trio.Nursery) -> None:
    """It follows the response with the ack inbox directly, in the same bytes."""
    service = Service()
    client = await opened(service, nursery)
    got: list[Message] = []
    await client.subscribe("foo", got.append, ack_wait_s=5, max_in_flight=3)
    await client.nats.flush()
    assert [(here.seq, here.data) for here in got] == [(1, b"first")]
    assert service.acked == [1]
    assert service.subscribed is not None
    assert (service.subscribed.ack_wait_s, service.subscribed.max_in_flight) == (5, 3)


async def test_with_manual_acks_nothing_is_acknowledged_by_itself(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    got: list[Message] = []
    await client.subscribe("foo", got.append, manual_ack=True)
    await client.nats.flush()
    assert service.acked == []
    got[0].ack()
    await client.nats.flush()
    assert service.acked == [1]


async def test_a_refused_subscription_leaves_no_inbox(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    await client.nats.flush()
    before = dict(service.server.subs)
    service.refuse = "stan: duplicate durable registration"
    with pytest.raises(RefusedError, match="duplicate durable"):
        await client.subscribe("foo", lambda _message: None, durable="d")
    await client.nats.flush()
    assert service.server.subs == before


async def test_close_and_unsubscribe_use_their_own_subjects(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    first = await client.subscribe("foo", lambda _message: None)
    second = await client.subscribe("foo", lambda _message: None)
    await first.close()
    await second.unsubscribe()
    assert service.ended == [b"_STAN.subclose.c", b"_STAN.unsub.c"]


async def test_heartbeats_are_answered(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    await client.nats.flush()
    inbox = client._heartbeat_inbox
    sid = next(sid for sid, subject in service.server.subs.items() if subject == inbox)
    service.server._out.append(nats.msg(inbox, sid, b"leader.asks", b""))
    await service.server.push()
    await client.nats.flush()
    assert nats.Pub(b"leader.asks", b"", b"") in service.server.ops


async def test_publishes_whose_answer_was_lost_can_be_given_up(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)
    service.server._answer = None
    guid = client.publish_async("foo", b"data", lambda _error: None)
    assert client.unanswered == 1
    assert client.forget_unanswered() == [guid]
    assert client.unanswered == 0


async def test_connect_closes_the_session_at_the_end() -> None:
    service = Service()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.server.run)
        async with connect([f"127.0.0.1:{service.server.server.port}"], "c", "me") as client:
            assert client.session.protocol == 1
        nursery.cancel_scope.cancel()
    assert service.ended == [b"_STAN.close.c"]


async def test_nobody_answering_is_an_error_of_its_own() -> None:
    """Not a group of errors: callers catch UnavailableError."""
    with pytest.raises(UnavailableError, match="no streaming service answered"):
        async with connect(["127.0.0.1:1"], "c", "me", attempts_s=0.2):
            raise AssertionError


async def _connected(service: Service, task_status: trio.TaskStatus[Client]) -> None:
    async with connect([f"127.0.0.1:{service.server.server.port}"], "c", "me") as client:
        task_status.started(client)
        await trio.sleep_forever()


async def test_a_cancelled_client_closes_its_session(nursery: trio.Nursery) -> None:
    """The connection was cancelled together with the block: the client ID stayed registered for minutes."""
    service = Service()
    await nursery.start(service.server.run)
    async with trio.open_nursery() as ours:
        await ours.start(_connected, service)
        ours.cancel_scope.cancel()
    assert service.ended == [b"_STAN.close.c"]


async def test_a_connect_that_is_cancelled_while_its_answer_is_on_the_way_closes_the_session(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    service = Service()
    asked = trio.Event()
    answer = service.answer

    def hold(here: ScriptedServer, pub: nats.Pub) -> None:
        if pub.subject == b"_STAN.discover.c" and not asked.is_set():
            asked.set()
            nursery.start_soon(late, pub)
        else:
            answer(here, pub)

    async def late(pub: nats.Pub) -> None:
        await trio.sleep(0.5)
        answer(service.server, pub)
        await service.server.push()

    service.server._answer = hold
    await nursery.start(service.server.run)
    async with trio.open_nursery() as ours:
        ours.start_soon(ours.start, _connected, service)
        await asked.wait()
        ours.cancel_scope.cancel()
    assert service.ended == [b"_STAN.close.c"]


@pytest.mark.parametrize("refusal", ["", "stan: the channel is full"])
async def test_a_subscription_whose_answer_comes_too_late_is_closed(
    refusal: str, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Its messages have no reader, and the application would have two subscriptions."""
    service = Service()
    answer, held = service.answer, []

    def hold(here: ScriptedServer, pub: nats.Pub) -> None:
        if pub.subject == b"_STAN.sub.c" and not held:
            held.append(pub)
        else:
            answer(here, pub)

    service.server._answer = hold
    client = await opened(service, nursery)
    got: list[Message] = []
    with pytest.raises(UnavailableError, match=r"no answer on _STAN.sub.c in 2 s"):
        await client.subscribe("foo", got.append)
    service.refuse = refusal
    answer(service.server, held[0])
    await service.server.push()
    await client.nats.flush()
    await client.nats.flush()  # what was sent because of what came before the first is there too
    assert service.ended == ([] if refusal else [b"_STAN.subclose.c"])
    assert got == []


async def test_late_answers_are_remembered_within_bounds(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    service = Service()
    client = await opened(service, nursery)
    service.server._answer = lambda _here, _pub: None
    before = len(client.nats._replies)
    async with trio.open_nursery() as askers:
        for _ in range(LATE_MAX + 10):
            askers.start_soon(_subscribe_in_vain, client)
    assert len(client.nats._replies) == before + LATE_MAX


async def _subscribe_in_vain(client: Client) -> None:
    with pytest.raises(UnavailableError):
        await client.subscribe("foo", lambda _message: None)


async def test_an_async_callback_is_awaited_and_acknowledged_afterwards(nursery: trio.Nursery) -> None:
    """It was not awaited, but its message was acknowledged: the message was lost."""
    service = Service()
    await nursery.start(service.server.run)
    may_end, handled = trio.Event(), trio.Event()

    async def handle(message: Message) -> None:
        assert message.data == b"first"
        await may_end.wait()
        handled.set()

    client = await nursery.start(_connected, service)
    sub = await client.subscribe("foo", handle)
    await client.nats.flush()
    again = redelivered(message(1, 7, message_body("foo", "", b"first")), 1)
    service.server.message(sub.inbox, again)
    await service.server.push()
    await client.nats.flush()
    assert service.acked == []
    assert len(sub._waiting) == 1  # the redelivery of what waits is dropped
    may_end.set()
    await handled.wait()
    await trio.testing.wait_all_tasks_blocked()
    await client.nats.flush()
    assert service.acked == [1]


async def _never_ends(_message: Message) -> None:
    await trio.sleep_forever()


async def test_an_async_callback_that_is_cancelled_acknowledges_nothing(nursery: trio.Nursery) -> None:
    service = Service()
    await nursery.start(service.server.run)
    async with trio.open_nursery() as ours:
        client = await ours.start(_connected, service)
        await client.subscribe("foo", _never_ends)
        await client.nats.flush()
        ours.cancel_scope.cancel()
    assert service.acked == []
    assert service.ended == [b"_STAN.close.c"]


async def test_an_async_callback_without_a_nursery_is_refused(nursery: trio.Nursery) -> None:
    service = Service()
    client = await opened(service, nursery)

    async def handle(_message: Message) -> None:
        raise AssertionError

    sub = await client.subscribe("foo", lambda _message: None)
    sub.callback = handle
    with pytest.raises(TypeError, match="'foo' returned an awaitable: use `connect`"):
        sub.received(nats.Msg(b"x", b"1", b"", b"", message(2, 7, message_body("foo", "", b"data"))))
    assert service.acked == [1]
