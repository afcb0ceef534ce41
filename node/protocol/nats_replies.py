"""The server side of the NATS protocol: the encoders of the server, and the client's parser.

The texts of ``-ERR`` are here in their exact case: clients compare them, and most clients end their session
on any text they do not expect. So an error is sent only if it is necessary.

Source: the NATS client protocol, "Operations", "INFO fields" and "Errors and how each client reacts".
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from node.protocol.lines import (
    OPS_MAX,
    LineParser,
    ProtocolViolation,
    json_object,
    may_start,
    name_prefixes,
    number,
)

INFO_LINE_SIZE_MAX = 4096
"""Bytes with CRLF: the Node.js client reads no further and would wait forever."""

ERR_TEXT_SIZE_MAX = 1024
"""Bytes. A text may quote what a client sent; the line must stay short enough for its reader."""

PING = b"PING\r\n"
PONG = b"PONG\r\n"
OK = b"+OK\r\n"

NO_RESPONDERS_HEADERS = b"NATS/1.0 503\r\n\r\n"

STALE_CONNECTION = "Stale Connection"
AUTHORIZATION_VIOLATION = "Authorization Violation"
AUTHENTICATION_TIMEOUT = "Authentication Timeout"
MAX_CONNECTIONS_EXCEEDED = "maximum connections exceeded"
MAX_SUBSCRIPTIONS_EXCEEDED = "maximum subscriptions exceeded"
MAX_CONTROL_LINE_EXCEEDED = "maximum control line exceeded"
MAX_PAYLOAD_VIOLATION = "Maximum Payload Violation"
INVALID_SUBJECT = "Invalid Subject"
INVALID_PUBLISH_SUBJECT = "Invalid Publish Subject"
INVALID_CLIENT_PROTOCOL = "invalid client protocol"
NO_RESPONDERS_NEED_HEADERS = "no responders requires headers support"
UNKNOWN_OPERATION = "Unknown Protocol Operation"
TLS_REQUIRED = "Secure Connection - TLS Required"


class Ping(NamedTuple):
    pass


class Pong(NamedTuple):
    pass


class Ok(NamedTuple):
    pass


class Info(NamedTuple):
    fields: dict[str, Any]


class Msg(NamedTuple):
    """``reply`` and ``headers`` are empty if there are none."""

    subject: bytes
    sid: bytes
    reply: bytes
    headers: bytes
    payload: bytes


class Err(NamedTuple):
    """``text`` is without its quotes."""

    text: str


Reply: TypeAlias = Info | Msg | Ok | Err | Ping | Pong


def info(fields: dict[str, Any]) -> bytes:
    """Return an INFO line with these fields.

    If it is too long for the Node.js client, addresses at the end of ``connect_urls`` are omitted.

    Raises:
        ValueError: it is too long even without them.
    """
    urls = list(fields.get("connect_urls", ()))
    line = _info(fields)
    while len(line) > INFO_LINE_SIZE_MAX:
        if not urls:
            raise ValueError(f"the INFO line has {len(line)} bytes, of at most {INFO_LINE_SIZE_MAX}")
        urls.pop()
        line = _info({**fields, "connect_urls": urls})
    return line


def _info(fields: dict[str, Any]) -> bytes:
    return b"INFO %b\r\n" % json.dumps(fields, separators=(",", ":")).encode()


def err(text: str) -> bytes:
    """Return ``-ERR`` with ``text`` in single quotes, on one line even if it contains line breaks."""
    one_line = " ".join(text.split()).encode("utf-8", "backslashreplace")
    if len(one_line) > ERR_TEXT_SIZE_MAX:
        one_line = one_line[:ERR_TEXT_SIZE_MAX].decode("utf-8", "ignore").encode()
    return b"-ERR '%b'\r\n" % one_line


def publish_denied(subject: bytes) -> str:
    """Return the error text of a publish that the user is not permitted to make."""
    return f"Permissions Violation for Publish to {quoted(subject)}"


def subscription_denied(subject: bytes, queue: bytes) -> str:
    """Return the error text of a denied subscription. Clients identify it by subject and queue."""
    using = f" using queue {quoted(queue)}" if queue else ""
    return f"Permissions Violation for Subscription to {quoted(subject)}{using}"


_ESCAPED: Final = {ord(c): f"\\{e}" for c, e in zip('\a\b\f\n\r\t\v"\\', 'abfnrtv"\\', strict=True)}


def quoted(name: bytes) -> str:
    """Return ``name`` in double quotes, as Go writes it. Source: strconv.Quote."""
    letters = (_letter(c) for c in name.decode("utf-8", "surrogateescape"))
    return f'"{"".join(letters)}"'


def _letter(letter: str) -> str:
    code = ord(letter)
    if code in _ESCAPED:
        return _ESCAPED[code]
    if letter.isprintable():
        return letter
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def msg(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> bytes:
    """``reply`` is empty if there is none."""
    if reply:
        return b"MSG %b %b %b %d\r\n%b\r\n" % (subject, sid, reply, len(payload), payload)
    return b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(payload), payload)


def hmsg(subject: bytes, sid: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    """``reply`` is empty if there is none; ``headers`` is a block. Only for clients with headers enabled."""
    total = len(headers) + len(payload)
    to = b"%b %b %b" % (subject, sid, reply) if reply else b"%b %b" % (subject, sid)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (to, len(headers), total, headers, payload)


_NAMES = frozenset((b"INFO", b"MSG", b"HMSG", b"+OK", b"-ERR", b"PING", b"PONG"))
_PREFIXES = name_prefixes(_NAMES)


class ClientParser(LineParser[Reply]):
    """Parses the operations of a server; see ``LineParser``.

    The limits are wide: INFO lines and payloads of other servers are larger than this server's.
    """

    def __init__(self, max_payload: int = 64 * 1024 * 1024, max_control_line: int = 32 * 1024) -> None:
        super().__init__(max_payload, max_control_line)

    def _scan(self, data: bytes, ops: list[Reply]) -> int:
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
                (count == 4 or count == 5)  # noqa: PLR1714  # half the time of a membership test
                and args[0] == b"MSG"
                and len(args[-1]) < 10
                and args[-1].isdigit()
                and (size := int(args[-1])) <= max_payload
            ):
                stop = end + 1 + size
                if stop + 2 > length:
                    self._lacks(stop + 2 - start)
                    return start
                if data[stop : stop + 2] != b"\r\n":
                    raise ProtocolViolation("a payload not followed by CRLF")
                reply = args[3] if count == 5 else b""
                append(make(Msg, (args[1], args[2], reply, b"", data[end + 1 : stop])))
                start = searched = stop + 2
            else:
                op, following = self._other(args, data, start, end + 1)
                if op is None:
                    self._lacks(following - start)
                    return start
                append(op)
                start = searched = following
        self._lacks(0)
        return start

    def _other(self, args: list[bytes], data: bytes, start: int, after: int) -> tuple[Reply | None, int]:
        """As ``nats.Parser._other``; the line is ``data[start:after]``."""
        name = args[0].upper() if args else b""
        match name, len(args) - 1:
            case b"MSG", 3 | 4:
                return self._message(args, 1, data, after)
            case b"HMSG", 4 | 5:
                return self._message(args, 2, data, after)
            case b"PING", _:
                return Ping(), after
            case b"PONG", _:
                return Pong(), after
            case b"+OK", _:
                return Ok(), after
            case b"INFO", _:
                return Info(json_object(_text(data[start:after]))), after
            case b"-ERR", _:
                return _err(_text(data[start:after])), after
        if name in _NAMES:
            raise ProtocolViolation(f"{name.decode()} with {len(args) - 1} arguments")
        raise ProtocolViolation("unknown operation")

    def _message(self, args: list[bytes], numbers: int, data: bytes, after: int) -> tuple[Msg | None, int]:
        total = number(args[-1])
        head = number(args[-2]) if numbers == 2 else 0
        if head > total or total > self._max_payload:
            raise ProtocolViolation(f"a message of {total} bytes, {head} of them headers")
        stop = after + total
        if stop + 2 > len(data):
            return None, stop + 2
        if data[stop : stop + 2] != b"\r\n":
            raise ProtocolViolation("a payload not followed by CRLF")
        reply = args[3] if len(args) == numbers + 4 else b""
        return Msg(args[1], args[2], reply, data[after : after + head], data[after + head : stop]), stop + 2

    def _check_name(self, line: bytes) -> None:
        if not may_start(line, _NAMES, _PREFIXES):
            raise ProtocolViolation("unknown operation")

    def _refuse_long_line(self) -> NoReturn:
        raise ProtocolViolation("a control line too long")


def _text(line: bytes) -> bytes:
    """Return the line without its first word."""
    words = line.split(None, 1)
    return words[1].strip() if len(words) > 1 else b""


def _err(text: bytes) -> Err:
    if len(text) > 1 and text.startswith(b"'") and text.endswith(b"'"):
        text = text[1:-1]
    return Err(text.decode("utf-8", "replace"))
