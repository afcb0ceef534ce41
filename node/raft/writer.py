"""The writing half of a journal: records become buffers, buffers trips to the disk, old files go.

What a record says is the journal's business. Here it gets its number and its place, and is carried
there: one flush at a time, which is what lets recovery tell a torn end from damage
(`node.raft.records`), while deleting files may go on beside it.

After a write or a sync failed everything is refused: nobody knows what is on the disk, and trying
again may find a kernel that thinks all is well (PS-4, and `node.raft.disk`).
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
_DOOMED_MAX = 4
"""So many segments wait for a sweep; more, and a flush takes them along."""


class Writer:
    """The segments of one journal, and what is on its way to them.

    Args:
        disk: the journal's own directory.
        segments: what there is, oldest first; at least one.
        next_seq: the number of the next record.
        end: where it goes in the last segment.
        segment_bytes: size of a file. A larger record gets a file of its own.
        relaxed: don't sync before calling a flush durable that carries entries alone.
        header: makes the header of a new segment from its number and its first record's.
        places: makes positions.

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
        """Bytes of all records put since this was made, on the disk or on their way there."""
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._relaxed = relaxed
        self._must_sync = False  # something waits that isn't an entry
        self._header = header
        self._places = places
        self._tail = segments[-1]
        self._end = end
        self._parts = [Part(self._tail, end)]
        self._flush_first = next_seq  # the first record of the flush now being filled
        self._running: Flush | None = None
        self._doomed: list[Segment] = []  # to be deleted, oldest first
        self._doomed_at = 0  # once this record is durable
        self._sweeping: Sweep | None = None
        self._failure: DiskError | None = None

    def close(self) -> None:
        """Close the files. What was not flushed is lost, also if its flush was begun; none may be running."""
        assert self._running is None or not self._running.running
        for segment in (*self.segments, *self._doomed):
            segment.close()

    def check(self) -> None:
        """Refuse if the disk did.

        Raises:
            DiskError: it did, earlier.
        """
        if self._failure is not None:
            raise DiskError(f"the journal stopped after: {self._failure}") from self._failure

    # --- records ----------------------------------------------------------------------------------

    def put(self, kind: int, index: int, term: int, payload: bytes) -> int:
        """Buffer a record; returns its position.

        Raises:
            DiskError: the disk refused earlier.
        """
        if self._failure is not None:
            self.check()
        if kind not in _ENTRIES:
            # A node that forgets its vote may give two in one term. They are few, so they cost nothing.
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
        """Go on in a new segment whose first record takes ``size`` bytes.

        The next flush creates it, after syncing the old one. If nothing is put, no flush follows.
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
        """The flush that was begun and isn't ended."""
        return self._running

    def begin_flush(self, last_index: int) -> Flush | None:
        """Take what is buffered, entries up to ``last_index``; None if nothing is, or a flush is running.

        Raises:
            DiskError: the disk refused earlier.
        """
        self.check()
        if self._running is not None or self.written == self.durable:
            return None
        parts, self._parts = self._parts, [Part(self._tail, self._end)]
        relaxed, self._must_sync = self._relaxed and not self._must_sync, False
        self._running = flush = Flush(
            parts,
            self._sweep() if len(self._doomed) > _DOOMED_MAX else None,
            seq=self.written,
            last_index=last_index,
            relaxed=relaxed,
            failed=self._stop,
        )
        if not relaxed:
            self._flush_first = self.written + 1
        return flush

    def end_flush(self, flush: Flush) -> None:
        """Take note that ``flush`` ran: what it carried is durable.

        Raises:
            DiskError: it failed, or the disk refused earlier.
        """
        self.check()
        assert flush is self._running
        assert flush.finished
        self._running = None
        self.durable = flush.seq

    # --- deleting ---------------------------------------------------------------------------------

    def doom_before(self, number: int) -> None:
        """Let the segments before this one go, once everything written so far is durable."""
        self._doomed_at = self.written
        count = number - self.segments[0].number
        self._doomed += self.segments[:count]
        del self.segments[:count]

    def begin_sweep(self) -> Sweep | None:
        """The deletion of what is doomed; None if there is nothing, or not yet, or one is running.

        Raises:
            DiskError: the disk refused earlier.
        """
        self.check()
        return self._sweep() if self._doomed and self._doomed_at <= self.durable else None

    def _sweep(self) -> Sweep | None:
        if self._sweeping is not None and not self._sweeping.finished:
            return None
        kept = self.segments if self._relaxed else ()
        self._sweeping = Sweep(self._doomed, kept, failed=self._stop)
        self._doomed = []
        return self._sweeping

    def _stop(self, error: DiskError) -> None:
        """Refuse everything from now on. Called in the thread of a flush."""
        self._failure = error
