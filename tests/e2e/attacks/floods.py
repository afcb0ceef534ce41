"""Floods of operations that deliver nothing, and very many subscriptions."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

from e2e.attacks.plain import CHUNK_BYTES, repeat
from e2e.wire import Wire

from node.protocol import nats, streaming

CONNECTIONS = 20
"""Of the attack by many connections at once."""

SUBSCRIPTIONS = 50_000
"""Of one client that comes, goes and comes again."""


def unheard(port: int, until_s: float) -> None:
    """Publishes to one subject that nobody hears."""
    repeat(port, until_s, b"PUB nobody.hears 0\r\n\r\n")


def always_new(port: int, until_s: float) -> None:
    """Publishes to subjects that nobody hears, each another one."""
    subjects = b"".join(b"PUB nobody.hears.%d 0\r\n\r\n" % number for number in range(50_000))
    repeat(port, until_s, subjects)


def invalid_subscriptions(port: int, until_s: float) -> None:
    """Subscriptions that are refused, each with an error."""
    repeat(port, until_s, b"SUB a..b 1\r\n")


def connects(port: int, until_s: float) -> None:
    """Nothing but CONNECTs."""
    repeat(port, until_s, b'CONNECT {"verbose":false,"pedantic":false}\r\n')


def everything_and_back(port: int, until_s: float) -> None:
    """Subscribe to everything and end it, again and again: all routes change each time."""
    repeat(port, until_s, b"SUB > 1\r\nUNSUB 1\r\n", b'CONNECT {"verbose":false}\r\nPING\r\n')


def pings_of_many(port: int, until_s: float) -> None:
    """PINGs on twenty connections at once, whose answers are not read."""
    chunk = b"PING\r\n" * (CHUNK_BYTES // 6)
    while time.monotonic() < until_s:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            open_now = [stack.enter_context(_connected(port)) for _ in range(CONNECTIONS)]
            while time.monotonic() < until_s:
                for connection in open_now:
                    _exchange(connection, chunk)
                time.sleep(0.001)


def subscriptions(port: int, until_s: float) -> None:
    """One client subscribes to fifty thousand subjects and leaves at once; then again."""
    _come_and_go(port, until_s, lambda number: b"SUB many.%d %d\r\n" % (number, number))


def queue_group(port: int, until_s: float) -> None:
    """The same in one queue group."""
    _come_and_go(port, until_s, lambda number: b"SUB work crew %d\r\n" % number)


def patterns(port: int, until_s: float) -> None:
    """The same with patterns."""
    _come_and_go(port, until_s, lambda number: b"SUB many.*.%d %d\r\n" % (number, number))


def _come_and_go(port: int, until_s: float, subscription: Callable[[int], bytes]) -> None:
    all_of_them = b"".join(subscription(number) for number in range(SUBSCRIPTIONS)) + b"PING\r\n"
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), _connected(port) as connection:
            connection.settimeout(60)
            connection.sendall(all_of_them)
            received = b""
            while b"PONG" not in received:
                received = received[-4:] + connection.recv(1 << 16)


@contextlib.contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        connection.recv(1 << 12)
        yield connection


def _exchange(connection: socket.socket, chunk: bytes) -> None:
    """Send what the socket takes now, and read what is there.

    Raises:
        OSError: the server has closed the connection.
    """
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        connection.send(chunk)
    with contextlib.suppress(BlockingIOError):
        if not connection.recv(1 << 18):
            raise ConnectionResetError("closed by the server")


def bogus_acks(port: int, until_s: float) -> None:
    """Acknowledgements of messages that were never sent: at inboxes of nobody, each another one, and at the
    attacker's own.
    """
    name = f"bogus-{time.time_ns()}"
    with Wire(port) as wire:
        wire.hello()
        answer = wire.register(name)
        assert not answer.error, answer.error
        request = streaming.SubscriptionRequest(name, "bogus", "", f"_INBOX.{name}", 1024, 30)
        opened = streaming.decode_subscription_response(
            wire.ask(answer.sub_requests, streaming.encode_subscription(request))
        )
        assert not opened.error, opened.error
    inbox = opened.ack_inbox.encode()
    tag = inbox[: inbox.rindex(b".") + 1]
    strangers = b"".join(
        nats.pub(tag + b"%022d" % number, b"", streaming.encode_ack(streaming.Ack("bogus", number)))
        + nats.pub(inbox, b"", streaming.encode_ack(streaming.Ack("bogus", (1 << 40) + number)))
        for number in range(1, 2001)
    )
    repeat(port, until_s, strangers)
