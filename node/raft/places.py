"""Positions of records in a journal: a segment's number and an offset in it, as one number that grows.

Segment numbers grow for as long as a directory lives, and 64 bits have room for one and an offset only if the
number is counted from where this process began: so it is. A position never leaves the process.
"""

from __future__ import annotations

from typing import Final

OFFSET_BITS: Final = 32
"""A segment is far smaller than 4 GiB: 1 GiB, or one record."""

_OFFSETS: Final = (1 << OFFSET_BITS) - 1


class Places:
    """Makes positions and takes them apart.

    Args:
        origin: the number of the oldest segment there is.
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
        """Return where in its segment ``position`` is, in bytes."""
        return position & _OFFSETS
