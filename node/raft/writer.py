"""The write side of a journal: records are buffered, buffers are flushed to the disk, old segments are
deleted.

The journal decides what a record contains. The writer assigns its number and position and writes it, one
flush at a time. Recovery depends on that to distinguish a torn end from damage (`node.raft.records`).
Segments may be deleted beside a flush.

After a failed write or sync all operations are refused: the content of the disk is unknown, and a repeated
sync may succeed although data was lost (PS-4, and `node.raft.disk`).
"""

from __future__ import annotations

from collections.abc import Callable

from node.errors import DiskError
from node.raft.disk import Disk
from node.raft.flush import Flush, Part, Sweep
from node.raft.places import Places
from node.raft.records import RECORD_BYTES, Header, Kind
from node.raft.segments import Segment

_ENTRIES = frozenset({Kind.ENTRY, Kind.ENCRYPTED})
_DROPPED_MAX = 4
"""At most this many dropped segments wait for a sweep; beyond that a flush deletes them."""


class Writer:
    """The segments of one journal, and the records that are not written yet.

    Args:
        disk: the journal's own directory.
        segments: the existing segments, oldest first; at least one.
        next_seq: the number of the next record.
        end: its offset in the last segment.
        segment_bytes: size of a segment. A larger record gets a segment of its own.
        relaxed: do not sync a flush that contains only entries.
        header: returns the header of a new segment, given its number and the number of its first record.
        places: encodes positions.

    Invariant: ``durable <= written``.
    """

    def __init__(
        self,
        disk: Disk,
        segments: list[Segment],
        *,
        next_seq: int,
        end: int,
        segment_bytes: int,
        relaxed: bool,
        header: Callable[[int, int], Header],
        places: Places,
    ) -> None:
        self.segments = segments
        self.written = self.durable = next_seq - 1
        self.bytes_put = 0
        """Bytes of all records since this was created, on the disk or not yet."""
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._relaxed = relaxed
        self._must_sync = False  # a record other than an entry is buffered
        self._header = header
        self._places = places
        self._tail = segments[-1]
        self._end = end
        self._parts = [Part(self._tail, end)]
        self._flush_first = next_seq  # the first record of the flush now being filled
        self._running: Flush | None = None
        self._dropped: list[Segment] = []  # to be deleted, oldest first
        self._dropped_at = 0  # once this record is durable
        self._sweeping: Sweep | None = None
        self._failure: DiskError | None = None

    def close(self) -> None:
        """Close the files. Records that were not flushed are lost, even if their flush was begun; none may be
        running.
        """
        assert self._running is None or not self._running.running
        for segment in (*self.segments, *self._dropped):
            segment.close()

    def check(self) -> None:
        """Raise an error if a disk operation failed earlier.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        if self._failure is not None:
            raise DiskError(f"the journal stopped after: {self._failure}") from self._failure

    # --- records ----------------------------------------------------------------------------------

    def put(self, kind: int, index: int, term: int, payload: bytes) -> int:
        """Buffer a record; returns its position.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        if self._failure is not None:
            self.check()
        if kind not in _ENTRIES:
            # A node that forgets its vote may vote twice in one term. These records are few, so a sync costs
            # little.
            self._must_sync = True
        size = RECORD_BYTES + len(payload)
        at = self._end
        if at + size > self._tail.capacity:
            self.roll(size)
            at = self._end
        self.written = seq = self.written + 1
        tail = self._tail
        buffers = self._parts[-1].buffers
        buffers.append(tail.frame.encode(kind, seq, seq - self._flush_first, index, term, payload))
        if payload:
            buffers.append(payload)
        self._end = at + size
        self.bytes_put += size
        return self._places.position(tail.number, at)

    def roll(self, size: int = 0) -> None:
        """Begin a new segment whose first record takes ``size`` bytes.

        The next flush creates it, after syncing the old one. Without further records there is no flush.
        """
        header = self._header(self._tail.number + 1, self.written + 1)
        self._tail = tail = Segment(self._disk, header, capacity=self._segment_bytes, record_bytes=size)
        self.segments.append(tail)
        self._end = tail.start
        self._parts.append(Part(tail, self._end))
        self._flush_first = self.written + 1

    # --- flushing ---------------------------------------------------------------------------------

    @property
    def running(self) -> Flush | None:
        """The flush that was begun and not ended."""
        return self._running

    def begin_flush(self, last_index: int) -> Flush | None:
        """Return a flush of the buffered records, with entries up to ``last_index``.

        None if there are none, or a flush is running.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        self.check()
        if self._running is not None or self.written == self.durable:
            return None
        parts, self._parts = self._parts, [Part(self._tail, self._end)]
        relaxed, self._must_sync = self._relaxed and not self._must_sync, False
        self._running = flush = Flush(
            parts,
            self._sweep() if len(self._dropped) > _DROPPED_MAX else None,
            seq=self.written,
            last_index=last_index,
            relaxed=relaxed,
            failed=self._stop,
        )
        if not relaxed:
            self._flush_first = self.written + 1
        return flush

    def end_flush(self, flush: Flush) -> None:
        """Mark the records of ``flush``, which has run, as durable.

        Raises:
            DiskError: it failed, or a disk operation failed earlier.
        """
        self.check()
        assert flush is self._running
        assert flush.finished
        self._running = None
        self.durable = flush.seq

    # --- deleting ---------------------------------------------------------------------------------

    def drop_segments_before(self, number: int) -> None:
        """Drop the segments before number ``number``, once everything written so far is durable."""
        self._dropped_at = self.written
        count = number - self.segments[0].number
        self._dropped += self.segments[:count]
        del self.segments[:count]

    def begin_sweep(self) -> Sweep | None:
        """Return the deletion of dropped segments; None if there are none, the drop is not durable, or a
        sweep is running.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        self.check()
        return self._sweep() if self._dropped and self._dropped_at <= self.durable else None

    def _sweep(self) -> Sweep | None:
        if self._sweeping is not None and not self._sweeping.finished:
            return None
        kept = self.segments if self._relaxed else ()
        self._sweeping = Sweep(self._dropped, kept, failed=self._stop)
        self._dropped = []
        return self._sweeping

    def _stop(self, error: DiskError) -> None:
        """Refuse all further operations. Called in the thread of a flush."""
        self._failure = error
