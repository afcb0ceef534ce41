"""How much room the disk of a node has left, and a reserve with which it can start when there is none.

Below the *mark* a disk is nearly full: `node.server.room` says what follows. Room is what the file system
has for this user, and what the store's file has within: a purge makes the latter, for the file never
shrinks. But the journal needs some of the former, so less than half a mark of that is too little, whatever
the store has.

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
"""What a checkpoint may take, in the reserve."""
MARK_PART: Final = 10
"""The mark is never more than this part of the file system, and the reserve than half of that part."""
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
        min_free: bytes of the mark; 0: a disk is never nearly full.
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
        self._free = free
        self.is_low = False
        self.is_tight = False
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

    def look(self, reusable: int) -> bool:
        """Look how much is left. Returns whether the disk is nearly full. In a worker thread.

        Args:
            reusable: bytes that the store's file has within.
        """
        try:
            free = self._free(self._directory)
        except OSError as error:
            log.debug("%s: %s", self._directory, error)
            return self.is_low
        self.available = free.available
        mark = min(self._min_free, free.total // MARK_PART)
        wanted = mark * ENOUGH if self.is_low else mark
        self.is_low = free.available + reusable < wanted or free.available < wanted / 2
        self.is_tight = self.is_low or free.available < 2 * mark
        if not self.is_low and free.available >= 2 * (mark + self._reserve(free)):
            self._keep_reserve(self._reserve(free))
        return self.is_low

    def _reserve(self, free: Free) -> int:
        return min(self._reserve_bytes, free.total // (2 * MARK_PART))

    def _keep_reserve(self, size: int) -> None:
        """Have the reserve. Without it there is none: no reason to stop."""
        path = self._directory / RESERVE_FILE
        if path.exists():
            return
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
