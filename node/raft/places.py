"""Positions of records in a journal: segment number and offset, combined in one increasing number.

Segment numbers grow for as long as a directory exists. 64 bits have enough space for a segment number and an
offset only if numbers are counted from the oldest segment at the start of this process. A position is never
stored or sent.
"""

from __future__ import annotations

from typing import Final

OFFSET_BITS: Final = 32
"""A segment is smaller than 4 GiB: at most 1 GiB, or one record."""

_OFFSETS: Final = (1 << OFFSET_BITS) - 1


class Places:
    """Encodes and decodes positions.

    Args:
        origin: the number of the oldest segment.
    """

    __slots__ = ("_origin",)

    def __init__(self, origin: int) -> None:
        self._origin = origin

    def position(self, number: int, offset: int = 0) -> int:
        """Return the position of ``offset`` in segment ``number``."""
        return (number - self._origin) << OFFSET_BITS | offset

    def segment(self, position: int) -> int:
        """Return the number of the segment that ``position`` is in."""
        return (position >> OFFSET_BITS) + self._origin

    def offset(self, position: int) -> int:
        """Return the offset of ``position`` in its segment, in bytes."""
        return position & _OFFSETS
