"""Frames between nodes: values to bytes and back.

A frame is a length, a version and a body::

    u32 length (big endian; of what follows) | u8 version | one msgpack value

The body contains only msgpack's plain values: nil, booleans, integers, floats, strings, bytes, arrays, and
maps whose keys are strings or bytes. Arrays are decoded as tuples. Extension types are refused, so no frame
can name a class; nothing is ever pickled.

Input is not trusted: a length above the limit is refused from its four bytes alone, the sizes that a body
claims are limited by its actual size, and `FrameError` is the only error that bytes can cause. The reader of
a value checks its meaning.
"""

from __future__ import annotations

import reprlib
import struct
from typing import Any, Final, TypeAlias

import msgpack

from node.errors import RemoteProtocolError

WIRE_VERSION: Final = 1
"""The version byte of every frame. Another version means another framing or packing."""

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Maximum size of a frame on an established link, header included: far above the largest entry."""

HELLO_BYTES_MAX: Final = 64 * 1024
"""Maximum size of a frame from a peer that has not identified itself."""

ITEMS_MAX: Final = 65_536
"""Maximum items of one array or map. The unpacker allocates as many items as a header claims, at every level
of nesting, before it has read one; this limit keeps the allocation small."""

HELLO_ITEMS_MAX: Final = 256
"""`ITEMS_MAX` for a hello."""

HEADER_BYTES: Final = 4

Bytes: TypeAlias = bytes | bytearray | memoryview

_LENGTH = struct.Struct(">I")
_LENGTH_AND_VERSION = struct.Struct(">IB")
_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


class FrameError(RemoteProtocolError):
    """A peer sent bytes that are not a valid frame."""


class _Shown(reprlib.Repr):
    """Represents a value briefly, however large and deep it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxdict = 5

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return repr(value[:20]) + ("..." if len(value) > 20 else "")


_shown = _Shown()


def shown(value: Any) -> str:
    """Return the beginning of a peer's value, for an error text.

    ``repr`` fails on deeply nested values, which a frame may contain. That failure would not be a
    `FrameError`: it would look like a bug of this node and end it.
    """
    return _shown.repr(value)


def encode_frame(value: Any) -> bytes:
    """Encode one frame. Not for worker threads: all callers share one packer and its buffer.

    Raises:
        TypeError, ValueError: the value is not encodable with msgpack.
    """
    body: bytes = _packer.pack(value)
    assert HEADER_BYTES + 1 + len(body) <= FRAME_BYTES_MAX, "no peer would accept this frame"
    return _LENGTH_AND_VERSION.pack(len(body) + 1, WIRE_VERSION) + body


def frame_length(header: Bytes, frame_bytes_max: int) -> int:
    """Return the number of bytes that follow the first four bytes of a frame.

    Raises:
        FrameError: the length is invalid or above the limit.
    """
    (length,) = _LENGTH.unpack(header)
    if not 2 <= length <= frame_bytes_max - HEADER_BYTES:  # at least a version byte and one byte of value
        raise FrameError(f"a frame of {length} bytes; expected 2 to {frame_bytes_max - HEADER_BYTES}")
    return int(length)


def decode_body(body: Bytes, items_max: int = ITEMS_MAX) -> Any:
    """Decode the part of a frame after its length: the version byte and one value.

    Raises:
        FrameError: another version, invalid msgpack, more than one value, or too many items.
    """
    if body[0] != WIRE_VERSION:
        raise FrameError(f"frame version {body[0]}; this node supports {WIRE_VERSION}")
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
        except ValueError as error:  # base class of all errors of msgpack
            raise FrameError(f"invalid msgpack in a frame: {error}") from error


def _refuse_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


class FrameDecoder:
    """Decodes the bytes of one connection into values. Does no I/O.

    The result does not depend on how the bytes were split: frames before an invalid one are always returned
    first; then `error` has the reason. Nothing is returned after that.

    Args:
        frame_bytes_max: maximum size of a frame, header included.
        items_max: maximum items of one array or map.
    """

    __slots__ = ("_frame_bytes_max", "_items_max", "_rest", "_wanted", "error")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX, items_max: int = ITEMS_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._items_max = items_max
        self._rest = bytearray()
        self._wanted = HEADER_BYTES  # with fewer bytes there is nothing to decode
        self.error: FrameError | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an incomplete frame in the buffer: at most the frame limit and one feed."""
        return len(self._rest)

    def feed(self, data: Bytes) -> list[Any]:
        """Add bytes; return the values that are complete now.

        Check `error` afterwards: after an invalid frame, close the connection.
        """
        if self.error is not None:
            return []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = self._rest  # usually a read starts with a frame: then nothing is copied
        values, used, self.error = self._decode(data)
        if self.error is not None:
            self._rest = bytearray()  # not cleared: the error's traceback still has a view of the old one
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
