"""Control lines with payloads between them: what both directions of the NATS protocol have in common.

This owns the bytes that were fed and not used yet. Its two users, the server's ``nats.Parser`` and
the client's ``nats_replies.ClientParser``, only know how to take operations from the front of a
buffer, ``_scan``.

Speed decides the shape. One call works through as much of a read buffer as makes a list of `OPS_MAX`
operations; nothing is copied but their arguments and payloads, and what lies behind the last of them. A
rest that is not yet a whole operation moves to a ``bytearray`` and is looked at again only when the bytes it
lacks have come: for a payload their number is known, and in a line only the new bytes are searched. So
neither a client that sends single bytes nor one that sends eight megabytes makes the node do work twice over.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, NoReturn, TypeVar

from node.errors import RemoteProtocolError

NUMBER_MAX = 10**18
"""Larger numbers count as this one; every bound they are held against is far below."""

OPS_MAX = 512
"""Operations that one call of `LineParser.ops` returns at most: a read of 256 KiB has room for 43,690 of the
shortest, and to parse them all takes 60 ms."""

OpT = TypeVar("OpT")


class ProtocolViolation(RemoteProtocolError):  # noqa: N818  # the name says whose fault it is
    """The other end broke the NATS protocol; nothing that it sends after this can be understood.

    Args:
        message: what was wrong, for the log.
        wire: a whole ``-ERR`` line to send before closing, or nothing: then just close.
    """

    def __init__(self, message: str, wire: bytes = b"") -> None:
        super().__init__(message)
        self.wire = wire


class LineParser(ABC, Generic[OpT]):
    """Bytes of one connection in, operations out. Does no I/O.

    ``feed`` it whatever the socket gave, then call ``ops`` until it returns an empty list. How the
    bytes were cut never changes what comes out. Whatever they are, ``ProtocolViolation`` is the only
    error; it comes after all operations that were complete before it, and then every time.

    Args:
        max_payload: bytes; a larger payload is refused at its control line, unread.
        max_control_line: bytes of a line without its line ending.
    """

    def __init__(self, max_payload: int, max_control_line: int) -> None:
        self._max_payload = max_payload
        self._max_control_line = max_control_line
        self._fresh = b""
        """What was fed last, not looked at yet; then ``_rest`` is empty."""
        self._rest = bytearray()
        self._needed = 0
        """Bytes that ``_rest`` must have before another look can find anything."""
        self._searched = 0
        """Bytes at the front of the next buffer that hold no line end."""
        self._ready: deque[OpT] = deque()
        self._violation: tuple[str, bytes] | None = None
        """The arguments of the error to raise. The error itself would refer to the frames that it went
        through, and so to this parser and its connection: only a search for cycles would free them. """

    def feed(self, data: bytes | bytearray) -> None:
        """Take more bytes; after a violation they are dropped."""
        if self._violation is not None:
            return
        if self._rest or self._fresh:
            self._rest += self._fresh
            self._rest += data
            self._fresh = b""
        else:
            self._fresh = bytes(data)

    def ops(self) -> list[OpT]:
        """The next operations that are complete, in order; at most about `OPS_MAX`. Empty: there are no more.

        Raises:
            ProtocolViolation: and nothing was complete before it.
        """
        ops = list(self._ready)
        self._ready.clear()
        self._work(ops)
        if not ops and self._violation is not None:
            raise ProtocolViolation(*self._violation)
        return ops

    def next_op(self) -> OpT | None:
        """The next operation, or None: "more bytes, please". Slower than ``ops``.

        Raises:
            ProtocolViolation: and nothing was complete before it.
        """
        if not self._ready:
            self._ready.extend(self.ops())
        return self._ready.popleft() if self._ready else None

    def _work(self, ops: list[OpT]) -> None:
        data = self._fresh
        if data:
            self._fresh = b""
        elif self._rest and len(self._rest) >= self._needed:
            data = bytes(self._rest)
            self._rest.clear()
        else:
            return
        try:
            used = self._scan(data, ops)
        except ProtocolViolation as violation:
            self._violation = str(violation), violation.wire
            return
        if used == len(data):
            return
        if self._needed:
            self._rest = bytearray(data[used:] if used else data)
        else:
            self._fresh = data[used:]  # there was no room for more operations

    @abstractmethod
    def _scan(self, data: bytes, ops: list[OpT]) -> int:
        """Append up to `OPS_MAX` operations that are complete in ``data``; return how many bytes they took.

        The search for the first line end may skip ``_searched`` bytes. Calls ``_lacks_line_end``, or
        ``_lacks`` with the bytes that have to be there before there can be more; 0: only room was lacking.
        """

    @abstractmethod
    def _check_name(self, line: bytes) -> None:
        """Raise if no operation starts like ``line``, which may be the beginning of one."""

    def _lacks(self, needed: int) -> None:
        self._needed = needed
        self._searched = 0

    def _lacks_line_end(self, line: bytes) -> None:
        self._check_name(line)
        if len(line) > self._max_control_line + 1:  # one more may be the CR
            self._refuse_long_line()
        self._needed = len(line) + 1
        self._searched = len(line)

    def _check_length(self, line: bytes) -> None:
        """For a line that, before its LF, is longer than ``max_control_line``."""
        self._check_name(line)
        if len(line) > self._max_control_line + 1 or not line.endswith(b"\r"):
            self._refuse_long_line()

    @abstractmethod
    def _refuse_long_line(self) -> NoReturn: ...


def number(digits: bytes) -> int:
    """A decimal number without sign, at most ``NUMBER_MAX``.

    Raises:
        ProtocolViolation: anything else than ASCII digits.
    """
    if not digits.isdigit():
        raise ProtocolViolation(f"not a number: {digits[:40]!r}")
    digits = digits.lstrip(b"0")
    return min(int(digits or b"0"), NUMBER_MAX) if len(digits) < 20 else NUMBER_MAX


def name_prefixes(names: frozenset[bytes]) -> frozenset[bytes]:
    """Every beginning of every name, the names included."""
    return frozenset(name[:size] for name in names for size in range(1, len(name) + 1))


def may_start(line: bytes, names: frozenset[bytes], prefixes: frozenset[bytes]) -> bool:
    """The first word of ``line``, or what there is of it, can be one of ``names`` in any case."""
    start = line[:16]
    words = start.split(None, 1)
    if not words:
        return True
    whole = len(words) > 1 or start[-1:].isspace()
    return words[0].upper() in (names if whole else prefixes)


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``.

    Raises:
        ProtocolViolation: anything else, also bytes that are no UTF-8 and half surrogate pairs,
            which would fail later, wherever the text is first encoded.
    """
    try:
        value = _JSON.decode(text.decode())
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # a line has room for thousands of brackets
        raise ProtocolViolation(f"not JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise ProtocolViolation("not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
