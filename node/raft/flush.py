"""The journal's trips to the disk: what is written, synced and deleted, and in which order.

Both jobs are made by the journal on its own thread and run in any other, one of each at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.errors import DiskError
from node.raft.records import RECORD_BYTES
from node.raft.segments import Segment


class Part:
    """Buffers that go to one place in one segment."""

    __slots__ = ("at", "buffers", "segment")

    def __init__(self, segment: Segment, at: int) -> None:
        self.segment = segment
        self.at = at
        self.buffers: list[bytes] = []


class Sweep:
    """Deletes files that hold nothing any more: 13 ms for 64 MiB, so not while acks wait for it."""

    __slots__ = ("_doomed", "_failed", "_kept", "finished")

    def __init__(
        self, doomed: Sequence[Segment], kept: Sequence[Segment], *, failed: Callable[[DiskError], None]
    ) -> None:
        """A sweep.

        Args:
            doomed: to be deleted, in this order: no crash may leave a gap.
            kept: to be synced first, if nobody did; all but the last that exists are.
            failed: told of an error before it is raised.
        """
        self._doomed = tuple(doomed)
        self._kept = tuple(kept)
        self._failed = failed
        self.finished = False

    def run(self) -> None:
        """Delete the files, durably.

        Raises:
            DiskError: the disk refused. The journal refuses everything from now on.
        """
        try:
            newest = next((segment for segment in reversed(self._kept) if segment.exists), None)
            if newest is not None:
                newest.file.sync()  # it may hold what is needed to start without the old ones
            for segment in self._doomed:
                segment.remove()
        except DiskError as error:
            self._failed(error)
            raise
        self.finished = True


class Flush:
    """What one trip carries there. It runs once."""

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
        """The last record it carries."""
        self.last_index = last_index
        """The last entry that is durable when it has run; lowered when that entry is replaced."""
        self.running = False
        """In ``run``. A flush that was begun may never run: the node stops."""
        self.finished = False

    def run(self) -> None:
        """Write and sync: one gathered write and one fdatasync, unless a segment was full; and seal it.

        Raises:
            DiskError: the disk refused. The journal refuses everything from now on.
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
        # A full segment is synced before the next one exists, so that only the last can be torn.
        if not last or (part.buffers and not self._relaxed):
            segment.file.sync()

    def _end_segment(self, part: Part) -> None:
        """Say that all of it was synced (`node.raft.records`)."""
        end = part.at + sum(map(len, part.buffers))
        write_segment_end(part.segment, end, self.seq + 1)


def write_segment_end(segment: Segment, end: int, seq: int) -> None:
    """Seal what ends at ``end`` of a segment: record ``seq`` comes next. A full one needs no seal.

    Raises:
        DiskError: the disk refused.
    """
    if end + RECORD_BYTES <= segment.capacity:
        segment.file.write(end, [segment.frame.encrypt(seq)])
