"""Reading a journal back: what counts, what a power cut tore, and what is damage.

Records are replayed in order. What may be wrong at the end of the *last* segment is one flush, the
one a power cut interrupted: it is cut off, and the report says so, unless a seal behind it tells that it
was whole. Everything else that is wrong is
damage to bytes that were synced, and perhaps promised to others: the node must not start. How the
two are told apart: `node.raft.records`.

What was read may still sit in the kernel's memory only: the process may have been killed between a
write and its sync, or have died because the sync failed, after which the kernel may call pages clean
that never reached the disk. So the last flush is written once more, as it was read, and everything
is synced before anyone may rely on it.
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
    """The end of a flush that a power cut interrupted. It was cut off: no one was promised it."""

    file: str
    offset: int
    garbage: int
    """Bytes from there to the last one that was not zero."""
    next_index: int
    """Entries from this index on are not in the log, if they were being written."""

    def __str__(self) -> str:
        return (
            f"{self.file}: a write that never ended was cut off at {self.offset}, {self.garbage} bytes; "
            f"entries from {self.next_index} on come from the other nodes"
        )


@dataclass(slots=True)
class Recovered:
    """What a journal's directory holds."""

    segments: list[Segment]
    state: LogState
    next_seq: int
    end: int
    """Offset in the last segment where the next record goes."""
    torn: TornTail | None
    kinds: set[int]
    """The kinds of records there are."""
    places: Places
    """What the positions in ``state`` mean."""


def recover(disk: Disk) -> Recovered | None:
    """Replay all segments, cut a torn end, make the rest durable; None if there is no journal.

    Raises:
        CorruptionError: damage that no power cut explains.
        DiskError: the disk refused.
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
        disk.sync_dir()  # the last process may have died between a rename and this
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
    """Follows the records through all segments."""

    def __init__(self, first: Segment, places: Places) -> None:
        header = first.header
        self._places = places
        self.state = state = LogState()
        state.next_index = header.next_index
        state.vote(header.term, header.voted_for)
        state.memberships = [] if header.membership is None else [header.membership]
        self.seq = header.first_seq
        """The number the next record must have."""
        self.end = first.start
        """Where the last record of the segment read last ends."""
        self.flush_at = first.start
        """Where the last flush of that segment begins."""
        self.closed_segment = False
        """Where it ends, a seal says that it did."""
        self.torn: TornTail | None = None
        self.kinds: set[int] = set()

    def read(self, segment: Segment, *, last: bool) -> None:
        """Apply a segment's records; in the last one the end may be torn."""
        self._check_header(segment)
        self.end = self.flush_at = segment.start
        self.closed_segment = False
        place = self._places.position(segment.number)
        for offset, record in segment.records():
            if record.seq != self.seq:
                problem = f"record {record.seq} is where record {self.seq} must be"
                raise segment.damage(problem, offset=offset, index=self.state.next_index)
            if record.kind == Kind.SEGMENT_END:
                self.closed_segment = True
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
        """Behind the last whole record: nothing, or a torn flush, or damage."""
        tail = segment.tail(self.end + RECORD_BYTES if self.closed_segment else self.end)
        if tail.garbage == 0:
            return  # records missing here are missed by the next segment's header
        index = self.state.next_index
        if not last:
            raise segment.damage(
                "a damaged record, and not in the last segment", offset=self.end, index=index
            )
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
                problem = f"a record of kind {unknown}, which this program does not know"
                raise segment.damage(problem, offset=offset, index=state.next_index)


def _settle(replay: _Replay, segments: list[Segment]) -> TornTail | None:
    """Leave nothing behind the end, write the last flush again, sync. Returns what was cut.

    The file keeps its size, by which the next start knows that it has all of it; and a disk that has no room
    left is no reason not to start.
    """
    last = segments[-1]
    if segments[0].number > 1 and len(replay.state) == 0:
        # Older segments are dropped only while at least two later entries are synced.
        problem = "every entry of the log is gone"
        raise last.damage(problem, offset=replay.end, index=replay.state.next_index)
    file = last.file
    if replay.torn is not None:
        # Whole records of the torn flush may lie behind the gap: they must never be met again.
        _blank(last, replay.end)
    for at in range(replay.flush_at, replay.end, _COPY_BYTES):
        file.write(at, [file.read(at, min(_COPY_BYTES, replay.end - at))])
    file.sync()
    write_segment_end(last, replay.end, replay.seq)
    return replay.torn


def _blank(segment: Segment, end: int) -> None:
    """Write zeros over what isn't zero behind ``end``."""
    file, size = segment.file, segment.file.size()
    for at in range(end, size, _COPY_BYTES):
        window = file.read(at, min(_COPY_BYTES, size - at))
        garbage = len(window.rstrip(b"\0"))
        if garbage:
            file.write(at, [_ZEROS[:garbage]])
