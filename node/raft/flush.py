"""The disk work of the journal: `Flush` writes and syncs, `Sweep` deletes.

The journal creates both on its own thread. They run in a worker thread, at most one of each at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.errors import DiskError
from node.raft.records import RECORD_BYTES
from node.raft.segments import Segment


class Part:
    """Buffers to be written at one offset of one segment."""

    __slots__ = ("at", "buffers", "segment")

    def __init__(self, segment: Segment, at: int) -> None:
        self.segment = segment
        self.at = at
        self.buffers: list[bytes] = []


class Sweep:
    """Deletes segments that are no longer needed. Deleting 64 MiB takes 13 ms, so it is not part of a
    flush.
    """

    __slots__ = ("_dropped", "_failed", "_kept", "finished")

    def __init__(
        self, dropped: Sequence[Segment], kept: Sequence[Segment], *, failed: Callable[[DiskError], None]
    ) -> None:
        """Create a sweep.

        Args:
            dropped: the segments to delete, in this order: a crash must not leave a gap.
            kept: the remaining segments, to be synced first if no flush has synced them. Only the last
                existing one may be unsynced.
            failed: called with an error before it is raised.
        """
        self._dropped = tuple(dropped)
        self._kept = tuple(kept)
        self._failed = failed
        self.finished = False

    def run(self) -> None:
        """Delete the segments, durably.

        Raises:
            DiskError: a delete or sync failed. The journal refuses all further operations.
        """
        try:
            newest = next((segment for segment in reversed(self._kept) if segment.exists), None)
            if newest is not None:
                newest.file.sync()  # it may hold what a start without the old segments needs
            for segment in self._dropped:
                segment.remove()
        except DiskError as error:
            self._failed(error)
            raise
        self.finished = True


class Flush:
    """One write to the disk. It runs once."""

    __slots__ = ("_failed", "_parts", "_relaxed", "_sweep", "finished", "last_index", "running", "seq")

    def __init__(
        self,
        parts: list[Part],
        sweep: Sweep | None,
        *,
        seq: int,
        last_index: int,
        relaxed: bool,
        failed: Callable[[DiskError], None],
    ) -> None:
        self._parts = parts
        self._sweep = sweep
        self._relaxed = relaxed
        self._failed = failed
        self.seq = seq
        """The number of the last record that it writes."""
        self.last_index = last_index
        """The last entry that is durable when it has run; lowered if that entry is replaced meanwhile."""
        self.running = False
        """True during ``run``. A flush that was begun may never run, if the node stops."""
        self.finished = False

    def run(self) -> None:
        """Write and sync: one gathered write and one fdatasync, more only if a segment became full. Then
        write the end record.

        Raises:
            DiskError: a write or sync failed. The journal refuses all further operations.
        """
        assert not self.finished
        self.running = True
        try:
            for part in self._parts:
                self._write(part, last=part is self._parts[-1])
            if not self._relaxed:
                self._end_segment(self._parts[-1])
            if self._sweep is not None:
                self._sweep.run()
        except DiskError as error:
            self._failed(error)
            raise
        finally:
            self.running = False
        self.finished = True

    def _write(self, part: Part, *, last: bool) -> None:
        segment = part.segment
        if not segment.exists:
            segment.create()
        if part.buffers:
            segment.file.write(part.at, part.buffers)
        # A full segment is synced before the next one is created, so that only the last segment can be torn.
        if not last or (part.buffers and not self._relaxed):
            segment.file.sync()

    def _end_segment(self, part: Part) -> None:
        """Write the record that marks everything before it as synced (`node.raft.records`)."""
        end = part.at + sum(map(len, part.buffers))
        write_segment_end(part.segment, end, self.seq + 1)


def write_segment_end(segment: Segment, end: int, seq: int) -> None:
    """Write a ``SEGMENT_END`` record at ``end``; ``seq`` is the number of the next record. A full segment
    gets none.

    Raises:
        DiskError: the write failed.
    """
    if end + RECORD_BYTES <= segment.capacity:
        segment.file.write(end, [segment.frame.encode_segment_end(seq)])
