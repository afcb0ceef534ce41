"""Whatever a client sends, and however it is cut: nothing raises, and the same comes of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.nats import ClientParser
from node.server.auth import Authenticator, Permissions, User
from node.server.connection import Connection
from node.server.context import ClientLimits, Context, ServerInfo
from node.server.routing import Routing

WORDS = [
    b"CONNECT ",
    b'CONNECT {"verbose":false}\r\n',
    b'CONNECT {"verbose":true,"pedantic":true,"headers":true,"no_responders":true,"echo":false}\r\n',
    b'CONNECT {"user":"ann","pass":"x","verbose":false}\r\n',
    b'{"protocol":9}',
    b"PING\r\n",
    b"PONG\r\n",
    b"pub",
    b"PUB a 1\r\nx\r\n",
    b"PUB a.> r 0\r\n\r\n",
    b"PUB \xff b 0\r\n\r\n",
    b"HPUB a r 12 13\r\nNATS/1.0\r\n\r\nx\r\n",
    b"HPUB a 5 1\r\n",
    b"SUB a 1\r\n",
    b"SUB a.* q 2\r\n",
    b"SUB > 3\r\n",
    b"SUB a..b 4\r\n",
    b"SUB r 5\r\n",
    b"UNSUB 1\r\n",
    b"UNSUB 1 2\r\n",
    b"UNSUB 1 99999999999999999999\r\n",
    b"\r\n",
    b" ",
    b"\x00",
]
stream = st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=25).map(b"".join)


class Service:
    def __init__(self) -> None:
        self.closed_count = 0

    def read_done(self, connection: Connection) -> None:
        pass

    def drained(self, connection: Connection) -> None:
        pass

    def closed(self, connection: Connection) -> None:
        self.closed_count += 1


def make(*, users: bool = False) -> tuple[Connection, Service, Routing]:
    service = Service()
    routing = Routing("n1", send=lambda peer, value: None)
    permissions = Permissions(publish_deny=(b"a",), subscribe_deny=(b"a.b",))
    context = Context(
        routing=routing,
        service=service,
        info=ServerInfo("ID", "n1", "h", 1),
        clock=lambda: 5.0,
        limits=ClientLimits(max_payload=100, max_subscriptions=3, max_pending=5000),
        authenticator=Authenticator([User("ann", "x", permissions)] if users else []),
    )
    routing.serve(b"a", lambda *_: None)
    return Connection(context, cid=1, epoch=1, address=("1.2.3.4", 5)), service, routing


def outcome(connection: Connection) -> Any:
    return b"".join(connection.outbox), connection.close_reason, sorted(connection.subscriptions)


@settings(deadline=None, max_examples=300)
@given(stream, st.booleans())
def test_arbitrary_bytes_only_ever_close(data: bytes, users: bool) -> None:
    connection, service, routing = make(users=users)
    connection.received(data)
    if connection.closed:
        assert connection.close_reason
        assert routing.subscription_count == 1, "nothing of it stays but the service"
    assert service.closed_count == connection.closed
    assert sum(map(len, connection.outbox)) == connection.outbox_bytes
    if not connection.aborted:
        parser = ClientParser()  # what it says is always something a client can read
        parser.feed(b"".join(connection.outbox))
        parser.ops()


@settings(deadline=None, max_examples=200)
@given(stream, st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_how_bytes_are_cut_changes_nothing(data: bytes, cuts: list[int], users: bool) -> None:
    whole, _, _ = make(users=users)
    whole.received(data)
    pieces, _, _ = make(users=users)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        pieces.received(data[start:end])
    assert outcome(pieces) == outcome(whole)
