"""Base of the NATS parsers: control lines with payloads between them, in both directions of the protocol.

`LineParser` owns the bytes that were fed and not parsed yet. Its subclasses, the server's ``nats.Parser`` and
the client's ``nats_replies.ClientParser``, take operations from the front of a buffer (``_scan``).

The design is for speed. One call parses up to `OPS_MAX` operations of a read buffer. It copies only their
arguments and payloads, and the bytes after the last operation. An incomplete operation is moved to a
``bytearray`` and scanned again only when enough bytes have arrived: for a payload their number is known, and
in a line only the new bytes are searched. So neither single bytes nor messages of eight megabytes are parsed
twice.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, NoReturn, TypeVar

from node.errors import RemoteProtocolError

NUMBER_MAX = 10**18
"""Larger numbers are read as this one; all limits are far below."""

OPS_MAX = 512
"""Most operations that one call of `LineParser.ops` returns. A read of 256 KiB can hold 43,690 of the
shortest; parsing them all takes 60 ms."""

OpT = TypeVar("OpT")


class ProtocolViolation(RemoteProtocolError):  # noqa: N818  # says which side is wrong
    """The other side violated the NATS protocol; the rest of its bytes can't be parsed.

    Args:
        message: the violation, for the log.
        wire: a complete ``-ERR`` line to send before closing; empty: close without one.
    """

    def __init__(self, message: str, wire: bytes = b"") -> None:
        super().__init__(message)
        self.wire = wire


class LineParser(ABC, Generic[OpT]):
    """Parses the bytes of one connection into operations. Does no I/O.

    Call ``feed`` with whatever the socket returned, then ``ops`` until it returns an empty list. The result
    does not depend on how the bytes were split. ``ProtocolViolation`` is the only error. It is raised after
    all operations before the violation were returned, and then by every call.

    Args:
        max_payload: bytes; a larger payload is refused at its control line, before it is read.
        max_control_line: bytes of a line without its line ending.
    """

    def __init__(self, max_payload: int, max_control_line: int) -> None:
        self._max_payload = max_payload
        self._max_control_line = max_control_line
        self._fresh = b""
        """The last bytes that were fed, not parsed yet; if there are any, ``_rest`` is empty."""
        self._rest = bytearray()
        self._needed = 0
        """Size that ``_rest`` must reach before it is worth parsing again."""
        self._searched = 0
        """Bytes at the front of the next buffer that contain no line end."""
        self._ready: deque[OpT] = deque()
        self._violation: tuple[str, bytes] | None = None
        """The arguments of the error to raise. A stored error would refer to its traceback's frames, and so
        to this parser and its connection: only the cycle collector would free them."""

    def feed(self, data: bytes | bytearray) -> None:
        """Add bytes. After a violation they are dropped."""
        if self._violation is not None:
            return
        if self._rest or self._fresh:
            self._rest += self._fresh
            self._rest += data
            self._fresh = b""
        else:
            self._fresh = bytes(data)

    def ops(self) -> list[OpT]:
        """Return the next complete operations, in order, about `OPS_MAX` at most; empty if there are none.

        Raises:
            ProtocolViolation: if there is no complete operation before the violation.
        """
        ops = list(self._ready)
        self._ready.clear()
        self._work(ops)
        if not ops and self._violation is not None:
            raise ProtocolViolation(*self._violation)
        return ops

    def next_op(self) -> OpT | None:
        """Return the next operation, or None if more bytes are needed. Slower than ``ops``.

        Raises:
            ProtocolViolation: if there is no complete operation before the violation.
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
        """Append up to `OPS_MAX` complete operations of ``data``; return the number of bytes they used.

        The search for the first line end may skip ``_searched`` bytes. Calls ``_lacks_line_end``, or
        ``_lacks`` with the number of bytes needed for the next operation; 0 if `OPS_MAX` was reached.
        """

    @abstractmethod
    def _check_name(self, line: bytes) -> None:
        """Raise if no operation starts with ``line``, which may be incomplete."""

    def _lacks(self, needed: int) -> None:
        self._needed = needed
        self._searched = 0

    def _lacks_line_end(self, line: bytes) -> None:
        self._check_name(line)
        if len(line) > self._max_control_line + 1:  # the last byte may be CR
            self._refuse_long_line()
        self._needed = len(line) + 1
        self._searched = len(line)

    def _check_length(self, line: bytes) -> None:
        """Check a line that, without its LF, is longer than ``max_control_line``: it may end with CR."""
        self._check_name(line)
        if len(line) > self._max_control_line + 1 or not line.endswith(b"\r"):
            self._refuse_long_line()

    @abstractmethod
    def _refuse_long_line(self) -> NoReturn: ...


def number(digits: bytes) -> int:
    """Parse a decimal number without sign; at most ``NUMBER_MAX``.

    Raises:
        ProtocolViolation: anything except ASCII digits.
    """
    if not digits.isdigit():
        raise ProtocolViolation(f"not a number: {digits[:40]!r}")
    digits = digits.lstrip(b"0")
    return min(int(digits or b"0"), NUMBER_MAX) if len(digits) < 20 else NUMBER_MAX


def name_prefixes(names: frozenset[bytes]) -> frozenset[bytes]:
    """Return all prefixes of all names, including the names."""
    return frozenset(name[:size] for name in names for size in range(1, len(name) + 1))


def may_start(line: bytes, names: frozenset[bytes], prefixes: frozenset[bytes]) -> bool:
    """Return whether the first, maybe incomplete, word of ``line`` can be one of ``names``, in any case."""
    start = line[:16]
    words = start.split(None, 1)
    if not words:
        return True
    whole = len(words) > 1 or start[-1:].isspace()
    return words[0].upper() in (names if whole else prefixes)


def json_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ProtocolViolation: anything else, including bytes that are not UTF-8 and unpaired surrogates, which
            would otherwise fail later, when the text is encoded.
    """
    try:
        value = _JSON.decode(text.decode())
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # a line can hold thousands of nested brackets
        raise ProtocolViolation(f"not JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise ProtocolViolation("not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
