"""Frames between nodes: values in, bytes out, and back.

A frame is a length, a version and a body::

    u32 length (big endian; of what follows) | u8 version | one msgpack value

The body holds msgpack's plain values only: nil, booleans, integers, floats, strings, bytes, arrays
and maps whose keys are strings or bytes. Arrays come out as tuples. Extension types are refused, so
that no frame can name a class; nothing here is ever pickled.

What comes in is judged before it is believed: a length over the limit is refused from its four
bytes alone, whatever a body claims to contain is bounded by its size, and the only error that bytes
can cause is `FrameError`. What a value *means* is for its reader to check.
"""

from __future__ import annotations

import reprlib
import struct
from typing import Any, Final, TypeAlias

import msgpack

from node.errors import RemoteProtocolError

WIRE_VERSION: Final = 1
"""The version byte of every frame. Another one means another way of framing or of packing."""

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""The longest frame on an established link, header included: far above the largest entry."""

HELLO_BYTES_MAX: Final = 64 * 1024
"""The longest frame from somebody who has not said who it is."""

ITEMS_MAX: Final = 65_536
"""The most items one array or map may hold. The unpacker makes room for as many items as a header
claims, at every level of nesting, before it has seen one; this keeps that room small."""

HELLO_ITEMS_MAX: Final = 256
"""The same for a hello."""

HEADER_BYTES: Final = 4

Bytes: TypeAlias = bytes | bytearray | memoryview

_LENGTH = struct.Struct(">I")
_LENGTH_AND_VERSION = struct.Struct(">IB")
_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


class FrameError(RemoteProtocolError):
    """A peer sent what is no frame of ours."""


class _Shown(reprlib.Repr):
    """A value in a few words, however large it is and however deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxdict = 5

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return repr(value[:20]) + ("..." if len(value) > 20 else "")


_shown = _Shown()


def shown(value: Any) -> str:
    """The beginning of what a peer sent, for a complaint.

    Not ``repr``: that fails on what is nested a thousand deep, as a frame may be, and a failure that isn't
    a `FrameError` would be taken for one of this node's own and end it.
    """
    return _shown.repr(value)


def encode_frame(value: Any) -> bytes:
    """Make one frame. Not for worker threads: all callers share one packer and its buffer.

    Raises:
        TypeError, ValueError: a value of ours that msgpack can't hold.
    """
    body: bytes = _packer.pack(value)
    assert HEADER_BYTES + 1 + len(body) <= FRAME_BYTES_MAX, "no peer would take this frame"
    return _LENGTH_AND_VERSION.pack(len(body) + 1, WIRE_VERSION) + body


def frame_length(header: Bytes, frame_bytes_max: int) -> int:
    """Say how many bytes follow the first four of a frame.

    Raises:
        FrameError: not a length, or a longer frame than allowed.
    """
    (length,) = _LENGTH.unpack(header)
    if not 2 <= length <= frame_bytes_max - HEADER_BYTES:  # a version byte, and no value takes no bytes
        raise FrameError(
            f"a frame of {length} bytes, where 2 to {frame_bytes_max - HEADER_BYTES} are allowed"
        )
    return int(length)


def decode_body(body: Bytes, items_max: int = ITEMS_MAX) -> Any:
    """Read what follows a frame's length: the version byte and one value.

    Raises:
        FrameError: another version, no msgpack, more than one value, or more items than allowed.
    """
    if body[0] != WIRE_VERSION:
        raise FrameError(f"frame version {body[0]}, where this node speaks {WIRE_VERSION}")
    with memoryview(body) as view, view[1:] as packed:
        items = min(len(packed), items_max)
        try:
            return msgpack.unpackb(
                packed,
                use_list=False,
                max_array_len=items,
                max_map_len=items,
                max_ext_len=0,
                ext_hook=_refuse_extension,
            )
        except ValueError as error:  # every way in which msgpack refuses bytes
            raise FrameError(f"a frame that is not msgpack as we speak it: {error}") from error


def _refuse_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


class FrameDecoder:
    """Bytes of one connection in, values out. Does no I/O.

    How the bytes were cut never changes what comes out: the frames ahead of a broken one are always
    delivered first, and `error` then says what is wrong. Nothing comes out after that.

    Args:
        frame_bytes_max: the longest frame taken, header included.
        items_max: the most items in one array or map.
    """

    __slots__ = ("_frame_bytes_max", "_items_max", "_rest", "_wanted", "error")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX, items_max: int = ITEMS_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._items_max = items_max
        self._rest = bytearray()
        self._wanted = HEADER_BYTES  # with fewer bytes than this there is nothing to look at
        self.error: FrameError | None = None

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame is held: at most the frame limit and one feed."""
        return len(self._rest)

    def feed(self, data: Bytes) -> list[Any]:
        """Take whatever the socket gave; return the values that are complete now.

        Look at `error` afterwards: a broken frame ends the connection.
        """
        if self.error is not None:
            return []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = self._rest  # else a read began where a frame does, as a rule: nothing is copied then
        values, used, self.error = self._decode(data)
        if self.error is not None:
            self._rest = bytearray()  # a new one: the error's traceback still looks into the old
        elif data is self._rest:
            del self._rest[:used]
        else:
            with memoryview(data) as view:
                self._rest += view[used:]
        return values

    def _decode(self, buffer: Bytes) -> tuple[list[Any], int, FrameError | None]:
        values: list[Any] = []
        at, end = 0, len(buffer)
        self._wanted = HEADER_BYTES
        with memoryview(buffer) as view:
            try:
                while end - at >= HEADER_BYTES:
                    body = at + HEADER_BYTES
                    length = frame_length(view[at:body], self._frame_bytes_max)
                    if end - body < length:
                        self._wanted = HEADER_BYTES + length
                        break
                    values.append(decode_body(view[body : body + length], self._items_max))
                    at = body + length
            except FrameError as error:
                return values, at, error
        return values, at, None
