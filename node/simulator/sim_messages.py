"""Messages of simulated publishers: a unique GUID, followed by a number of bytes that depends on the GUID.

So every checker can identify a message and verify that it is complete.
"""

from __future__ import annotations

import zlib
from typing import Final

SIZES: Final = (0, 0, 0, 0, 0, 10, 40, 90, 200, 700, 0, 0, 0, 0, 20, 60, 150, 400, 1000, 1800)
"""The number of bytes after the GUID is one of these. Most are small; a few need an entry of their own."""

_BEHIND: Final = "|"


def message_of(guid: str, *, sized: bool) -> bytes:
    """Return the message with this GUID; only the GUID if not ``sized``."""
    if not sized:
        return guid.encode()
    size = SIZES[zlib.crc32(guid.encode()) % len(SIZES)]
    return (guid + _BEHIND + "." * size).encode()


def guid_of(data: bytes) -> bytes:
    """Return the GUID of a message."""
    return data.partition(_BEHIND.encode())[0]


def is_whole(data: bytes) -> bool:
    """Return True if the message is complete and unchanged."""
    return data == message_of(guid_of(data).decode(), sized=_BEHIND.encode() in data)
