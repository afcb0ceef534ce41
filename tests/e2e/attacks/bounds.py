"""Attacks with names, numbers and sizes: as long, as many and as large as they may be, or more."""

from __future__ import annotations

import contextlib
import itertools
import time

from e2e.attacks.plain import repeat
from e2e.wire import Wire

from node.protocol import nats, streaming

CLUSTER = "test-cluster"
ANSWERED_OF_LARGE = 4
"""Of the five requests of `large_requests`; an acknowledgement has no answer."""

DISCOVER = f"_STAN.discover.{CLUSTER}"


def _subscribe_groups(port: int, until_s: float, count: int, size: int) -> None:
    """Join ``count`` queue groups with names of ``size`` bytes on one subject, and read what comes."""
    with contextlib.suppress(ConnectionError), Wire(port) as wire:
        wire.hello()
        wire.send(
            b"".join(
                nats.sub(b"attacks.news", b"%d" % number + b"q" * (size - 8), b"%d" % number)
                for number in range(count)
            )
        )
        wire.socket.settimeout(0.2)
        while time.monotonic() < until_s:
            with contextlib.suppress(TimeoutError):
                if not wire.socket.recv(1 << 20):
                    return


def long_groups(port: int, until_s: float) -> None:
    """4,600 queue groups with names of 3.9 KB: 18 MB of names for each message."""
    _subscribe_groups(port, until_s, 4600, 3900)


def many_groups(port: int, until_s: float) -> None:
    """70,000 queue groups with short names."""
    _subscribe_groups(port, until_s, 70_000, 12)


def messages_for_groups(port: int, until_s: float) -> None:
    """Messages to the subject of those groups, as many as fit."""
    repeat(port, until_s, nats.pub(b"attacks.news", b"", b"m"))


def _connect(client: str, inbox: str, conn_id: bytes) -> bytes:
    request = streaming.encode_connect(streaming.ConnectRequest(client, inbox, 1, conn_id, 5, 3))
    return _ask(DISCOVER, request)


def _ask(subject: str, payload: bytes) -> bytes:
    return nats.pub(subject.encode(), b"attacks.replies", payload)


def long_names(port: int, until_s: float) -> None:
    """Client IDs, inboxes and connection IDs of a megabyte, by turns."""
    size = 1_000_000
    ping = streaming.encode_ping(streaming.PingRequest(b"k" * size))
    close = streaming.encode_close(streaming.CloseRequest("c" * size))
    publish = streaming.encode_publish(streaming.PublishRequest("c", "g" * size, "attacks", "", b""))
    subscription = streaming.SubscriptionRequest("c", "attacks", "q" * size, "i", 1, 30, "d" * 1000)
    requests = (
        _connect("c" * size, "_INBOX.hb", b"k"),
        _connect("c", "_INBOX." + "i" * size, b"k"),
        _connect("c", "_INBOX.hb", b"k" * size),
        _ask(f"{DISCOVER}.pings", ping),
        _ask(f"_STAN.close.{CLUSTER}", close),
        _ask(f"_STAN.pub.{CLUSTER}.attacks", publish),
        _ask(f"_STAN.sub.{CLUSTER}", streaming.encode_subscription(subscription)),
    )
    repeat(port, until_s, b"".join(requests))


def many_clients(port: int, until_s: float) -> None:
    """Client IDs with the longest names there may be, one after the other, each on its own connection ID."""
    numbers = itertools.count()
    while time.monotonic() < until_s:
        with contextlib.suppress(ConnectionError, TimeoutError), Wire(port) as wire:
            wire.hello()
            wire.send(nats.sub(b"attacks.replies", b"", b"r"))
            wire.socket.settimeout(5)
            while time.monotonic() < until_s:
                ids = [f"{next(numbers):08}".ljust(1024, "c") for _ in range(100)]
                wire.send(b"".join(_connect(each, "_INBOX." + each[:1000], each.encode()) for each in ids))
                for _ in ids:
                    wire.message()


def large_requests(port: int, until_s: float) -> None:
    """Requests other than publishes, of 8 MB, as large as a message can be: none may count for less."""
    size = (8 << 20) - 200
    channel = "c" * size
    end = streaming.encode_unsubscribe(streaming.UnsubscribeRequest("c", "attacks", "i" * size))
    requests = (
        _connect("c" * size, "_INBOX.hb", b"k"),
        _ask(f"_STAN.unsub.{CLUSTER}", end),
        _ask(f"_STAN.subclose.{CLUSTER}", end),
        _ask(f"_STAN.close.{CLUSTER}", streaming.encode_close(streaming.CloseRequest("c" * size))),
        _ask("_INBOX.nobody", streaming.encode_ack(streaming.Ack(channel, 1))),
    )
    while time.monotonic() < until_s:
        with contextlib.suppress(ConnectionError, TimeoutError), Wire(port) as wire:
            wire.hello()
            wire.send(nats.sub(b"attacks.replies", b"", b"r"))
            while time.monotonic() < until_s:
                for request in requests:
                    wire.send(request)
                for _ in range(ANSWERED_OF_LARGE):
                    wire.message()
