"""The stored form of a value: a checksum behind it, and encrypted if the node encrypts.

LMDB has no checksums. So every value has a CRC-32 over key and value, verified whenever it is read. For an
encrypted value it covers the encrypted bytes, so damage is distinguished from a wrong key. (Blocks of
messages have their own header, see ``blocks``.)

Either all values are encrypted or none. Keys are not encrypted: they are numbers, and names of nodes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from node.errors import CorruptionError
from node.store.environment import ADVICE

if TYPE_CHECKING:
    from node.encryption.value_cipher import (
        ValueCipher,  # imported by callers with a key only: it takes time
    )

_CRC = struct.Struct(">I")


def with_checksum(key: bytes, value: bytes) -> bytes:
    """Return ``value`` with the checksum that ``verified`` checks."""
    return value + _CRC.pack(crc32(value, crc32(key)))


def verified(path: Path, key: bytes, stored: bytes) -> bytes:
    """Return the value that was stored under ``key``, without its checksum.

    Raises:
        CorruptionError: the stored bytes are not what was written under this key.
    """
    value = stored[:-4]
    if len(stored) < 4 or _CRC.unpack_from(stored, len(stored) - 4)[0] != crc32(value, crc32(key)):
        raise CorruptionError(f"{path}: the record {key!r} fails its checksum. {ADVICE}")
    return value


class Values:
    """Encodes and decodes the values of one store.

    Args:
        path: of the store, for errors.
        value_cipher: None: values are not encrypted.
    """

    __slots__ = ("path", "value_cipher")

    def __init__(self, path: Path, value_cipher: ValueCipher | None = None) -> None:
        self.path = path
        self.value_cipher = value_cipher

    def encode(self, database: bytes, key: bytes, value: bytes) -> bytes:
        """Return the bytes to store under ``key`` in a database."""
        if self.value_cipher is not None:
            value = self.value_cipher.encrypt(value, database + b"/" + key)
        return with_checksum(key, value)

    def decode(self, database: bytes, key: bytes, stored: bytes) -> bytes:
        """Return the value of stored bytes.

        Raises:
            CorruptionError: they are not what was written there, or should be encrypted and are not.
        """
        value = verified(self.path, key, stored)
        if self.value_cipher is None:
            return value
        try:
            return self.value_cipher.decrypt(value, database + b"/" + key)
        except CorruptionError as error:
            raise CorruptionError(f"{self.path}: the record {key!r}: {error}. {ADVICE}") from error
