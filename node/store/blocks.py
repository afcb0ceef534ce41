"""Blocks: the stored form of consecutive messages of one channel.

One value per message would be the obvious layout, but it fails under load: py-lmdb releases the interpreter
lock around every operation, and a thread beside a busy event loop waits for it each time. Ten thousand puts,
4 ms alone, took 1.8 s (two cores, one spinning); in blocks 0.1 s. So messages are stored in blocks of up to
64 KiB. A checkpoint of ten thousand messages of 128 bytes is about twenty puts, reading them back takes as
many lookups, and one checksum covers each block.

A block's key is channel and first sequence, both 8 bytes big-endian, so LMDB sorts blocks in that order. Its
value, in the machine's byte order like LMDB's own pages::

    u32 crc32 of key and all that follows │ u8 kind │ 3 zero bytes │ u32 count
    u32 end of each message in the data   │ data: the messages, one after the other

This is kind 1. In kind 2 the second line is encrypted, bound to this key and this header. The checksum is
over the bytes on the disk.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING
from zlib import crc32

from node.errors import CorruptionError

if TYPE_CHECKING:
    from node.encryption.value_cipher import ValueCipher

BLOCK_BYTES_MAX = 64 * 1024 - 16 - 12 - 45
"""Bytes of messages that fill sixteen pages, together with LMDB's header, the block's header and the
encryption overhead. A larger message has a block of its own."""

MESSAGE_OVERHEAD = 4
"""Bytes that a message takes in a block besides its own."""

_KEY = struct.Struct(">QQ")
_CRC = struct.Struct("=I")
_HEAD = struct.Struct("=BxxxI")
_PREFIX = _CRC.size + _HEAD.size
_PLAIN, _ENCRYPTED = 1, 2

key = _KEY.pack
"""``key(channel, first)``."""

split_key = _KEY.unpack
"""``split_key(key) -> (channel, first)``."""

_CHANNEL_KEY = struct.Struct(">Q")


def channel_key(channel: int) -> bytes:
    """Return the key of a channel's floor."""
    return _CHANNEL_KEY.pack(channel)


def split_channel_key(stored: bytes) -> int:
    return int(_CHANNEL_KEY.unpack(stored)[0])


class Block:
    """Messages ``first`` to ``end - 1`` of a channel, in stored form."""

    __slots__ = ("data", "end", "first", "offsets")

    def __init__(self, first: int, offsets: array[int], data: bytes) -> None:
        self.first = first
        self.end = first + len(offsets) - 1
        self.offsets = offsets
        self.data = data

    @property
    def size(self) -> int:
        """Approximate bytes of memory."""
        return len(self.data) + 4 * len(self.offsets) + 200

    def message(self, seq: int) -> bytes:
        at = seq - self.first
        return self.data[self.offsets[at] : self.offsets[at + 1]]

    def messages(self) -> list[bytes]:
        offsets, data = self.offsets, self.data
        return [data[offsets[at] : offsets[at + 1]] for at in range(len(offsets) - 1)]


def encode(block_key: bytes, messages: Sequence[bytes], value_cipher: ValueCipher | None = None) -> bytes:
    """Return the value to store under ``block_key``."""
    ends = array("I", accumulate(map(len, messages)))
    if value_cipher is None:
        body = b"".join((_HEAD.pack(_PLAIN, len(messages)), ends.tobytes(), *messages))
    else:
        head = _HEAD.pack(_ENCRYPTED, len(messages))
        body = head + value_cipher.encrypt(b"".join((ends.tobytes(), *messages)), _context(block_key, head))
    return _CRC.pack(crc32(body, crc32(block_key))) + body


def decode(block_key: bytes, value: memoryview | bytes, value_cipher: ValueCipher | None = None) -> Block:
    """Return the block stored under ``block_key``; its contents are copied.

    Raises:
        CorruptionError: it is not the value written under this key, it is encrypted and there is no key, or
            it is not encrypted although there is a key.
    """
    channel, first = split_key(block_key)
    if len(value) < _PREFIX or _CRC.unpack_from(value)[0] != crc32(value[_CRC.size :], crc32(block_key)):
        raise CorruptionError(f"messages of channel {channel} from sequence {first} on fail their checksum")
    kind, count = _HEAD.unpack_from(value, _CRC.size)
    contents: memoryview | bytes = value[_PREFIX:]
    match kind:
        case 1 if value_cipher is None:
            pass
        case 2 if value_cipher is not None:
            try:
                contents = value_cipher.decrypt(
                    contents, _context(block_key, bytes(value[_CRC.size : _PREFIX]))
                )
            except CorruptionError as error:
                raise CorruptionError(f"messages of channel {channel} from {first} on: {error}") from error
        case 1 | 2:
            wrong = "encrypted, and this node has no key" if value_cipher is None else "not encrypted"
            raise CorruptionError(f"messages of channel {channel} from {first} on are {wrong}")
        case _:
            raise CorruptionError(f"messages of channel {channel} from {first} on are of unknown kind {kind}")
    offsets = array("I", (0,))
    offsets.frombytes(contents[: 4 * count])
    return Block(first, offsets, bytes(contents[4 * count :]))


def _context(block_key: bytes, head: bytes) -> bytes:
    return b"messages/" + block_key + head
