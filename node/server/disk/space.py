"""Free space on a node's disk, and a reserve file with which the node can start on a full disk.

Below the *mark* a disk is nearly full; `node.server.low_space` says what happens then. Free space has two
parts: the file system's, for this user, and free pages within the store's file, which never shrinks. A purge
adds to the latter. But the journal needs the file system's part: if that is below half a mark, the disk is
nearly full, however many free pages the store has. Accepted but unwritten bytes are subtracted: segments that
the journal has not created yet, and messages that no checkpoint has stored yet.

The mark is at least what a node still writes after publishes are refused (``needed_bytes``), so the node does
not run out of space below it. Between two measurements the free space is projected from the bytes that the
journal was given (``SpaceWatch`` in `node.server.disk.space_watch`).

The *reserve* is an empty file with allocated space. It is created while there is enough free space, and
deleted at a start that finds less free space than its size. So a node whose disk was filled by other programs
can write its next journal segment and its next checkpoint, and an operator can purge channels.
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
"""Most bytes of a checkpoint: 4 MiB of messages start one, as many may arrive while it runs, and LMDB writes
whole new pages."""
IN_FLIGHT_BYTES: Final = 24 * 1024 * 1024
"""Most bytes written after publishes are refused: three nodes have accepted at most 4 MiB each
(`node.server.origin.UNAPPLIED_BYTES_MAX`), which go to the journal and to the store."""
MARK_PART: Final = 10
"""``store.min_free`` is limited to this part of the file system (one tenth)."""
NEEDED_PART: Final = 5
"""The bytes that a node needs are limited to this part of the file system (one fifth), in the mark and in the
reserve."""
LEFT_MIN_PART: Final = 16
"""A disk with less than this part of a mark above the mark (one sixteenth) is nearly full: the next
projection would end there."""
ENOUGH: Final = 1.25
"""A disk that was nearly full needs this many marks of free space before it no longer is."""


@dataclass(frozen=True, slots=True)
class Free:
    """Size and free space of a file system, in bytes."""

    total: int
    available: int


def free_at(directory: Path) -> Free:
    """Return the free space of a directory's file system. Blocks if the disk hangs.

    Raises:
        OSError: the file system doesn't answer.
    """
    status = os.statvfs(directory)
    return Free(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


class Space:
    """The free space of one node's disk.

    Args:
        directory: the node's.
        min_free: bytes of the mark, unless a node needs more (``needed_bytes``); 0: the disk is never nearly
            full.
        segment_bytes: size of a journal segment.
        free: measures a file system.
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
        """Most bytes that a node writes after publishes are refused."""
        self._free = free
        self.is_low = False
        self.is_tight = False
        self.left: float = 0
        """Bytes that may be written before the disk is nearly full, at the last look. Nearly full if at most
        0."""
        self.answered = True
        """Whether the file system answered the last look."""
        self.available = 0
        """Free bytes of the file system at the last look."""

    @property
    def warning(self) -> str:
        """The warning for an operator; empty while there is enough free space."""
        if not self.is_low:
            return ""
        return (
            f"the disk of {self._directory} is nearly full: {self.available >> 20} MiB are left. Purge or "
            f"delete channels, or add space"
        )

    def begin(self) -> None:
        """Delete the reserve if there is less free space than its size. Called before anything is written."""
        path = self._directory / RESERVE_FILE
        with contextlib.suppress(OSError):
            free = self._free(self._directory)
            if path.exists() and free.available < self._reserve(free):
                path.unlink()
                log.warning("the disk of %s is full: its reserve file was deleted to start", self._directory)

    def look(self, reusable: int, *, unstored: int = 0, unallocated: int = 0) -> bool:
        """Measure the free space and return whether the disk is nearly full. In a worker thread.

        Args:
            reusable: bytes of free pages within the store's file.
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
        total = allocatable + reusable - unstored
        wanted = mark * ENOUGH if self.is_low else mark
        self.left = min(total - wanted, allocatable - wanted / 2)
        if mark and not self.is_low and self.left < mark / LEFT_MIN_PART:
            self.left = 0
        self.is_low = mark > 0 and self.left <= 0
        self.is_tight = self.is_low or allocatable < 2 * mark
        if not self.is_low and free.available >= 2 * (mark + reserve) and self._keep_reserve(reserve):
            self.left -= reserve
        return self.is_low

    def exhausted(self) -> bool:
        """Record that as many bytes were accepted since the last look as were left then.

        The disk counts as nearly full until a look finds more. Returns ``is_low``: always False without a
        mark.
        """
        if self._min_free:
            self.is_low = self.is_tight = True
            self.left = 0
        return self.is_low

    def fits(self, size: int) -> bool:
        """Return whether a file of ``size`` bytes leaves the mark free. In a worker thread.

        Returns True if the file system does not answer: writing the file will show.
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
        """Create the reserve file if it is missing. Returns True if it was created now.

        A failure is not an error: the node runs without a reserve.
        """
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
            log.debug("no reserve file at %s: %s", path, error)
            draft.unlink(missing_ok=True)
            return False
        return True
