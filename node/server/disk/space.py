"""How much room the disk of a node has left, and a reserve with which it can start when there is none.

Below the *mark* a disk is nearly full: `node.server.low_space` says what follows. Room is what the file
system has for this user, and what the store's file has within: a purge makes the latter, for the file never
shrinks. But the journal needs some of the former, so less than half a mark of that is too little, whatever
the store has. What is accepted and not written yet is subtracted: segments that the journal has not created,
messages that no checkpoint has stored.

The mark is at least what a node still writes after publishes are refused (``needed_bytes``), so the node does
not run out of space below it. Between two looks the free space is projected from the bytes that the journal
was given (``SpaceWatch`` in `node.server.disk.space_watch`).

The *reserve* is a file that holds nothing. It is made while there is plenty, and deleted at a start that
finds less than it takes: so a node whose disk is full of other things can write its next segment of the
journal and its next checkpoint, and be told to purge.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger("stanchion.store")

RESERVE_FILE: Final = "reserve"
CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""What a checkpoint may take: 4 MiB of messages begin one, as many may come while it runs, and LMDB writes
whole new pages."""
IN_FLIGHT_BYTES: Final = 24 * 1024 * 1024
"""What is written after publishes are refused: three nodes have accepted 4 MiB each at most
(`node.server.origin.UNAPPLIED_BYTES_MAX`), which go to the journal and to the store."""
MARK_PART: Final = 10
"""``store.min_free`` is never more than this part of the file system (one tenth)."""
NEEDED_PART: Final = 5
"""What a node needs is never counted as more than this part of the file system (one fifth): neither in the
mark nor in the reserve."""
LEFT_MIN_PART: Final = 16
"""A disk with less than this part of a mark above the mark (one sixteenth) is nearly full: the next
projection would end there."""
ENOUGH: Final = 1.25
"""So many marks have to be free again before a disk that was nearly full isn't any more."""


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes of a file system."""

    total: int
    available: int


def free_at(directory: Path) -> Free:
    """Ask the file system of a directory. Blocks on the disk, if it hangs.

    Raises:
        OSError: it doesn't answer.
    """
    status = os.statvfs(directory)
    return Free(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


class Space:
    """One node's disk.

    Args:
        directory: the node's.
        min_free: bytes of the mark, unless a node needs more (``needed_bytes``); 0: a disk is never nearly
            full.
        segment_bytes: size of a file of the journal.
        free: asks the file system.
    """

    def __init__(
        self,
        directory: Path,
        *,
        min_free: int,
        segment_bytes: int,
        free: Callable[[Path], Free] = free_at,
    ) -> None:
        self._directory = directory
        self._min_free = min_free
        self._reserve_bytes = segment_bytes + CHECKPOINT_BYTES
        self.needed_bytes = self._reserve_bytes + IN_FLIGHT_BYTES
        """What a node writes after publishes are refused, at most."""
        self._free = free
        self.is_low = False
        self.is_tight = False
        self.left: float = 0
        """Bytes that may be written before the disk is nearly full, as of the last look. At most 0: it is."""
        self.answered = True
        """Whether the file system answered the last look."""
        self.available = 0
        """Bytes, when it was looked at last."""

    @property
    def warning(self) -> str:
        """What to tell an operator; empty while there is room."""
        if not self.is_low:
            return ""
        return (
            f"the disk of {self._directory} is nearly full: {self.available >> 20} MiB are left. Purge or "
            f"delete channels, or add space"
        )

    def begin(self) -> None:
        """Before anything is written: give the reserve back if there is less left than it takes."""
        path = self._directory / RESERVE_FILE
        with contextlib.suppress(OSError):
            free = self._free(self._directory)
            if path.exists() and free.available < self._reserve(free):
                path.unlink()
                log.warning("the disk of %s is full: its reserve was given back to start", self._directory)

    def look(self, reusable: int, *, unstored: int = 0, unallocated: int = 0) -> bool:
        """Measure the free space and return whether the disk is nearly full. In a worker thread.

        Args:
            reusable: bytes that the store's file has within.
            unstored: bytes of messages that the store's file does not have yet.
            unallocated: bytes of journal segments that do not exist yet.
        """
        try:
            free = self._free(self._directory)
        except OSError as error:
            log.debug("%s: %s", self._directory, error)
            self.answered = False
            return self.is_low
        self.answered = True
        self.available = free.available
        mark = self._mark(free)
        reserve = self._reserve(free)
        allocatable = free.available - unallocated
        low_space = allocatable + reusable - unstored
        wanted = mark * ENOUGH if self.is_low else mark
        self.left = min(low_space - wanted, allocatable - wanted / 2)
        if mark and not self.is_low and self.left < mark / LEFT_MIN_PART:
            self.left = 0
        self.is_low = mark > 0 and self.left <= 0
        self.is_tight = self.is_low or allocatable < 2 * mark
        if not self.is_low and free.available >= 2 * (mark + reserve) and self._keep_reserve(reserve):
            self.left -= reserve
        return self.is_low

    def exhausted(self) -> bool:
        """Take note that as much was accepted since the last look as there was left.

        The disk is nearly full until a look finds more. Returns whether it is: never if there is no mark.
        """
        if self._min_free:
            self.is_low = self.is_tight = True
            self.left = 0
        return self.is_low

    def fits(self, size: int) -> bool:
        """Return whether a file of ``size`` bytes leaves the mark free. In a worker thread.

        A file system that does not answer is no reason to refuse: writing the file will show.
        """
        try:
            free = self._free(self._directory)
        except OSError as error:
            log.debug("%s: %s", self._directory, error)
            return True
        return free.available - size >= self._mark(free)

    def _mark(self, free: Free) -> int:
        if not self._min_free:
            return 0
        return max(
            min(self._min_free, free.total // MARK_PART), min(self.needed_bytes, free.total // NEEDED_PART)
        )

    def _reserve(self, free: Free) -> int:
        return min(self._reserve_bytes, free.total // NEEDED_PART)

    def _keep_reserve(self, size: int) -> bool:
        """Have the reserve; returns whether it was made now. Without it there is none: no reason to stop."""
        path = self._directory / RESERVE_FILE
        if path.exists():
            return False
        draft = path.with_suffix(".new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
            draft.rename(path)
        except OSError as error:
            log.debug("no reserve at %s: %s", path, error)
            draft.unlink(missing_ok=True)
            return False
        return True
