"""The bytes that Go programs send: what nats.go and stan.go write for each thing that they do.

Written by hand after the protocol, down to what no rule asks for and a parser meets all the same: the two
spaces of a SUB without a queue group, the space at the end of an UNSUB without a limit, NUIDs of 22
characters, inboxes of requests with eight more. Nothing here comes from the package under test.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator

NATS_VERSION = "1.22.1"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

PING = b"PING\r\n"
PONG = b"PONG\r\n"


class Nuid:
    """Names that are unique: twelve random characters, and ten that count in steps of a random size."""

    def __init__(self) -> None:
        self._prefix = "".join(secrets.choice(DIGITS) for _ in range(12))
        self._number = random.randrange(62**10)
        self._step = random.randrange(33, 333)

    def next(self) -> str:
        self._number = (self._number + self._step) % 62**10
        number, text = self._number, ""
        for _ in range(10):
            number, digit = divmod(number, 62)
            text = DIGITS[digit] + text
        return self._prefix + text


_nuid = Nuid()


def new_nuid() -> str:
    return _nuid.next()


def new_inbox() -> str:
    return f"_INBOX.{new_nuid()}"


def response_token() -> str:
    """The last token of the inbox for one request."""
    return "".join(random.choice(DIGITS) for _ in range(8))


# --- NATS -----------------------------------------------------------------------------------------


def connect(name: str, *, headers: bool, user: str = "", password: str = "") -> bytes:
    """CONNECT, and the PING whose answer is waited for, in one write."""
    fields: dict[str, object] = {"verbose": False, "pedantic": False}
    if user:
        fields |= {"user": user, "pass": password}
    fields |= {
        "tls_required": False,
        "name": name,
        "lang": "go",
        "version": NATS_VERSION,
        "protocol": 1,
        "echo": True,
        "headers": headers,
        "no_responders": headers,
    }
    return f"CONNECT {json.dumps(fields, separators=(',', ':'))}\r\n".encode() + PING


def sub(subject: str, sid: int, queue: str = "") -> bytes:
    return f"SUB {subject} {queue} {sid}\r\n".encode()


def unsub(sid: int) -> bytes:
    return f"UNSUB {sid} \r\n".encode()


def pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    between = f"{reply} " if reply else ""
    return f"PUB {subject} {between}{len(payload)}\r\n".encode() + payload + b"\r\n"


# --- NATS Streaming: fields in the order of their numbers, nothing for those that are empty ----------


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers take ten bytes
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw if raw else b""


def connect_request(
    client: str, heartbeats: str, conn_id: str, ping_interval_s: int, ping_max_out: int
) -> bytes:
    return (
        _bytes(1, client)
        + _bytes(2, heartbeats)
        + _number(3, 1)
        + _bytes(4, conn_id)
        + _number(5, ping_interval_s)
        + _number(6, ping_max_out)
    )


def ping(conn_id: str) -> bytes:
    return _bytes(1, conn_id)


def publish(client: str, guid: str, channel: str, data: bytes, conn_id: str) -> bytes:
    return _bytes(1, client) + _bytes(2, guid) + _bytes(3, channel) + _bytes(5, data) + _bytes(6, conn_id)


def ack(channel: str, seq: int) -> bytes:
    return _bytes(1, channel) + _number(2, seq)


def subscription_request(
    client: str,
    channel: str,
    inbox: str,
    *,
    queue: str = "",
    max_in_flight: int = 1024,
    ack_wait_s: int = 30,
    durable: str = "",
    position: int = 0,
    seq: int = 0,
    delta_ns: int = 0,
) -> bytes:
    return (
        _bytes(1, client)
        + _bytes(2, channel)
        + _bytes(3, queue)
        + _bytes(4, inbox)
        + _number(5, max_in_flight)
        + _number(6, ack_wait_s)
        + _bytes(7, durable)
        + _number(10, position)
        + _number(11, seq)
        + _number(12, delta_ns)
    )


def end_request(client: str, channel: str, inbox: str) -> bytes:
    """To unsubscribe or to close a subscription; ``inbox`` is that for acks."""
    return _bytes(1, client) + _bytes(2, channel) + _bytes(3, inbox)


def close_request(client: str) -> bytes:
    return _bytes(1, client)


# --- answers ----------------------------------------------------------------------------------------


def fields(raw: bytes) -> dict[int, int | bytes]:
    """The fields of an answer by number. Raises ValueError: it is no message."""
    return dict(_fields(raw))


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(raw):
        key, at = _read(raw, at)
        value, at = _read(raw, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2 and at + value <= len(raw):
            yield key >> 3, raw[at : at + value]
            at += value
        else:
            raise ValueError(f"not a message: {raw!r}")


def _read(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"cut short: {raw!r}")


def text(found: dict[int, int | bytes], field: int) -> str:
    value = found.get(field, b"")
    assert isinstance(value, bytes), f"field {field} is a number"
    return value.decode()


def number(found: dict[int, int | bytes], field: int) -> int:
    """A signed number."""
    value = found.get(field, 0)
    assert isinstance(value, int), f"field {field} is no number"
    return value - (1 << 64) if value >> 63 else value
