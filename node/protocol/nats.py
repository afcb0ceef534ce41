"""The client side of the NATS protocol: the server's parser, and the encoders of a client.

``nats_replies`` has the server side; its names are exported here too, so that users need one import.
``lines`` has what both share: the buffer and its bounds.

The parser knows the form of operations, not their effect: the connection decides whether a subject may be
subscribed to, whether ``+OK`` is due, and what is permitted. Arguments are split at white space, so they
contain none: a subject can be written into another control line safely.

Source: the NATS client protocol, "Operations" and "Parse rules".
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn, TypeAlias

from node.protocol.lines import (
    OPS_MAX,
    LineParser,
    ProtocolViolation,
    json_object,
    may_start,
    name_prefixes,
    number,
)
from node.protocol.nats_replies import (
    AUTHORIZATION_VIOLATION,
    MAX_CONTROL_LINE_EXCEEDED,
    MAX_PAYLOAD_VIOLATION,
    OK,
    PING,
    PONG,
    UNKNOWN_OPERATION,
    ClientParser,
    Err,
    Info,
    Msg,
    Ok,
    Ping,
    Pong,
    Reply,
    err,
    hmsg,
    info,
    msg,
)

__all__ = [
    "MAX_CONTROL_LINE",
    "OK",
    "PING",
    "PONG",
    "ClientParser",
    "Connect",
    "Err",
    "Hpub",
    "Info",
    "Msg",
    "Ok",
    "Op",
    "Parser",
    "Ping",
    "Pong",
    "ProtocolViolation",
    "Pub",
    "Reply",
    "Sub",
    "Unsub",
    "connect",
    "err",
    "hmsg",
    "hpub",
    "info",
    "msg",
    "pub",
    "sub",
    "unsub",
]

MAX_CONTROL_LINE = 4096
"""Bytes, without the line ending."""


class Connect(NamedTuple):
    options: dict[str, Any]


class Pub(NamedTuple):
    """``reply`` is empty if there is none. The subject is not validated."""

    subject: bytes
    reply: bytes
    payload: bytes


class Hpub(NamedTuple):
    """``headers`` is the header block as received, not validated."""

    subject: bytes
    reply: bytes
    headers: bytes
    payload: bytes


class Sub(NamedTuple):
    """``queue`` is empty if there is none. The subject is not validated."""

    subject: bytes
    queue: bytes
    sid: bytes


class Unsub(NamedTuple):
    """``max_msgs`` counts from the first delivery; None: unsubscribe at once."""

    sid: bytes
    max_msgs: int | None


Op: TypeAlias = Connect | Pub | Hpub | Sub | Unsub | Ping | Pong

_NAMES = frozenset((b"CONNECT", b"PUB", b"HPUB", b"SUB", b"UNSUB", b"PING", b"PONG"))
_PREFIXES = name_prefixes(_NAMES)


class Parser(LineParser[Op]):
    """Parses the operations of one client; see ``LineParser``. A CONNECT is always the last one of a list.

    Args:
        max_payload: bytes; for HPUB, headers included.
        max_control_line: bytes of a line without its line ending.
        connect_first: authentication is required: anything except CONNECT is refused at its first byte, so
            an unauthenticated client can't store a payload in memory.
    """

    def __init__(
        self, max_payload: int, max_control_line: int = MAX_CONTROL_LINE, *, connect_first: bool = False
    ) -> None:
        super().__init__(max_payload, max_control_line)
        self._connect_first = connect_first

    def _scan(self, data: bytes, ops: list[Op]) -> int:
        if self._connect_first:
            if data[:1] not in (b"c", b"C"):
                raise ProtocolViolation("not authenticated", err(AUTHORIZATION_VIOLATION))
            self._connect_first = b"\n" not in data
        # A busy node spends nearly all of its parsing time from here to the end of the loop: names are bound
        # to locals, and PUB in its usual form is handled inline.
        length = len(data)
        max_payload, max_control_line = self._max_payload, self._max_control_line
        find, append, make = data.find, ops.append, tuple.__new__
        start, searched = 0, self._searched
        for _ in range(OPS_MAX):
            if start >= length:
                break
            end = find(b"\n", searched)
            if end < 0:
                self._lacks_line_end(data[start:])
                return start
            if end - start > max_control_line:
                self._check_length(data[start:end])
            args = data[start:end].split()
            count = len(args)
            if (
                (count == 4 or count == 3)  # noqa: PLR1714  # half the time of a membership test
                and args[0] == b"PUB"
                and len(args[-1]) < 10
                and args[-1].isdigit()
                and (size := int(args[-1])) <= max_payload
            ):
                stop = end + 1 + size
                if stop + 2 > length:
                    self._lacks(stop + 2 - start)
                    return start
                if data[stop : stop + 2] != b"\r\n":
                    _refuse_payload_end()
                append(make(Pub, (args[1], args[2] if count == 4 else b"", data[end + 1 : stop])))
                start = searched = stop + 2
            else:
                op, following = self._other(args, data, start, end + 1)
                if op is None:
                    self._lacks(following - start)
                    return start
                append(op)
                start = searched = following
                if type(op) is Connect:
                    break  # CONNECT is slow to execute: the caller may pause before the next operation
        self._lacks(0)
        return start

    def _other(self, args: list[bytes], data: bytes, start: int, after: int) -> tuple[Op | None, int]:
        """Parse one operation of any form; return it and the start of the next one.

        Its line is ``data[start:after]``. If its payload is incomplete, the operation is None and the number
        is where the payload would end.
        """
        name = args[0].upper() if args else b""
        match name, len(args) - 1:
            case b"PUB", 2 | 3:
                return self._publication(args, 1, data, after)
            case b"HPUB", 3 | 4:
                return self._publication(args, 2, data, after)
            case b"SUB", 2:
                return Sub(args[1], b"", args[2]), after
            case b"SUB", 3:
                return Sub(args[1], args[2], args[3]), after
            case b"UNSUB", 1:
                return Unsub(args[1], None), after
            case b"UNSUB", 2:
                return Unsub(args[1], number(args[2])), after
            case b"PING", _:
                return Ping(), after
            case b"PONG", _:
                return Pong(), after
            case b"CONNECT", _:
                words = data[start:after].split(None, 1)
                return Connect(json_object(words[1] if len(words) > 1 else b"")), after
        if name in _NAMES:
            raise ProtocolViolation(f"{name.decode()} with {len(args) - 1} arguments")
        raise ProtocolViolation("unknown operation", err(UNKNOWN_OPERATION))

    def _publication(
        self, args: list[bytes], numbers: int, data: bytes, after: int
    ) -> tuple[Pub | Hpub | None, int]:
        sizes = [number(digits) for digits in args[-numbers:]]
        total = sizes[-1]
        if sizes[0] > total:
            raise ProtocolViolation("a header block larger than its message")
        if total > self._max_payload:
            raise ProtocolViolation(f"a payload of {total} bytes", err(MAX_PAYLOAD_VIOLATION))
        stop = after + total
        if stop + 2 > len(data):
            return None, stop + 2
        if data[stop : stop + 2] != b"\r\n":
            _refuse_payload_end()
        reply = args[2] if len(args) == numbers + 3 else b""
        if numbers == 1:
            return Pub(args[1], reply, data[after:stop]), stop + 2
        split = after + sizes[0]
        return Hpub(args[1], reply, data[after:split], data[split:stop]), stop + 2

    def _check_name(self, line: bytes) -> None:
        if not may_start(line, _NAMES, _PREFIXES):
            raise ProtocolViolation("unknown operation", err(UNKNOWN_OPERATION))

    def _refuse_long_line(self) -> NoReturn:
        raise ProtocolViolation("a control line too long", err(MAX_CONTROL_LINE_EXCEEDED))


def _refuse_payload_end() -> NoReturn:
    raise ProtocolViolation("a payload not followed by CRLF", err(UNKNOWN_OPERATION))


def connect(options: dict[str, Any]) -> bytes:
    return b"CONNECT %b\r\n" % json.dumps(options, separators=(",", ":")).encode()


def pub(subject: bytes, reply: bytes, payload: bytes) -> bytes:
    """``reply`` is empty if there is none."""
    if reply:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)


def hpub(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    """``reply`` is empty if there is none; ``headers`` is the block from ``NATS/1.0`` to the empty line."""
    total = len(headers) + len(payload)
    to = b"%b %b" % (subject, reply) if reply else subject
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to, len(headers), total, headers, payload)


def sub(subject: bytes, queue: bytes, sid: bytes) -> bytes:
    """``queue`` is empty if there is none."""
    if queue:
        return b"SUB %b %b %b\r\n" % (subject, queue, sid)
    return b"SUB %b %b\r\n" % (subject, sid)


def unsub(sid: bytes, max_msgs: int | None = None) -> bytes:
    return b"UNSUB %b\r\n" % sid if max_msgs is None else b"UNSUB %b %d\r\n" % (sid, max_msgs)
