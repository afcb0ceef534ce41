"""Decides when the free space of a node's disk is measured: by time and by the number of accepted bytes.

Time alone is too slow: a disk that takes 100 MB/s passes any mark between two looks. So the watch counts the
bytes that the journal was given, once per entry. When half of the space left at the last look may be used, it
looks again at once. When all of it may be used, the disk counts as nearly full before that look, so publishes
are refused before the mark is passed, at any write rate.

Owns the task that looks. `Space` owns the measurement, `node.server.low_space` the consequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import trio

from node.server.disk.space import Space

LOOK_INTERVAL_S: Final = 1.0
"""The longest time between two looks, because other programs fill disks too."""

WRITTEN_PER_BYTE: Final = 2.5
"""Most bytes of disk used for one byte in the journal: that byte, and one and a half in the store, which
writes whole pages."""


_NEVER: Final = 1 << 63


class Unwritten(NamedTuple):
    """Corrections, in bytes, to the free space that the file system reports."""

    reusable: int
    """Free pages within the store's file."""
    unstored: int
    """Messages that the store's file does not have yet."""
    unallocated: int
    """Journal segments that do not exist yet."""


class SpaceWatch:
    """Watches the free space of one node's disk.

    Args:
        space: measures it.
        bytes_put: bytes that the journal was given so far; never decreases.
        unwritten: see `Unwritten`; called on the event loop.
        looked: called with whether the disk is nearly full, after each look and when the projection says so.
        shrink: called after a look that found little free space.
    """

    def __init__(
        self,
        space: Space,
        *,
        bytes_put: Callable[[], int],
        unwritten: Callable[[], Unwritten],
        looked: Callable[[bool], object],
        shrink: Callable[[], Any],
    ) -> None:
        self._space = space
        self._bytes_put = bytes_put
        self._unwritten = unwritten
        self._looked = looked
        self._shrink = shrink
        self._look_at = 0
        """Value of ``bytes_put`` at which the next look is due."""
        self._low_at = 0
        """Value of ``bytes_put`` at which all the space that was left may be used."""
        self._wanted = trio.Event()
        self.looks = 0

    def accepted(self) -> None:
        """Compare the bytes accepted since the last look with the space left then. Called once per entry."""
        put = self._bytes_put()
        if put >= self._look_at:
            self._wanted.set()
        if put >= self._low_at and self.looks and not self._space.is_low and self._space.exhausted():
            self._looked(True)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            with trio.move_on_after(LOOK_INTERVAL_S):
                await self._wanted.wait()

    async def look(self) -> None:
        """Measure the free space now."""
        self._wanted = trio.Event()
        self._look_at = _NEVER  # one look at a time; `accepted` is called again when this one has ended
        put = self._bytes_put()
        reusable, unstored, unallocated = self._unwritten()
        is_low = await trio.to_thread.run_sync(self._measure, reusable, unstored, unallocated)
        self.looks += 1
        if self._space.answered:
            left = max(0.0, self._space.left) / WRITTEN_PER_BYTE
            self._low_at = put + int(left)
            # A nearly full disk is looked at by time only: publishes are refused already.
            self._look_at = _NEVER if is_low else put + int(left / 2)
        self._looked(is_low)
        self.accepted()
        if self._space.is_tight:
            await self._shrink()

    def _measure(self, reusable: int, unstored: int, unallocated: int) -> bool:
        return self._space.look(reusable, unstored=unstored, unallocated=unallocated)
