"""The streaming service: requests in, commands to the log, outcomes back (streaming protocol 1, 3 to 9)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from conversation import Conversation

from node.core import refusals
from node.core.commands import (
    ANY_GENERATION,
    Acked,
    ClientCheck,
    ClientClose,
    ClientKeep,
    ClientOpen,
    ClientReplace,
    Publish,
    SubscriptionClose,
    SubscriptionOpen,
    SubscriptionReplace,
    Unsubscribe,
)
from node.core.effects import OK, ClientOpened, DurableTaken, Outcome, Probing, Refused, SubscriptionOpened
from node.core.entries import encoded_size
from node.core.limits import limits_of
from node.core.settings import Settings
from node.core.state import Channel, Client, Group, State, Subscription
from node.protocol import streaming as stan
from node.protocol.message import message_body
from node.protocol.subjects import NAME_SIZE_MAX, matches
from node.server import streaming
from node.server.clock import ClusterClock
from node.server.origin import BATCH_BYTES
from node.server.streaming import (
    ACK_INBOX_SIZE_MAX,
    ACKS_GATHERED_MAX,
    PAYLOAD_SIZE_MAX,
    PROBE_S,
    RETRY_NS,
    Streaming,
    Subjects,
)
from node.server.unknown_acks import HELD_MAX
from node.units import SECOND, ChannelID, SubscriptionID

NOW_NS = 77_000_000_000


class Origin:
    """Records submitted commands; the test sets their outcomes."""

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.answers: list[Callable[[Outcome], None] | tuple[Any, ...] | None] = []
        self.flushes = 0
        self.publish_answered: Callable[[tuple[Any, ...], Outcome], None]

    def submit(self, command: Any, answer: Callable[[Outcome], None] | None = None) -> None:
        self.commands.append(command)
        self.answers.append(answer)

    def submit_publish(self, command: Publish, pending: tuple[Any, ...], size: int) -> None:
        assert encoded_size(command) <= size
        self.commands.append(command)
        self.answers.append(pending)

    def flush(self) -> None:
        self.flushes += 1

    def outcome(self, outcome: Outcome, place: int = -1) -> None:
        """Answer the command at ``place`` with an outcome."""
        answer = self.answers[place]
        if isinstance(answer, tuple):
            self.publish_answered(answer, outcome)
        elif answer is not None:
            answer(outcome)


class Service:
    """The service of one node; cluster ID ``c``, cluster tag ``tag``."""

    def __init__(self, state: State | None = None, subjects: Subjects | None = None) -> None:
        self.state = State() if state is None else state
        self.state.cluster_tag = "tag"
        self.origin = Origin()
        self.handlers: dict[str, Callable[..., None]] = {}
        self.replies: list[tuple[bytes, bytes]] = []
        self.asked: list[tuple[str, Callable[[], None], Callable[[], None], float]] = []
        self.leader_known = True
        self.pinged: list[str] = []
        self.reachable: dict[bytes, list[object]] = {}
        """The connections of this node that subscribe to an inbox."""
        self.name = "random"
        self.clock = clock = ClusterClock(lambda: 0)
        clock.seen(NOW_NS)
        self.streaming = Streaming(
            subjects or Subjects.of("c"),
            state=lambda: self.state,
            origin=self.origin,  # type: ignore[arg-type]
            routing=self,
            requests=self,  # type: ignore[arg-type]
            clock=clock,
            leader_known=lambda: self.leader_known,
            client_pinged=self.pinged.append,
            nuid=lambda: self.name,
        )

    def serve(self, pattern: bytes, handler: Callable[..., None], *, announce: bool = False) -> object:
        assert pattern.decode() not in self.handlers
        self.handlers[pattern.decode()] = handler
        return object()

    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool,
    ) -> int:
        assert not to_services
        self.replies.append((subject, payload))
        return 1

    def is_served(self, subject: bytes) -> bool:
        return any(matches(pattern.encode(), subject) for pattern in self.handlers)

    def ask(
        self, inbox: str, answered: Callable[[], None], missed: Callable[[], None], timeout_s: float
    ) -> None:
        self.asked.append((inbox, answered, missed, timeout_s))

    def where(self, inbox: bytes) -> tuple[str, int] | None:
        return ("n1", 1) if inbox in self.reachable else None

    def local_receivers(self, inbox: bytes) -> list[Any]:
        return [SimpleNamespace(connection=connection) for connection in self.reachable.get(inbox, [])]

    def gets(
        self,
        pattern: str,
        payload: bytes,
        *,
        subject: str = "",
        reply: bytes = b"reply",
        source: object = None,
    ) -> None:
        self.handlers[pattern](source, (subject or pattern).encode(), reply, payload)

    @property
    def reply(self) -> bytes:
        """Take the only reply and return its payload."""
        ((subject, payload),) = self.replies
        assert subject == b"reply"
        self.replies.clear()
        return payload

    @property
    def command(self) -> Any:
        (command,) = self.origin.commands
        return command

    # --- requests, as clients make them ---

    def connects(
        self, client: str = "me", inbox: str = "hb.me", protocol: int = 1, conn_id: bytes = b"conn"
    ) -> None:
        request = stan.ConnectRequest(client, inbox, protocol, conn_id, 5, 3)
        self.gets("_STAN.discover.c", stan.encode_connect(request))

    def publishes(self, channel: str = "foo", *, suffix: str = "", **fields: Any) -> None:
        request = stan.PublishRequest(
            **{
                "client_id": "me",
                "guid": "g",
                "channel": channel,
                "data": b"data",
                "conn_id": b"conn",
                **fields,
            }
        )
        subject = f"_STAN.pub.c.{suffix or channel}"
        self.gets("_STAN.pub.c.>", stan.encode_publish(request), subject=subject)

    def subscribes(self, **fields: Any) -> None:
        request = stan.SubscriptionRequest(
            **{
                "client_id": "me", "channel": "foo", "inbox": "in", "max_in_flight": 10, "ack_wait_s": 30,
                **fields,
            }
        )  # fmt: skip
        self.gets("_STAN.sub.c", stan.encode_subscription(request))

    def knows(self, *ack_inboxes: str) -> None:
        """Apply entries that open subscriptions of ``foo`` with these ack inboxes."""
        for inbox in ack_inboxes:
            self.state.by_ack_inbox[inbox] = subscription_of("foo")

    def acks(self, seq: int, inbox: str = "_INBOX.tag.a", channel: str = "foo") -> None:
        payload = stan.encode_ack(stan.Ack(channel, seq))
        self.gets("_INBOX.tag.*", payload, subject=inbox, reply=b"")

    def closes_subscription(self, *, for_good: bool = False) -> None:
        request = stan.UnsubscribeRequest("me", "foo", "in")
        subject = "_STAN.unsub.c" if for_good else "_STAN.subclose.c"
        self.gets(subject, stan.encode_unsubscribe(request))

    def pings(self, conn_id: bytes = b"conn") -> None:
        self.gets("_STAN.discover.c.pings", stan.encode_ping(stan.PingRequest(conn_id)))


def registered_client() -> Client:
    talk = Conversation()
    talk.connect("me")
    return talk.state.clients["me"]


def registered() -> State:
    """A state in which the client ``me`` has connection ID ``conn``."""
    talk = Conversation()
    talk.connect("me")
    client = talk.state.clients["me"]
    talk.state.by_conn[b"conn"] = client
    return talk.state


def test_seven_subjects_are_served_and_the_acks_once_there_is_a_tag() -> None:
    """MON-13. Streaming protocol 1; R18: acknowledgements are recognised by the cluster's tag on every
    node."""
    service = Service()
    assert len(service.handlers) == 7
    service.state.cluster_tag = ""
    service.streaming.bootstrapped()
    assert len(service.handlers) == 7
    service.state.cluster_tag = "tag"
    service.streaming.bootstrapped()
    service.streaming.bootstrapped()
    assert len(service.handlers) == 8
    assert "_INBOX.tag.*" in service.handlers


def test_another_discover_prefix() -> None:
    """CON-11: clients connect and ping there; they learn the other subjects from the answer."""
    subjects, usual = Subjects.of("c", "_OURS.here"), Subjects.of("c")
    assert (subjects.discover, subjects.pings) == ("_OURS.here.c", "_OURS.here.c.pings")
    assert replace(subjects, discover=usual.discover, pings=usual.pings) == usual


def test_requests_leave_no_cycles() -> None:
    """Waiting requests are freed by reference counts: full collections are rare (`collecting`)."""
    service = Service(registered())
    requests: list[tuple[Callable[[], None], Outcome]] = [
        (service.connects, ClientOpened("me")),
        (service.connects, Refused(refusals.INVALID_CLIENT_ID)),
        (service.connects, Probing("me", registered_client().generation, "hb.other")),
        (service.subscribes, SubscriptionOpened("_INBOX.tag.a")),
        (lambda: service.subscribes(durable="d"), DurableTaken("_INBOX.tag.b", "in.other")),
        (service.closes_subscription, OK),
        (lambda: service.closes_subscription(for_good=True), OK),
        (service.pings, OK),
    ]
    for request, outcome in requests:
        request()
        submitted = len(service.origin.answers)
        if submitted:
            answers, service.origin.answers = service.origin.answers, []
            waits = [weakref.ref(answer) for answer in answers if callable(answer)]
            gc.disable()
            try:
                for answer in answers:
                    assert callable(answer)
                    answer(outcome)
                answers.clear()
                del answer
                service.asked.clear()
                service.origin.answers.clear()
                assert [wait() for wait in waits] == [None] * submitted, outcome
            finally:
                gc.enable()


# --- connecting -----------------------------------------------------------------------------------


def test_a_client_learns_the_subjects() -> None:
    """CON-01, CON-02, CON-08."""
    service = Service()
    service.connects()
    assert service.command == ClientOpen("me", b"conn", "hb.me", 1, 5, 3, NOW_NS + 2_000_000_000)
    service.origin.outcome(ClientOpened("me"))
    response = stan.decode_connect_response(service.reply)
    assert response.pub_prefix == "_STAN.pub.c"
    assert response.ping_requests == "_STAN.discover.c.pings"
    assert (response.ping_interval_s, response.ping_max_out, response.protocol) == (5, 3, 1)


def test_an_old_client_is_told_nothing_of_pings() -> None:
    """CON-03."""
    service = Service()
    service.connects(protocol=0)
    service.origin.outcome(ClientOpened("me"))
    response = stan.decode_connect_response(service.reply)
    assert (response.ping_requests, response.ping_interval_s, response.protocol) == ("", 0, 1)


@pytest.mark.parametrize("client", ["", "a.b", "a b", "a:b", "a*", "ä"])
def test_what_no_state_could_make_valid_is_refused_here(client: str) -> None:
    """R26, CON-05: an origin refuses only what apply would refuse in any state."""
    service = Service()
    service.connects(client)
    assert stan.decode_connect_response(service.reply).error == refusals.INVALID_CLIENT_ID
    assert service.origin.commands == []


def test_garbage_is_answered_as_the_protocol_says() -> None:
    """CON-04, PUB-02, SUB-01, UNS-05, UNS-06: an error each, and no command."""
    service = Service()
    errors = {
        "_STAN.discover.c": (stan.decode_connect_response, refusals.INVALID_CONNECT),
        "_STAN.sub.c": (stan.decode_subscription_response, refusals.INVALID_SUBSCRIBE),
    }
    for subject, (decode, text) in errors.items():
        service.gets(subject, b"dummy")
        assert decode(service.reply).error == text  # type: ignore[operator]
    service.gets("_STAN.pub.c.>", b"dummy", subject="_STAN.pub.c.foo")
    assert stan.decode_pub_ack(service.reply).error == refusals.INVALID_PUBLISH
    for subject in ("_STAN.unsub.c", "_STAN.subclose.c"):
        service.gets(subject, b"dummy")
        assert stan.decode_unsubscribe_response(service.reply) == refusals.INVALID_UNSUBSCRIBE
    service.gets("_STAN.close.c", b"dummy")
    assert stan.decode_close_response(service.reply) == refusals.INVALID_CLOSE
    service.connects(inbox="")
    assert stan.decode_connect_response(service.reply).error == refusals.INVALID_CONNECT
    assert service.origin.commands == []


def test_a_taken_id_is_probed_for_half_a_second() -> None:
    """R17, DUP-01: the client that has it answers, so it keeps it."""
    service = Service()
    service.connects()
    service.origin.outcome(Probing("me", (4, 0), "hb.old"))
    inbox, answered, _, timeout_s = service.asked[0]
    assert (inbox, timeout_s) == ("hb.old", PROBE_S)
    assert service.replies == []
    answered()
    assert service.origin.commands[-1] == ClientKeep("me", (4, 0))
    service.origin.outcome(Refused(refusals.CLIENT_ID_TAKEN))
    assert stan.decode_connect_response(service.reply).error == refusals.CLIENT_ID_TAKEN


def test_one_that_does_not_answer_is_replaced() -> None:
    """R17, DUP-05: only the generation that was probed."""
    service = Service()
    service.connects()
    service.origin.outcome(Probing("me", (4, 0), "hb.old"))
    service.asked[0][2]()
    assert service.origin.commands[-1] == ClientReplace(
        "me", (4, 0), b"conn", "hb.me", 1, 5, 3, NOW_NS + 2_000_000_000
    )
    assert service.origin.flushes == 1  # nobody's read will send it
    service.origin.outcome(ClientOpened("me"))
    assert stan.decode_connect_response(service.reply).error == ""


def test_a_request_that_came_too_late_is_not_answered() -> None:
    """R8: its client has given up; a refusal without a text is not sent."""
    service = Service()
    service.connects()
    service.origin.outcome(Refused(""))
    service.subscribes()
    service.origin.outcome(Refused(""))
    assert service.replies == []


# --- publishing and acknowledging -----------------------------------------------------------------


def test_a_publish_becomes_a_command_and_is_acked_when_it_is_applied() -> None:
    """PUB-01: the ack carries the guid, and no error."""
    service = Service()
    service.publishes(reply="r")
    assert service.command == Publish("", b"conn", "foo", message_body("foo", "r", b"data"))
    assert service.replies == []
    service.origin.outcome(OK)
    assert stan.decode_pub_ack(service.reply) == stan.PubAck("g", "")


def test_what_could_not_be_delivered_is_refused_at_once() -> None:
    """An external NATS server has a lower limit; the delivery would be retried for ever."""
    service = Service()
    service.streaming.body_size_max = lambda: 10
    service.publishes("foo", data=b"123")
    assert len(service.origin.commands) == 1
    service.publishes("foo", data=b"1234")
    assert stan.decode_pub_ack(service.reply).error == refusals.MESSAGE_TOO_LONG
    service.streaming.body_size_max = lambda: None
    service.publishes("foo", data=b"1234")
    assert len(service.origin.commands) == 2


def test_a_refused_publish_says_why() -> None:
    """PUB-17."""
    service = Service()
    service.publishes()
    service.origin.outcome(Refused("too many channels"))
    assert stan.decode_pub_ack(service.reply) == stan.PubAck("g", "too many channels")


def test_while_deliveries_are_held_so_are_the_answers_to_publishes() -> None:
    """PUB-09, R4: a client that publishes and subscribes on one connection gets the message first."""
    service = Service()
    service.streaming.hold()
    for _ in range(2):
        service.publishes()
        service.origin.outcome(OK)
    assert service.replies == []
    service.streaming.hold()
    service.streaming.resume()
    assert len(service.replies) == 2
    service.publishes()
    service.origin.outcome(OK)
    assert len(service.replies) == 3


def test_a_publish_without_a_reply_subject_is_not_acked() -> None:
    """PUB-07."""
    service = Service()
    request = stan.PublishRequest("me", "g", "foo", "", b"", b"conn")
    service.gets("_STAN.pub.c.>", stan.encode_publish(request), subject="_STAN.pub.c.foo", reply=b"")
    service.origin.outcome(OK)
    assert service.replies == []


@pytest.mark.parametrize(
    "fields",
    [
        {"guid": ""},
        {"channel": "a*"},
        {"channel": "a..b"},
        {"channel": "a/b"},
        {"channel": "foo bar"},
        {"suffix": "bar"},  # PUB-12: permissions are by subject
        {"client_id": "", "conn_id": b""},
    ],
)
def test_a_publish_that_can_not_be_valid_is_refused_at_once(fields: dict[str, Any]) -> None:
    """PUB-02, PUB-05, PUB-12, R26."""
    service = Service()
    service.publishes(**fields)
    assert stan.decode_pub_ack(service.reply).error == refusals.INVALID_PUBLISH
    assert service.origin.commands == []


LONG = "n" * (NAME_SIZE_MAX + 1)
"""Longer than the maximum for names; an earlier release accepted it."""

MULTIBYTE = "\u00e4" * (NAME_SIZE_MAX // 2 + 1)
"""Short enough in characters, too long in bytes."""


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client": LONG}, refusals.INVALID_CLIENT_ID),
        ({"inbox": LONG}, refusals.INVALID_CONNECT),
        ({"inbox": MULTIBYTE}, refusals.INVALID_CONNECT),
        ({"conn_id": LONG.encode()}, refusals.INVALID_CONNECT),
    ],
)
def test_a_client_registers_no_long_names(fields: dict[str, Any], error: str) -> None:
    """Each is kept in memory on every node: 1,500 IDs of 200 KB took 533 MB, for ever."""
    service = Service()
    service.connects(**fields)
    assert stan.decode_connect_response(service.reply).error == error
    assert service.origin.commands == []


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client_id": LONG}, refusals.UNKNOWN_CLIENT_ID),
        ({"channel": "c" * 256}, refusals.INVALID_SUBJECT),
        ({"queue": LONG}, refusals.INVALID_SUBSCRIBE),
        ({"durable": LONG}, refusals.INVALID_SUBSCRIBE),
        ({"durable": MULTIBYTE}, refusals.INVALID_SUBSCRIBE),
        ({"inbox": LONG}, refusals.INVALID_SUBSCRIBE),
    ],
)
def test_a_subscription_has_no_long_names(fields: dict[str, Any], error: str) -> None:
    service = Service()
    service.subscribes(**fields)
    assert stan.decode_subscription_response(service.reply).error == error
    assert service.origin.commands == []


def test_names_of_the_greatest_length_are_taken() -> None:
    service = Service()
    name = LONG[1:]
    service.connects(name, inbox=name, conn_id=name.encode())
    service.subscribes(client_id=name, queue=name, durable=name, inbox=name)
    service.publishes(conn_id=name.encode(), guid=name)
    assert [type(command) for command in service.origin.commands] == [ClientOpen, SubscriptionOpen, Publish]


def test_requests_that_name_what_is_too_long_to_exist_are_not_replicated() -> None:
    """Otherwise every node would get a request of a megabyte without effect."""
    service = Service()
    for fields in ({"conn_id": LONG.encode()}, {"conn_id": b"", "client_id": LONG}, {"guid": LONG}):
        service.publishes(**fields)
        assert stan.decode_pub_ack(service.reply).error == refusals.INVALID_PUBLISH
    service.publishes(conn_id=b"", client_id="\u00e4")
    assert stan.decode_pub_ack(service.reply).error == refusals.INVALID_PUBLISH
    service.pings(LONG.encode())
    assert stan.decode_ping_response(service.reply) == refusals.CLIENT_REPLACED
    service.gets("_STAN.close.c", stan.encode_close(stan.CloseRequest(LONG)))
    assert stan.decode_close_response(service.reply) == refusals.UNKNOWN_CLIENT_ID
    for request, error in (
        (stan.UnsubscribeRequest(LONG, "foo", "in"), refusals.UNKNOWN_CLIENT_ID),
        (stan.UnsubscribeRequest("me", "c" * 256, "in"), refusals.UNKNOWN_CHANNEL),
        (stan.UnsubscribeRequest("me", "foo", LONG), refusals.INVALID_SUBSCRIPTION),
        (stan.UnsubscribeRequest("me", "foo", "", LONG), refusals.INVALID_SUBSCRIPTION),
    ):
        for subject in ("_STAN.unsub.c", "_STAN.subclose.c"):
            service.gets(subject, stan.encode_unsubscribe(request))
            assert stan.decode_unsubscribe_response(service.reply) == error
    assert service.origin.commands == []


def test_a_publish_of_another_clusters_node_is_no_longer_than_one_of_a_client() -> None:
    """Its frame may be larger than a batch and an entry."""
    service = Service()
    service.publishes(data=b"m" * (PAYLOAD_SIZE_MAX - 100))
    assert len(service.origin.commands) == 1
    service.publishes(data=b"m" * PAYLOAD_SIZE_MAX)
    assert stan.decode_pub_ack(service.reply).error == refusals.INVALID_PUBLISH
    assert len(service.origin.commands) == 1


def test_long_names_that_an_earlier_release_took_can_still_be_used_and_ended() -> None:
    talk = Conversation()
    talk.connect(LONG)
    talk.subscribe("in", LONG, durable=LONG)
    talk.state.by_conn[LONG.encode()] = talk.state.clients[LONG]
    service = Service(talk.state)
    service.publishes(conn_id=b"", client_id=LONG)
    service.publishes(conn_id=LONG.encode())
    service.subscribes(client_id=LONG)
    service.gets("_STAN.unsub.c", stan.encode_unsubscribe(stan.UnsubscribeRequest(LONG, "foo", "", LONG)))
    service.gets("_STAN.close.c", stan.encode_close(stan.CloseRequest(LONG)))
    kinds = [type(command) for command in service.origin.commands]
    assert kinds == [Publish, Publish, SubscriptionOpen, Unsubscribe, ClientClose]
    replies = len(service.replies)
    service.pings(LONG.encode())
    assert service.replies[replies:] == [(b"reply", b"")]


def test_one_connection_registers_a_bounded_number_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that keeps registering must not fill every node's memory."""
    monkeypatch.setattr(streaming, "CLIENTS_PER_CONNECTION_MAX", 2)
    service = Service()
    registered = registered_client()

    def connects(client: str, outcome: Outcome | None = None, source: object = "a connection") -> str:
        request = stan.ConnectRequest(client, "hb", 1, client.encode())
        before = len(service.origin.commands)
        service.gets("_STAN.discover.c", stan.encode_connect(request), source=source)
        if len(service.origin.commands) == before:
            return stan.decode_connect_response(service.reply).error
        if isinstance(outcome, ClientOpened):
            service.state.clients[client] = registered
        if outcome is not None:
            service.origin.outcome(outcome)
            return stan.decode_connect_response(service.reply).error
        return ""

    assert connects("a", ClientOpened("a")) == ""
    assert connects("b", Refused(refusals.CLIENT_ID_TAKEN)) == refusals.CLIENT_ID_TAKEN
    assert connects("b") == ""  # no answer yet
    assert connects("c") == refusals.TOO_MANY_CLIENTS
    assert connects("a", ClientOpened("a")) == ""  # it is asked again, for its answer was lost
    assert connects("c", source="another") == ""
    assert connects("c", source=None) == ""
    service.gets("_STAN.close.c", stan.encode_close(stan.CloseRequest("a")), source="a connection")
    service.origin.outcome(OK)
    assert service.reply == b""
    assert connects("c", ClientOpened("c")) == ""
    assert connects("d") == refusals.TOO_MANY_CLIENTS
    del service.state.clients["c"]  # its heartbeats have failed
    service.clock.received(NOW_NS + SECOND)
    assert connects("d") == ""
    service.streaming.closed("a connection")
    assert connects("d") == ""


@pytest.mark.parametrize(
    "inbox",
    [
        "_STANCHION.admin.c.client.ls",
        "_STANCHION.x",
        "_STAN.sub.c",
        "_STAN.acks.x",
        "_OWN.discover.c",
        "_OWN.discover.c.pings",
        "_INBOX.tag.x",
        "_INBOX.*",
        "a b",
        "a..b",
    ],
)
def test_an_inbox_is_no_subject_of_a_service(inbox: str) -> None:
    """The service would answer heartbeats for the client, which would never be unresponsive."""
    service = Service(subjects=Subjects.of("c", "_OWN.discover"))
    service.streaming.bootstrapped()
    service.gets(
        "_OWN.discover.c", stan.encode_connect(stan.ConnectRequest("me", inbox, 1, b"conn")), reply=b"reply"
    )
    assert stan.decode_connect_response(service.reply).error == refusals.INVALID_CONNECT
    service.subscribes(inbox=inbox)
    assert stan.decode_subscription_response(service.reply).error == refusals.INVALID_SUBSCRIBE
    assert service.origin.commands == []


@pytest.mark.parametrize("reply", [b"_STAN.close.c", b"_STANCHION.admin.c.channel.rm", b""])
def test_an_answer_is_no_request(reply: bytes) -> None:
    """A guid of 32 bytes makes a publish's acknowledgement valid JSON: a request of an operator."""
    service = Service()
    service.gets("_STAN.sub.c", b"dummy", reply=reply)
    service.publishes()
    service.origin.publish_answered((reply, '{"channel": "orders"}'.ljust(32)), OK)
    assert service.replies == []


def test_what_is_no_ack_is_not_gathered() -> None:
    """Acks are kept and replicated, so their subject and channel have limited lengths."""
    service = Service()
    service.streaming.bootstrapped()
    service.acks(1, "_INBOX.tag." + "a" * ACK_INBOX_SIZE_MAX)
    service.acks(1, channel="")
    service.acks(1, channel="c" * 256)
    service.acks(0)
    service.streaming.read_done()
    assert service.origin.commands == []


def test_an_ack_that_no_state_could_take_is_not_replicated() -> None:
    """An ack inbox belongs to one subscription, and that to one channel (R18, R26)."""
    service = Service()
    service.streaming.bootstrapped()
    service.state.by_ack_inbox["_INBOX.tag.a"] = subscription_of("bar")
    service.acks(1, channel="foo")
    service.acks(2, channel="bar")
    service.streaming.read_done()
    assert service.origin.commands == [Acked("bar", "_INBOX.tag.a", [2])]
    assert service.streaming.unknown_acks.dropped == 1


def test_acks_on_unknown_inboxes_are_not_replicated() -> None:
    """R18: any client that knows the tag could make the cluster write an entry for each."""
    service = Service()
    service.streaming.bootstrapped()
    for number in range(HELD_MAX + 10):
        service.acks(1, f"_INBOX.tag.{number:022d}")
        service.streaming.read_done()
    assert service.origin.commands == []
    assert len(service.streaming.unknown_acks) == HELD_MAX
    assert service.streaming.unknown_acks.dropped == 10


def test_ack_on_an_inbox_that_this_node_does_not_know_yet_goes_through() -> None:
    """R18: this node is behind the node that delivered the message."""
    service = Service()
    service.streaming.bootstrapped()
    service.acks(3, "_INBOX.tag.a", channel="bar")
    service.acks(4, "_INBOX.tag.b", channel="bar")
    service.streaming.read_done()
    assert service.origin.commands == []
    service.state.by_ack_inbox["_INBOX.tag.a"] = subscription_of("bar")
    service.streaming.opened("_INBOX.tag.a")
    assert service.origin.commands == [Acked("bar", "_INBOX.tag.a", [3])]
    assert service.origin.flushes == 2
    service.streaming.opened("_INBOX.tag.a")
    assert len(service.origin.commands) == 1


def test_snapshot_that_knows_the_inbox_lets_its_acks_go() -> None:
    service = Service()
    service.streaming.bootstrapped()
    service.acks(3, "_INBOX.tag.a", channel="bar")
    service.acks(4, "_INBOX.tag.b", channel="bar")
    service.streaming.read_done()
    service.state.by_ack_inbox["_INBOX.tag.a"] = subscription_of("bar")
    service.streaming.replaced()
    assert service.origin.commands == [Acked("bar", "_INBOX.tag.a", [3])]


def test_node_without_a_leader_sends_unknown_acks_on() -> None:
    """It doesn't know how far behind it is."""
    service = Service()
    service.leader_known = False
    service.streaming.bootstrapped()
    service.acks(3, "_INBOX.tag.a")
    service.streaming.read_done()
    assert service.origin.commands == [Acked("foo", "_INBOX.tag.a", [3])]


def test_an_ack_that_is_repeated_in_one_read_counts_once() -> None:
    service = Service()
    service.knows("_INBOX.tag.a")
    service.streaming.bootstrapped()
    for seq in (3, 1, 3, 3, 1, 2):
        service.acks(seq)
    service.streaming.read_done()
    assert service.origin.commands == [Acked("foo", "_INBOX.tag.a", [3, 1, 2])]


def subscription_of(name: str) -> Subscription:
    channel = Channel(ChannelID(1), name, (1, 1), limits_of(Settings(), name))
    group = Group(1, channel, "", "", "me", cursor=5)
    return Subscription(SubscriptionID(1), (1, 1), "me", group, "in", "_INBOX.tag.a", 10, SECOND)


def test_acks_of_one_read_are_gathered_up_to_a_number() -> None:
    """A command with all of them would have no maximum size."""
    service = Service()
    service.knows("_INBOX.tag.a")
    service.streaming.bootstrapped()
    for seq in range(ACKS_GATHERED_MAX + 1):
        service.acks((1 << 63) + seq)
    service.streaming.read_done()
    assert [len(command.seqs) for command in service.origin.commands] == [ACKS_GATHERED_MAX, 1]
    assert max(map(encoded_size, service.origin.commands)) < BATCH_BYTES


def test_an_old_clients_publish_is_known_by_its_id() -> None:
    """PUB-04: the client ID counts only where there is no connection ID."""
    service = Service()
    service.publishes(conn_id=b"")
    assert service.command.client_id == "me"


def test_acks_of_one_read_are_gathered_by_subscription() -> None:
    """One command each, sent when the read is done."""
    service = Service()
    service.knows("_INBOX.tag.a", "_INBOX.tag.b")
    service.streaming.bootstrapped()
    for seq in (1, 2):
        service.acks(seq)
    service.acks(7, "_INBOX.tag.b")
    assert service.origin.commands == []
    service.streaming.read_done()
    assert service.origin.commands == [
        Acked("foo", "_INBOX.tag.a", [1, 2]),
        Acked("foo", "_INBOX.tag.b", [7]),
    ]
    assert service.origin.flushes == 1


def test_acks_go_ahead_of_the_request_that_follows_them() -> None:
    """UNS-09, DUR-03: what was acknowledged before a close counts."""
    service = Service()
    service.knows("_INBOX.tag.a")
    service.streaming.bootstrapped()
    service.acks(1)
    service.closes_subscription()
    service.acks(2)
    service.gets("_STAN.close.c", stan.encode_close(stan.CloseRequest("me")))
    assert [type(command) for command in service.origin.commands] == [
        Acked, SubscriptionClose, Acked, ClientClose,
    ]  # fmt: skip


def test_a_close_names_the_client_whose_connection_asks() -> None:
    """R8: then it can't close a later client with the same ID."""
    talk = Conversation()
    talk.connect("me")
    service = Service(talk.state)
    service.reachable[b"hb.me"] = ["its connection"]
    request = stan.encode_close(stan.CloseRequest("me"))
    for source in ("its connection", "another", None):
        service.gets("_STAN.close.c", request, source=source)
    service.gets("_STAN.close.c", stan.encode_close(stan.CloseRequest("you")), source="its connection")
    generation = talk.state.clients["me"].generation
    assert service.origin.commands == [
        ClientClose("me", generation),
        ClientClose("me", ANY_GENERATION),
        ClientClose("me", ANY_GENERATION),
        ClientClose("you", ANY_GENERATION),
    ]


def test_the_service_is_not_made_to_ask_itself() -> None:
    """The answer to a publish would have closed the client that its guid names, despite permissions."""
    service = Service()
    service.gets("_STAN.pub.c.>", b"dummy", subject="_STAN.pub.c.foo", reply=b"_STAN.close.c")
    request = stan.encode_publish(stan.PublishRequest("me", "victim", "foo", "", b"", b"conn"))
    for reply in (b"_STAN.close.c", b"_STAN.acks.x"):
        service.gets("_STAN.pub.c.>", request, subject="_STAN.pub.c.foo", reply=reply)
        service.origin.outcome(OK)
    assert [subject for subject, _ in service.replies] == [b"_STAN.acks.x"]
    service.replies.clear()
    service.connects(inbox="_STAN.close.c")
    assert stan.decode_connect_response(service.reply).error == refusals.INVALID_CONNECT


def test_a_broken_ack_is_ignored() -> None:
    """ACK-01."""
    service = Service()
    service.streaming.bootstrapped()
    service.gets("_INBOX.tag.*", b"dummy", subject="_INBOX.tag.a", reply=b"")
    service.streaming.read_done()
    assert service.origin.commands == []
    assert service.replies == []


# --- subscriptions --------------------------------------------------------------------------------


def test_a_subscription_gets_an_ack_inbox_nobody_can_guess() -> None:
    """R18, SUB-12: under the cluster's tag, drawn by its origin."""
    service = Service()
    service.subscribes(durable="d", start=4)
    command = service.command
    assert isinstance(command, SubscriptionOpen)
    assert command.ack_inbox == "_INBOX.tag.random"
    assert (command.durable, command.start, command.ack_wait_ns) == ("d", 4, 30_000_000_000)
    assert command.valid_until_ns == NOW_NS + 2_000_000_000
    service.origin.outcome(SubscriptionOpened("_INBOX.tag.random"))
    assert stan.decode_subscription_response(service.reply).ack_inbox == "_INBOX.tag.random"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"client_id": "", "ack_wait_s": 0}, refusals.CLIENT_ID_MISSING),
        ({"ack_wait_s": 0, "max_in_flight": 0}, refusals.INVALID_ACK_WAIT),
        ({"ack_wait_s": -1}, refusals.INVALID_ACK_WAIT),
        ({"max_in_flight": 0, "start": 5}, refusals.INVALID_MAX_IN_FLIGHT),
        ({"start": 5, "channel": "a*"}, refusals.INVALID_START),
        ({"channel": "a*"}, refusals.INVALID_SUBJECT),
        ({"inbox": "a.*"}, refusals.INVALID_SUBSCRIBE),
        ({"inbox": "_STAN.pub.c.foo"}, refusals.INVALID_SUBSCRIBE),
    ],
)
def test_the_first_check_that_fails_is_the_answer(fields: dict[str, Any], text: str) -> None:
    """SUB-02 to SUB-06: in the protocol's order; nothing reaches the log."""
    service = Service()
    service.subscribes(**fields)
    assert stan.decode_subscription_response(service.reply).error == text
    assert service.origin.commands == []


def test_closing_and_unsubscribing_are_told_apart() -> None:
    """UNS-01: both succeed with an empty answer."""
    for for_good, kind in ((True, Unsubscribe), (False, SubscriptionClose)):
        service = Service()
        service.closes_subscription(for_good=for_good)
        assert type(service.command) is kind
        service.origin.outcome(OK)
        assert service.reply == b""


def test_a_refused_close_says_why() -> None:
    """UNS-02."""
    service = Service()
    service.closes_subscription()
    service.origin.outcome(Refused("stan: unknown channel"))
    assert stan.decode_unsubscribe_response(service.reply) == "stan: unknown channel"


def test_unsubscribing_by_name_too_late_is_not_answered() -> None:
    """R8, UNS-12: an empty answer would mean that the durable is gone."""
    service = Service()
    service.closes_subscription(for_good=True)
    assert service.command.valid_until_ns == NOW_NS + service.state.settings.request_timeout_ns
    service.origin.outcome(Refused(refusals.TOO_LATE))
    assert service.replies == []


# --- pings ----------------------------------------------------------------------------------------


def test_a_known_client_is_answered_from_what_is_applied() -> None:
    """PNG-01, R26: without a command in the log, while a leader is known."""
    service = Service(registered())
    service.pings()
    assert service.reply == b""
    assert service.origin.commands == []


def test_without_a_leader_pings_are_not_answered() -> None:
    """PNG-04: a missing answer costs a client one ping; an error would end its session."""
    service = Service(registered())
    service.leader_known = False
    service.pings()
    assert service.replies == []


def test_only_the_log_says_that_a_client_is_not_registered() -> None:
    """PNG-02, R26: this node's state may be behind."""
    service = Service()
    service.pings()
    assert service.command == ClientCheck(b"conn")
    assert service.replies == []
    service.origin.outcome(Refused(refusals.CLIENT_REPLACED))
    assert stan.decode_ping_response(service.reply) == refusals.CLIENT_REPLACED


def test_a_ping_that_says_nothing_is_ignored() -> None:
    """PNG-03."""
    service = Service()
    for payload in (b"", b"dummy"):
        service.gets("_STAN.discover.c.pings", payload)
    assert service.replies == []
    assert service.origin.commands == []


def test_an_unresponsive_clients_ping_is_reported_to_the_leader() -> None:
    """HBT-06: the leader sends a heartbeat at once, so that the client is responsive again."""
    state = registered()
    service = Service(state)
    service.pings()
    assert service.pinged == []
    state.clients["me"].unresponsive = True
    service.pings()
    assert service.pinged == ["me"]


# --- a subscribe whose answer was lost ------------------------------------------------------------


def version_2() -> Service:
    return Service(Conversation().state)


def test_a_durable_with_a_subscribed_inbox_is_a_duplicate() -> None:
    service = version_2()
    service.reachable[b"old"] = [object()]
    service.subscribes(durable="d", inbox="new")
    service.origin.outcome(DurableTaken("ack.old", "old"))
    assert stan.decode_subscription_response(service.reply).error == refusals.DUPLICATE_DURABLE
    assert len(service.origin.commands) == 1


def test_a_durable_without_a_subscribed_inbox_is_replaced() -> None:
    """Its client gave up waiting, unsubscribed from the inbox and opens it again with another."""
    service = version_2()
    service.subscribes(durable="d", inbox="new")
    opened = service.command
    flushes = service.origin.flushes
    service.origin.outcome(DurableTaken("ack.old", "old"))
    assert service.origin.commands[1] == SubscriptionReplace(*opened, replaces="ack.old")
    assert service.origin.flushes > flushes
    service.origin.outcome(SubscriptionOpened("ack.new"))
    assert stan.decode_subscription_response(service.reply).ack_inbox == "ack.new"


def test_a_second_attempt_replaces_the_first() -> None:
    """After an election: the client has given up, but keeps its first inbox, as stan.py does."""
    service = version_2()
    fresh = iter(range(100))

    def subscribes(**fields: str) -> None:
        service.name = f"random{next(fresh)}"
        service.subscribes(**fields)

    subscribes(durable="d", inbox="one")
    subscribes(durable="d", inbox="at.once")
    service.clock.seen(NOW_NS + RETRY_NS)
    subscribes(durable="d", inbox="two")
    subscribes(durable="d", inbox="three")
    subscribes(durable="other", inbox="four")
    subscribes(queue="q", durable="d", inbox="five")
    one, at_once, two, three, four, five = service.origin.commands
    assert isinstance(two, SubscriptionReplace)
    assert isinstance(three, SubscriptionReplace)
    assert (two.replaces, three.replaces) == (one.ack_inbox, two.ack_inbox)
    assert {type(each) for each in (one, at_once, four, five)} == {SubscriptionOpen}
    service.origin.outcome(SubscriptionOpened(three.ack_inbox), 3)
    subscribes(durable="d", inbox="six")
    assert isinstance(service.origin.commands[-1], SubscriptionOpen), "nothing is opening any more"


def test_version_1_knows_no_replacing() -> None:
    """R24."""
    service = Service(Conversation(version=1).state)
    service.subscribes(durable="d", inbox="one")
    service.clock.seen(NOW_NS + RETRY_NS)
    service.subscribes(durable="d", inbox="two")
    assert {type(each) for each in service.origin.commands} == {SubscriptionOpen}
