"""Where a new cursor starts: its own module, so that the core needs no protobuf to name it."""

from __future__ import annotations

from enum import IntEnum


class StartPosition(IntEnum):
    """Start of a new cursor, by its number on the wire. Source: the streaming protocol, "Start positions"."""

    NEW_ONLY = 0
    LAST_RECEIVED = 1
    TIME_DELTA_START = 2
    SEQUENCE_START = 3
    FIRST = 4
