"""Start positions of cursors. A module of its own, so that the core does not import protobuf."""

from __future__ import annotations

from enum import IntEnum


class StartPosition(IntEnum):
    """Start of a new cursor, by its number on the wire. Source: the streaming protocol, "Start positions"."""

    NEW_ONLY = 0
    LAST_RECEIVED = 1
    TIME_DELTA_START = 2
    SEQUENCE_START = 3
    FIRST = 4
