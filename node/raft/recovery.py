"""Recovery of a journal: replay, cut a torn end, detect damage.

Records are replayed in order. At the end of the *last* segment one flush may be incomplete, because a power
failure interrupted it. It is cut off and reported, unless a ``SEGMENT_END`` record behind it shows that it
was complete. Any other error is damage to bytes that were synced, and possibly acknowledged: the node must
not start. `node.raft.records` explains how the two are distinguished.

The bytes that were read may be only in the kernel's memory: the process may have been killed between a write
and its sync, or stopped because the sync failed, after which the kernel may mark pages clean that never
reached the disk. So the last flush is written again as it was read, and everything is synced before the
journal is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from node.raft.disk import Disk
from node.raft.flush import write_segment_end
from node.raft.log_state import Base, LogState
from node.raft.places import Places
from node.raft.records import RECORD_BYTES, Kind, Record, unpack_base, unpack_placed
from node.raft.segments import Segment, is_temporary, segment_name, segment_number

_COPY_BYTES = 1 << 20
_ZEROS = bytes(_COPY_BYTES)


class TornTail(NamedTuple):
    """The end of a flush that a power failure interrupted. It was cut off; no message that depended on it was
    sent.
    """

    file: str
    offset: int
    garbage: int
    """Bytes from ``offset`` to the last non-zero one."""
    next_index: int
    """Entries from this index on, if any were being written, are not in the log."""

    def __str__(self) -> str:
        return (
            f"{self.file}: an incomplete write was cut off at byte {self.offset} ({self.garbage} bytes); "
            f"entries from {self.next_index} on will come from the other nodes"
        )


@dataclass(slots=True)
class Recovered:
    """The content of a journal's directory."""

    segments: list[Segment]
    state: LogState
    next_seq: int
    end: int
    """Offset in the last segment at which the next record is written."""
    torn: TornTail | None
    kinds: set[int]
    """The kinds of records that were found."""
    places: Places
    """Decodes the positions in ``state``."""


def recover(disk: Disk) -> Recovered | None:
    """Replay all segments, cut a torn end, make the rest durable; returns None if there is no journal.

    Raises:
        CorruptionError: damage that a power failure can't cause.
        DiskError: a disk operation failed.
    """
    for name in disk.names():
        if is_temporary(name):
            disk.unlink(name)
    numbers = sorted(n for n in map(segment_number, disk.names()) if n is not None)
    if not numbers:
        return None
    segments = _open_all(disk, numbers)
    try:
        places = Places(numbers[0])
        replay = _Replay(segments[0], places)
        for segment in segments:
            replay.read(segment, last=segment is segments[-1])
        torn = _settle(replay, segments)
        disk.sync_dir()  # the previous process may have died between a rename and its sync
    except BaseException:
        for segment in segments:
            segment.close()
        raise
    return Recovered(segments, replay.state, replay.seq, replay.end, torn, replay.kinds, places)


def _open_all(disk: Disk, numbers: list[int]) -> list[Segment]:
    segments: list[Segment] = []
    try:
        for number in numbers:
            segments.append(segment := Segment.open(disk, number))
            if segment.header.journal_id != segments[0].header.journal_id:
                raise segment.damage("the segment belongs to another journal", offset=0, index=0)
            if number != numbers[0] + len(segments) - 1:
                missing = disk.describe(segment_name(number - 1))
                raise segment.damage(f"the segment before it is missing: {missing}", offset=0, index=0)
    except BaseException:
        for segment in segments:
            segment.close()
        raise
    return segments


class _Replay:
    """Replays the records of all segments."""

    def __init__(self, first: Segment, places: Places) -> None:
        header = first.header
        self._places = places
        self.state = state = LogState()
        state.next_index = header.next_index
        state.vote(header.term, header.voted_for)
        state.memberships = [] if header.membership is None else [header.membership]
        self.seq = header.first_seq
        """The ``seq`` that the next record must have."""
        self.end = first.start
        """The end of the last valid record, in the segment read last."""
        self.flush_at = first.start
        """The beginning of the last flush in that segment."""
        self.has_end_record = False
        """True if a ``SEGMENT_END`` record follows at ``end``."""
        self.torn: TornTail | None = None
        self.kinds: set[int] = set()

    def read(self, segment: Segment, *, last: bool) -> None:
        """Apply the records of a segment; in the last one the end may be torn."""
        self._check_header(segment)
        self.end = self.flush_at = segment.start
        self.has_end_record = False
        place = self._places.position(segment.number)
        for offset, record in segment.records():
            if record.seq != self.seq:
                problem = f"record {record.seq} is where record {self.seq} must be"
                raise segment.damage(problem, offset=offset, index=self.state.next_index)
            if record.kind == Kind.SEGMENT_END:
                self.has_end_record = True
                break
            if record.flush_first == record.seq:
                self.flush_at = offset
            self._apply(segment, offset, place | offset, record)
            self.seq += 1
            self.end = offset + RECORD_BYTES + len(record.payload)
        self._check_end(segment, last=last)

    def _check_header(self, segment: Segment) -> None:
        header, state = segment.header, self.state
        written = (header.first_seq, header.next_index, header.term, header.voted_for, header.membership)
        read = (self.seq, state.next_index, state.term, state.voted_for, state.membership)
        if written != read:
            problem = f"records are missing before this segment: it continues {written}, found {read}"
            raise segment.damage(problem, offset=0, index=state.next_index)

    def _check_end(self, segment: Segment, *, last: bool) -> None:
        """Check what follows the last valid record: nothing, a torn flush, or damage."""
        tail = segment.tail(self.end + RECORD_BYTES if self.has_end_record else self.end)
        if tail.garbage == 0:
            return  # the header of the next segment detects missing records
        index = self.state.next_index
        if not last:
            raise segment.damage("a damaged record before the last segment", offset=self.end, index=index)
        if tail.latest_flush_first > self.seq:
            problem = "a damaged record, and records written after it was synced follow"
            raise segment.damage(problem, offset=self.end, index=index)
        where = segment.damage("", offset=0, index=0).file
        self.torn = TornTail(where, self.end, tail.garbage, index)

    def _apply(self, segment: Segment, offset: int, position: int, record: Record) -> None:
        state = self.state
        self.kinds.add(record.kind)
        match record.kind:
            case Kind.ENTRY | Kind.ENCRYPTED | Kind.MEMBERSHIP:
                if record.index != state.next_index:
                    problem = f"entry {record.index} follows entry {state.next_index - 1}"
                    raise segment.damage(problem, offset=offset, index=state.next_index)
                state.append(record.index, record.term, position, len(record.payload))
                if record.kind == Kind.MEMBERSHIP:
                    state.change_members(record.index, record.payload[1:])
            case Kind.TRUNCATE:
                if record.index > state.next_index:
                    problem = f"a removal from entry {record.index} on, but the log ends before it"
                    raise segment.damage(problem, offset=offset, index=state.next_index)
                state.truncate(record.index, unpack_placed(record.payload))
            case Kind.VOTE:
                state.vote(record.term, record.payload.decode() if record.index else None)
            case Kind.BASE:
                previous, membership = unpack_base(record.payload)
                state.start_over(Base(record.index, record.term, previous), position, membership)
            case unknown:
                problem = f"a record of kind {unknown}, which this release does not know"
                raise segment.damage(problem, offset=offset, index=state.next_index)


def _settle(replay: _Replay, segments: list[Segment]) -> TornTail | None:
    """Clear everything behind the end, write the last flush again, and sync. Returns the torn end.

    The file keeps its size, by which the next start verifies that it is complete. This also works on a full
    disk.
    """
    last = segments[-1]
    if segments[0].number > 1 and len(replay.state) == 0:
        # Older segments are dropped only if at least two later entries are synced.
        problem = "all entries of the log are missing"
        raise last.damage(problem, offset=replay.end, index=replay.state.next_index)
    file = last.file
    if replay.torn is not None:
        # Valid records of the torn flush may lie behind the gap: they must not be read later.
        _blank(last, replay.end)
    for at in range(replay.flush_at, replay.end, _COPY_BYTES):
        file.write(at, [file.read(at, min(_COPY_BYTES, replay.end - at))])
    file.sync()
    write_segment_end(last, replay.end, replay.seq)
    return replay.torn


def _blank(segment: Segment, end: int) -> None:
    """Overwrite all non-zero bytes after ``end`` with zeros."""
    file, size = segment.file, segment.file.size()
    for at in range(end, size, _COPY_BYTES):
        window = file.read(at, min(_COPY_BYTES, size - at))
        garbage = len(window.rstrip(b"\0"))
        if garbage:
            file.write(at, [_ZEROS[:garbage]])
