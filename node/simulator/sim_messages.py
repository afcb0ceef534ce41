"""Messages of simulated publishers: the guid, which is unique, and as much behind it as the guid says.

So everybody can tell whether a message is whole, and which one it is.
"""

from __future__ import annotations

import zlib
from typing import Final

SIZES: Final = (0, 0, 0, 0, 0, 10, 40, 90, 200, 700, 0, 0, 0, 0, 20, 60, 150, 400, 1000, 1800)
"""Bytes behind the guid: one of these. Most are small; a few don't fit an entry with another."""

_BEHIND: Final = "|"


def message_of(guid: str, *, sized: bool) -> bytes:
    """Return the message that is published under ``guid``. Not ``sized``: only the guid."""
    if not sized:
        return guid.encode()
    size = SIZES[zlib.crc32(guid.encode()) % len(SIZES)]
    return (guid + _BEHIND + "." * size).encode()


def guid_of(data: bytes) -> bytes:
    """Return the guid of a message."""
    return data.partition(_BEHIND.encode())[0]


def is_whole(data: bytes) -> bool:
    """Whether it is what was published."""
    return data == message_of(guid_of(data).decode(), sized=_BEHIND.encode() in data)
