"""The service behind another NATS server: what it subscribes to, what is kept, and who counts as absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from node.protocol import nats
from node.protocol.message import message as encode
from node.protocol.message import message_body, redelivered
from node.server.external_nats import routing as external
from node.server.external_nats.routing import ExternalNatsRouting
from node.server.interest import InterestChange
from node.server.moving import MovingReplies
from node.server.routing_interface import NodeRouting

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class Pipe:
    """The connection, as far as it is needed: what was written to it."""

    def __init__(self, epoch: int, *, has_headers: bool = True, max_payload: int = 1000) -> None:
        self.epoch = epoch
        self.has_headers = has_headers
        self.max_payload = max_payload
        self.writable = True
        self.closed = False
        self.written: list[nats.Op] = []
        self._parser = nats.Parser(1 << 20)

    def write(self, data: bytes) -> None:
        self._parser.feed(data)
        self.written += self._parser.ops()

    def take(self) -> list[nats.Op]:
        taken, self.written = self.written, []
        return taken

    def published(self) -> list[nats.Pub]:
        return [op for op in self.take() if isinstance(op, nats.Pub)]


class Behind:
    """A service behind a server, with one client whose heartbeat inbox is ``hb``."""

    def __init__(self, *, is_clustered: bool = False) -> None:
        self.now = 100.0
        self.leads = True
        self.clients = ["hb"]
        self.changes: list[list[InterestChange]] = []
        self.reachable: list[tuple[bytes, bytes, bytes]] = []
        self.routing = ExternalNatsRouting(
            "n1",
            clock=lambda: self.now,
            nuid=lambda: "r" * 22,
            clients=lambda: self.clients,
            inboxes=lambda: [*self.clients, "inbox"],
            is_clustered=is_clustered,
            may_take=lambda: self.leads,
        )
        self.routing.on_interest_change = lambda _node, changes: self.changes.append(list(changes))

    def hear(self, _source: Any, subject: bytes, reply: bytes, payload: bytes) -> None:
        self.reachable.append((subject, reply, payload))

    def up(self, epoch: int = 7, **more: Any) -> Pipe:
        pipe = Pipe(epoch, **more)
        self.routing.up(pipe)
        return pipe

    def come(self, subject: bytes, payload: bytes = b"", *, sid: bytes = b"1", headers: bytes = b"") -> None:
        self.routing.received(nats.Msg(subject, sid, b"", headers, payload))

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.routing.beat()


def subjects(ops: Sequence[nats.Op]) -> list[bytes]:
    return [op.subject for op in ops if isinstance(op, nats.Sub | nats.Pub)]


def test_services_are_subscribed_to_once_the_node_serves_and_on_every_connection() -> None:
    behind = Behind()
    behind.routing.serve(b"_STAN.pub.c.>", behind.hear)
    pipe = behind.up(has_headers=False)
    assert pipe.take() == []
    behind.routing.open()
    assert b"_STAN.pub.c.>" in subjects(pipe.take())
    late = behind.routing.serve(b"_INBOX.tag.*", behind.hear)
    assert subjects(pipe.take()) == [b"_INBOX.tag.*"]
    behind.routing.down(pipe)
    again = behind.up(8, has_headers=False)
    assert subjects(again.take())[-2:] == [b"_STAN.pub.c.>", b"_INBOX.tag.*"]
    late.close()
    assert isinstance(again.take()[0], nats.Unsub)
    assert behind.routing.subscription_count == 2, "one is the node's own"


def test_messages_go_to_the_service_of_their_subscription() -> None:
    behind = Behind()
    behind.routing.serve(b"a", behind.hear)
    behind.up()
    behind.come(b"a", b"x", sid=b"2")
    behind.come(b"a", b"y", sid=b"99")
    assert behind.reachable == [(b"a", b"", b"x")]


def test_answers_wait_for_the_next_connection_and_only_so_many(monkeypatch: Any) -> None:
    """Bounded: what nobody fetches for long is dropped, and that is counted."""
    monkeypatch.setattr(external, "BUFFER_BYTES_MAX", 60)
    behind = Behind()
    behind.routing.open()
    for number in range(5):
        behind.routing.publish(None, b"reply", b"", b"", b"%d" % number)
    pipe = behind.up(has_headers=False)
    assert [op.payload for op in pipe.published()] == [b"0", b"1", b"2"]
    assert behind.routing.dropped == 2


def test_requests_and_deliveries_are_not_kept() -> None:
    """They are asked, and delivered, again."""
    behind = Behind()
    behind.routing.open()
    behind.routing.publish(None, b"hb", b"reply", b"", b"")
    assert behind.routing.local_receivers(b"inbox") == ()
    assert behind.up(has_headers=False).published() == []
    (receiver,) = behind.routing.local_receivers(b"inbox")
    assert receiver.connection.epoch == 7


def test_nothing_is_delivered_before_the_node_serves() -> None:
    """R4: after a restart it applies once more what it may have delivered; that went out without a flag."""
    behind = Behind()
    behind.up(has_headers=False)
    assert behind.routing.local_receivers(b"inbox") == ()
    behind.routing.open()
    assert len(behind.routing.local_receivers(b"inbox")) == 1


def test_nothing_is_sent_that_would_end_the_connection() -> None:
    """A client may call its inbox what it likes, and a server may take less than we do."""
    behind = Behind()
    behind.routing.open()
    pipe = behind.up(has_headers=False, max_payload=10)
    behind.routing.publish(None, b"a b", b"", b"", b"")
    behind.routing.publish(None, b"in.>", b"", b"", b"")
    behind.routing.publish(None, b"inbox", b"", b"", b"x" * 11)
    assert pipe.published() == []
    assert behind.routing.publish(None, b"inbox", b"", b"", b"x" * 10) == 1
    assert behind.routing.dropped == 1


def test_an_undeliverable_message_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again at every AckWait; the server may take more one day."""
    monkeypatch.setattr(external, "TOO_LONG_LOGGED_MAX", 2)
    behind = Behind()
    behind.routing.open()
    pipe = behind.up(has_headers=False, max_payload=40)
    message = encode(7, 1, message_body("orders", "", b"x" * 40))
    for count in range(300):
        behind.routing.publish(None, b"inbox", b"", b"", redelivered(message, count + 1))
    assert caplog.text.count("message 7 of channel orders") == 1
    for subject in (b"other", b"a", b"b", b"inbox"):
        behind.routing.publish(None, subject, b"", b"", message)
    assert caplog.text.count("message 7 of channel orders") == 2, "another subscriber's"
    assert caplog.text.count("too long") == 3, "and that no more are told"
    assert behind.routing.dropped == 304
    assert pipe.published() == []
    behind.routing.down(pipe)
    behind.up(8, has_headers=False, max_payload=40)
    behind.routing.publish(None, b"inbox", b"", b"", b"\xff" * 41)
    assert "41 bytes for inbox" in caplog.text, "told anew for another connection; what it is may be unknown"


def test_how_long_a_message_may_be() -> None:
    """So long that it fits with whatever is put to it: the last sequence, redelivered for ever."""
    behind = Behind()
    assert behind.routing.body_size_max is None
    pipe = behind.up(has_headers=False, max_payload=1000)
    size = behind.routing.body_size_max
    assert size is not None
    behind.routing.open()
    longest = redelivered(encode(2**64 - 1, 2**63 - 1, b"\x22" + bytes(size - 1)), 2**32 - 1)
    assert len(longest) == 1000
    assert behind.routing.publish(None, b"inbox", b"", b"", longest) == 1
    behind.routing.down(pipe)
    assert behind.routing.body_size_max is None


def test_without_headers_every_client_is_reachable() -> None:
    """Connected: everybody counts as there, and heartbeats decide. Not connected: nobody does (R15)."""
    behind = Behind()
    behind.routing.open()
    assert behind.routing.where(b"hb") is None
    pipe = behind.up(has_headers=False)
    assert behind.routing.where(b"hb") == behind.routing.where(b"whatever") == ("n1", 7)
    behind.routing.down(pipe)
    assert behind.routing.where(b"hb") is None
    assert behind.changes[-1] == [InterestChange(inbox, b"", 7, 0) for inbox in (b"hb", b"inbox")]


def test_clients_are_asked_for_on_a_new_connection() -> None:
    """Nobody is there until it answers: it may take its 2 s to reconnect, and misses nothing meanwhile."""
    behind = Behind()
    behind.routing.open()
    pipe = behind.up()
    (probe,) = pipe.published()
    assert (probe.subject, probe.payload) == (b"hb", b"")
    assert behind.routing.where(b"hb") is None
    behind.come(probe.reply, headers=NO_RESPONDERS)
    behind.after(0.1)
    assert pipe.published() == []
    behind.after(0.2)
    assert pipe.published() == [probe]
    behind.come(probe.reply)
    assert behind.routing.where(b"hb") == ("n1", 7)


def test_a_client_that_does_not_answer_is_probed_again() -> None:
    """R15: whoever listens to everything is not the client. A client that hangs answers when it goes on."""
    behind = Behind()
    behind.routing.open()
    pipe = behind.up()
    (probe,) = pipe.published()
    behind.after(external.PROBE_S)
    assert behind.routing.where(b"hb") is None
    behind.after(external.AGAIN_MAX_S)
    assert pipe.published()[0] == probe
    assert behind.routing.where(b"hb") is None
    behind.come(probe.reply)
    assert behind.routing.where(b"hb") == ("n1", 7)


def test_a_request_without_subscriber_makes_unreachable_and_is_repeated() -> None:
    """R15, HBT-06: found at a heartbeat; it is back at the same one if it comes in time."""
    behind = Behind()
    behind.routing.serve(b"replies.*", behind.hear)
    behind.routing.open()
    pipe = behind.up()
    behind.come(pipe.published()[0].reply)
    behind.routing.publish(None, b"hb", b"replies.1", b"", b"")
    (request,) = pipe.published()
    behind.come(b"replies.1", sid=b"2", headers=NO_RESPONDERS)
    assert behind.reachable == [], "nobody's answer isn't one"
    assert behind.routing.where(b"hb") is None
    assert behind.changes[-1] == [InterestChange(b"hb", b"", 7, 0)]
    behind.after(0.3)
    assert pipe.published() == [request]
    behind.come(b"replies.1", sid=b"2")
    assert behind.reachable == [(b"replies.1", b"", b"")]
    assert behind.routing.where(b"hb") == ("n1", 7)


def test_nothing_is_remembered_for_ever() -> None:
    """Of clients that never answer, and of clients that are no more."""
    behind = Behind()
    behind.routing.open()
    pipe = behind.up()
    for number in range(100):
        behind.routing.publish(None, b"other", b"replies.%d" % number, b"", b"")
    for op in pipe.published():
        behind.come(op.reply, headers=NO_RESPONDERS)
    behind.clients.clear()
    behind.now += external.ASKED_S
    behind.routing.tick()
    behind.after(1.0)
    assert pipe.published() == []
    assert not behind.routing._asked
    assert not behind.routing._awaited


def test_a_stuck_connection_reaches_no_client() -> None:
    """R3: its backlog has not moved for 5 s."""
    behind = Behind()
    behind.routing.open()
    pipe = behind.up(has_headers=False)
    behind.routing.set_stuck(pipe, True)
    assert not behind.routing.reachable(b"hb")
    behind.routing.set_stuck(pipe, False)
    assert behind.routing.reachable(b"hb")


# --- a node of a cluster --------------------------------------------------------------------------


def test_a_clustered_node_always_gets_answers_and_requests_only_while_it_serves() -> None:
    behind = Behind(is_clustered=True)
    behind.routing.serve(b"_STAN.pub.c.>", behind.hear)
    behind.routing.serve(b"_INBOX.own.*", behind.hear, announce=True)
    pipe = behind.up(has_headers=False)
    assert b"_STAN.pub.c.>" not in subjects(pipe.take())
    behind.routing.open(b"group")
    (sub,) = [op for op in pipe.take() if isinstance(op, nats.Sub)]
    assert (sub.subject, sub.queue) == (b"_STAN.pub.c.>", b"group")
    behind.routing.close()
    assert [op.sid for op in pipe.take() if isinstance(op, nats.Unsub)] == [sub.sid]
    behind.routing.down(pipe)
    again = behind.up(8, has_headers=False)
    found = [op for op in again.take() if isinstance(op, nats.Sub)]
    assert (b"_INBOX.own.*", b"") in [(op.subject, op.queue) for op in found]
    assert b"_STAN.pub.c.>" not in subjects(found)


def test_a_follower_takes_all_clients_to_be_where_the_leader_is() -> None:
    """When another leads, every inbox has moved: what was under way to it may be lost (R15)."""
    behind = Behind(is_clustered=True)
    behind.up(has_headers=False)
    assert behind.routing.where(b"hb") is None
    behind.routing.follow(("n2", 3))
    assert behind.routing.where(b"hb") == behind.routing.where(b"inbox") == ("n2", 3)
    assert not behind.routing.local_receivers(b"inbox"), "another node delivers"
    behind.changes.clear()
    behind.routing.open(b"group")
    assert [(c.subject, c.before, c.now) for c in behind.changes[0]] == [(b"hb", 3, 0), (b"inbox", 3, 0)]
    assert behind.routing.where(b"inbox") == ("n1", 7)
    assert behind.routing.local_receivers(b"inbox")
    behind.routing.may_deliver = lambda: False
    assert not behind.routing.local_receivers(b"inbox"), "another leads, and this node is not closed yet"
    behind.changes.clear()
    behind.routing.close()
    assert [(c.subject, c.before, c.now) for c in behind.changes[0]] == [(b"hb", 7, 0), (b"inbox", 7, 0)]
    behind.routing.follow(("n3", 5))
    assert behind.routing.where(b"hb") == ("n3", 5)


def test_requests_wait_while_the_leadership_is_uncertain() -> None:
    behind = Behind(is_clustered=True)
    behind.routing.serve(b"a", behind.hear)
    behind.up(has_headers=False)
    behind.routing.open(b"group")
    behind.leads = False
    behind.come(b"a", b"1", sid=b"2")
    behind.come(b"a", b"2", sid=b"2")
    assert behind.reachable == []
    behind.leads = True
    behind.come(b"a", b"3", sid=b"2")
    assert [payload for _, _, payload in behind.reachable] == [b"1", b"2", b"3"]
    behind.leads = False
    behind.come(b"a", b"4", sid=b"2")
    behind.routing.close()
    behind.leads = True
    behind.routing.take_held()
    assert len(behind.reachable) == 3, "another node has it"


def test_requests_after_a_hand_over_are_taken() -> None:
    behind = Behind(is_clustered=True)
    behind.routing.serve(b"a", behind.hear)
    behind.up(has_headers=False)
    behind.routing.open(b"group")
    behind.leads = False  # the vote is under way
    behind.come(b"a", b"1", sid=b"2")
    behind.leads = True  # its successor is known, and serves in the same group
    behind.routing.close()
    behind.come(b"a", b"2", sid=b"2")
    assert [payload for _, _, payload in behind.reachable] == [b"1", b"2"]


def test_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "BUFFER_BYTES_MAX", 10)
    behind = Behind(is_clustered=True)
    behind.routing.serve(b"a", behind.hear)
    behind.up(has_headers=False)
    behind.routing.open(b"group")
    behind.leads = False
    for _ in range(5):
        behind.come(b"a", b"123456", sid=b"2")
    behind.leads = True
    behind.routing.take_held()
    assert (len(behind.reachable), behind.routing.dropped) == (1, 4)


def test_no_client_is_connected_to_the_node_itself() -> None:
    """A node without a leader looks for its clients' connections, and a leader for closed ones."""
    behind = Behind()
    behind.up()
    behind.routing.open()
    assert behind.routing.matching(b"hb") == ()
    assert not behind.routing.sees_connections


def test_it_is_all_that_a_replica_asks_of_routing() -> None:
    """A method that is missing here once ended a node; mypy holds both routings against one protocol."""
    asked = {name for name in dir(NodeRouting) if not name.startswith("_")} | {"on_interest_change"}
    behind = Behind()
    assert not [name for name in sorted(asked) if not hasattr(behind.routing, name)]


def test_a_node_that_stops_sends_answers_once() -> None:
    """Its clients stay connected to their server: none of the answers is kept for them to come back."""
    behind = Behind(is_clustered=True)
    pipe = behind.up()
    behind.routing.open()
    pipe.take()

    def send(inbox: bytes, payload: bytes) -> None:
        behind.routing.publish(None, inbox, b"", b"", payload, to_services=False)

    moving = MovingReplies(behind.routing.reachable_by_owner, send)
    moving.send(b"_INBOX.c.1", b"answer")
    moving.interest_changed()
    assert [op.payload for op in pipe.published()] == [b"answer"]
    assert moving.count == 0
