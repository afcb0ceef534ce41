"""The Raft log, the term and the vote on disk: one log of records in segments of equal size.

The journal is used from one thread and never waits for the disk: changes go to memory and to a
buffer at once, and the owner carries the buffer to the disk in a worker thread::

    flush = journal.begin_flush()
    if flush is not None:
        await in_a_thread(flush.run)      # one gathered write, one fdatasync
        journal.end_flush(flush)          # durable, durable_index have moved
    sweep = journal.begin_sweep()         # now and then: files that were dropped
    if sweep is not None:
        await in_a_thread(sweep.run)      # may run beside a flush

Meanwhile the journal may be read and changed; what is new goes into the next flush. There is one
flush at a time, which is what lets recovery tell a torn end from damage (`node.raft.records`).

Every record has a sequence number, ``written`` is the last one's, and a promise made when
``written`` was s may leave when ``durable >= s`` (the hold rule of the engine).

Memory: 20 bytes an entry, and the payloads of the newest entries up to ``cache_bytes``; those not
yet written are always held, whatever they take. Older ones are read from disk, and each read is
checked against its checksum.

Not here: how records reach the disk (`node.raft.writer`), the commit index (learned again after a
restart, PS-3), what an entry means, but for one thing: which membership is in force where.
"""

from __future__ import annotations

import os
from typing import Protocol

from node.errors import CorruptionError
from node.raft.disk import Disk
from node.raft.entry_cache import EntryCache
from node.raft.flush import Flush, Sweep
from node.raft.log_state import Base, LogState
from node.raft.places import Places
from node.raft.ports import EntryType
from node.raft.records import Header, Kind, Placed, pack_base, pack_placed
from node.raft.recovery import Recovered, TornTail, recover
from node.raft.segments import Segment
from node.raft.writer import Writer
from node.units import Index, Term

SEGMENT_BYTES = 64 << 20
READ_ENTRIES_MAX = 8192
"""Entries of one `Journal.read`, however small. A frame between nodes holds no more than 65,536 items."""

CACHE_BYTES = 64 << 20
_NOTHING = b""
_MEMBERSHIP = bytes([EntryType.MEMBERSHIP])


class ValueCipher(Protocol):
    """Encrypts payloads at rest (`node.encryption`). The checksum covers what is on disk: the sealed
    bytes.
    """

    def encrypt(self, payload: bytes, context: bytes) -> bytes: ...

    def open(self, closed_segment: bytes, context: bytes) -> bytes:
        """The payload again; a CorruptionError if it isn't what was sealed in this context."""


class Journal:
    """The log, term and vote of one node. Open it with `open`.

    Invariant: ``durable <= written``, and ``durable_index <= last_index``; an entry beyond the
    latter is in the cache.
    """

    def __init__(
        self,
        disk: Disk,
        segments: list[Segment],
        state: LogState,
        *,
        next_seq: int,
        end: int,
        torn: TornTail | None,
        places: Places,
        segment_bytes: int,
        cache_bytes: int,
        relaxed: bool,
        value_cipher: ValueCipher | None,
    ) -> None:
        self.torn = torn
        """What a power cut tore, found by `open`; None if the end was clean."""
        self._state = state
        self._places = places
        self._value_cipher = value_cipher
        self._entry_kind = Kind.ENTRY if value_cipher is None else Kind.ENCRYPTED
        self._durable_index = state.last_index
        self._entry_cache = EntryCache(cache_bytes)
        self._writer = Writer(
            disk,
            segments,
            next_seq=next_seq,
            end=end,
            segment_bytes=segment_bytes,
            relaxed=relaxed,
            header=self._header,
            places=places,
        )

    @classmethod
    def open(
        cls,
        disk: Disk,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        cache_bytes: int = CACHE_BYTES,
        relaxed: bool = False,
        value_cipher: ValueCipher | None = None,
        journal_id: bytes | None = None,
    ) -> Journal:
        """Read the journal back, or begin a new one in a directory that has none.

        Args:
            disk: the journal's own directory.
            segment_bytes: size of a file; preallocated. A larger record gets a file of its own.
            cache_bytes: payloads of durable entries held in memory.
            relaxed: don't sync before calling a flush durable: a power cut loses acknowledged data.
            value_cipher: encrypts the payloads of entries. Term, vote and memberships stay readable.
            journal_id: 16 bytes for a new journal; drawn if None.

        Raises:
            CorruptionError: damage that no power cut explains, entries sealed and no sealer, or entries
                that should be sealed and aren't.
            DiskError: the disk refused.
        """
        found = recover(disk)
        if found is None:
            header = Header(journal_id or os.urandom(16), 1, 1, Index(1), Term(0), None, None)
            first = Segment(disk, header, capacity=segment_bytes)
            first.create()
            segments, state, next_seq, end, torn = [first], LogState(), 1, first.start, None
            places = Places(1)
        else:
            _check_closed(found, value_cipher)
            segments, state, torn = found.segments, found.state, found.torn
            next_seq, end, places = found.next_seq, found.end, found.places
        journal = cls(
            disk,
            segments,
            state,
            next_seq=next_seq,
            end=end,
            torn=torn,
            places=places,
            segment_bytes=segment_bytes,
            cache_bytes=cache_bytes,
            relaxed=relaxed,
            value_cipher=value_cipher,
        )
        if segments[-1].header.capacity is None and segments[-1].exists:
            # An earlier release made it, so a lost end can't be noticed while it is the last one.
            journal._writer.roll()
        return journal

    def close(self) -> None:
        """Close the files. What was not flushed is lost, also if its flush was begun; none may be running."""
        self._writer.close()

    # --- reading ----------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """The number of the last record."""
        return self._writer.written

    @property
    def durable(self) -> int:
        """The last record that is durable, and all before it."""
        return self._writer.durable

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def voted_for(self) -> str | None:
        """Who got this node's vote in `term`."""
        return self._state.voted_for

    @property
    def membership(self) -> Placed | None:
        """What is in force at the end of the log, and since which entry; None: nothing the log says."""
        return self._state.membership

    def membership_at(self, index: int) -> Placed | None:
        """What is in force at entry ``index``, one that the log holds, and not before the snapshot's."""
        base = self._state.base
        assert base is None or index >= base.index, f"entry {index} is in a snapshot, of entry {base.index}"
        return self._state.membership_at(index)

    @property
    def base(self) -> Base | None:
        """The snapshot the log starts behind; None if it starts with a real entry."""
        return self._state.base

    @property
    def first_index(self) -> Index:
        """0 when empty."""
        return self._state.first_index

    @property
    def last_index(self) -> Index:
        """0 when empty."""
        return self._state.last_index

    @property
    def first_readable(self) -> Index:
        """The first entry whose payload is here; beyond ``last_index`` if there is none.

        A follower that needs an earlier one needs a snapshot.
        """
        base = self._state.base
        return Index(self._state.first if base is None else base.index + 1)

    @property
    def durable_index(self) -> Index:
        """The last entry that is durable as it stands in the log; 0 if none is."""
        return self._durable_index

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segments, preallocated space included."""
        return sum(segment.capacity for segment in self._writer.segments)

    @property
    def bytes_put(self) -> int:
        """Bytes of all records put since the journal was opened, durable or not. Never falls."""
        return self._writer.bytes_put

    @property
    def unallocated_bytes(self) -> int:
        """Size of the segments that don't exist yet: the running flush or the next one creates them."""
        return sum(segment.capacity for segment in self._writer.segments if not segment.exists)

    def term_at(self, index: int) -> Term | None:
        """The term of an entry; None if the log does not hold it."""
        return self._state.term_at(index)

    def first_index_of_term_at(self, index: int) -> Index:
        """The first entry in the log that has the term of entry ``index``.

        Raises:
            IndexError: the log does not hold it.
        """
        return self._state.first_index_of_term_at(index)

    def first_index_within(self, bytes_max: int) -> Index:
        """The first entry of as many of the newest segments as take no more than ``bytes_max``.

        At least the newest one counts. For dropping entries that cost too much to keep.
        """
        *older, tail = self._writer.segments
        number, total = tail.number, tail.capacity
        for segment in reversed(older):
            total += segment.capacity
            if total > bytes_max:
                break
            number = segment.number
        return self._state.first_at_or_after(self._places.position(number))

    def payload_at(self, index: int) -> bytes:
        """The payload of an entry; empty for the two entries that stand for a snapshot.

        Raises:
            IndexError: the log does not hold it.
            CorruptionError: the bytes on disk are not those that were written.
            DiskError: the disk refused, now or earlier.
        """
        self._writer.check()
        payload = self._entry_cache.get(index)
        if payload is not None:
            return payload
        if index < self.first_readable and self._state.term_at(index) is not None:
            return _NOTHING
        return self._read(index)

    def length_at(self, index: int) -> int:
        """Bytes that the payload of an entry takes in the journal: with encryption a few dozen more than it
        has.

        Raises:
            IndexError: the log does not hold it.
        """
        return self._state.length(index)

    def read(self, index: int, max_bytes: int) -> list[tuple[Index, Term, bytes]]:
        """Entries from ``index`` on, about ``max_bytes`` of payload; at least one if there is any, at most
        ``READ_ENTRIES_MAX``.

        Raises:
            IndexError: ``index`` is below `first_readable`.
            CorruptionError: the bytes on disk are not those that were written.
            DiskError: the disk refused, now or earlier.
        """
        if index < self.first_readable:
            raise IndexError(
                f"entry {index} has no payload here, the first that has is {self.first_readable}"
            )
        state = self._state
        entries: list[tuple[Index, Term, bytes]] = []
        for at in range(index, min(state.next_index, index + READ_ENTRIES_MAX)):
            max_bytes -= state.length(at)
            if entries and max_bytes < 0:
                break
            term = state.term_at(at)
            assert term is not None
            entries.append((Index(at), term, self.payload_at(at)))
        return entries

    def _read(self, index: int) -> bytes:
        state = self._state
        position, length = state.position(index), state.length(index)
        segments = self._writer.segments
        segment = segments[self._places.segment(position) - segments[0].number]
        offset = self._places.offset(position)
        record = segment.record(offset, length)
        term = state.term_at(index)
        assert term is not None
        kinds = (self._entry_kind, Kind.MEMBERSHIP)
        if record is None or record.kind not in kinds or (record.index, record.term) != (index, term):
            raise segment.damage("a damaged entry", offset=offset, index=index)
        if self._value_cipher is None or record.kind == Kind.MEMBERSHIP:
            return record.payload
        try:
            return self._value_cipher.open(record.payload, _context(index, term))
        except CorruptionError as error:
            raise segment.damage(f"an entry can't be opened: {error}", offset=offset, index=index) from error

    # --- changing ---------------------------------------------------------------------------------

    def append(self, index: int, term: int, payload: bytes) -> None:
        """Append the entry after the last one. Terms never decrease.

        If its type is `EntryType.MEMBERSHIP`, what follows the type is in force from here on.

        Raises:
            DiskError: the disk refused earlier.
        """
        state = self._state
        assert index == state.next_index, f"entry {index} cannot follow {state.next_index - 1}"
        last_term = state.term_at(index - 1)
        assert last_term is None or term >= last_term, f"entry {index}: term {term} after {last_term}"
        kind, stored = self._entry_kind, payload
        if payload[:1] == _MEMBERSHIP:
            kind = Kind.MEMBERSHIP
        elif self._value_cipher is not None:
            stored = self._value_cipher.encrypt(payload, _context(index, term))
        position = self._writer.put(kind, index, term, stored)
        state.append(index, term, position, len(stored))
        if kind is Kind.MEMBERSHIP:
            state.change_members(index, payload[1:])
        self._entry_cache.add(index, payload, self._durable_index)

    def truncate(self, from_index: int) -> None:
        """Remove entry ``from_index`` and all later ones; nothing if there are none.

        Raises:
            DiskError: the disk refused earlier.
        """
        state = self._state
        if from_index >= state.next_index:
            return
        keep = (
            0 if self._writer.segments[0].number == 1 else state.first
        )  # else entries were dropped before it
        keep = keep if state.base is None else state.base.index
        assert from_index > keep, f"truncating from {from_index}, but all up to {keep} is committed"
        again = state.membership_at(from_index - 1)
        self._writer.put(
            Kind.TRUNCATE, from_index, 0, pack_placed(again if again != state.membership else None)
        )
        self._entry_cache.discard_from(from_index)
        state.truncate(from_index)
        self._limit_durable(from_index - 1)

    def set_term(self, term: int, voted_for: str | None) -> None:
        """Store the term and, once in a term, the vote. No record if nothing changes.

        Raises:
            DiskError: the disk refused earlier.
        """
        now = (self._state.term, self._state.voted_for)
        if (term, voted_for) == now:
            return
        assert term > now[0] or (term == now[0] and now[1] is None), f"{now} can't become {(term, voted_for)}"
        payload = _NOTHING if voted_for is None else voted_for.encode()
        self._writer.put(Kind.VOTE, int(voted_for is not None), term, payload)
        self._state.vote(Term(term), voted_for)

    def reset(
        self, base: tuple[int, int], previous: tuple[int, int], membership: bytes | None = None
    ) -> None:
        """Start over behind a snapshot: the log is these two (index, term), without payloads.

        Durable with the next flush; older segments go with the next `begin_sweep` after it.

        Args:
            base: the last entry that the snapshot contains.
            previous: the entry before it.
            membership: the one that the snapshot was taken with, encoded. None: the one in force stays.

        Raises:
            DiskError: the disk refused earlier.
        """
        assert base[0] == previous[0] + 1 > 1, (base, previous)
        assert base[1] >= previous[1], (base, previous)
        value = Base(Index(base[0]), Term(base[1]), Term(previous[1]))
        if membership is None and self._state.membership is not None:
            _, membership = self._state.membership
        position = self._writer.put(Kind.BASE, *base, pack_base(previous[1], membership))
        self._state.start_over(value, position, membership)
        self._entry_cache.clear()
        self._limit_durable(0)
        self._writer.doom_before(self._writer.segments[-1].number)

    def drop_before(self, index: int) -> None:
        """Let segments go that hold only entries before ``index``; at least two entries stay.

        Only whole segments go, so `first_index` moves to the first entry of the oldest one left, or
        not at all. The files go with the next `begin_sweep`.

        Raises:
            DiskError: the disk refused earlier.
        """
        self._writer.check()
        state = self._state
        keep = min(index, state.last_index - 1)
        if keep <= state.first_index:
            return
        number = self._places.segment(state.position(keep))
        state.drop_positions_below(self._places.position(number))
        self._entry_cache.discard_before(state.first)
        self._writer.doom_before(number)

    def _limit_durable(self, index: int) -> None:
        # Entries behind it were replaced: neither what is durable nor what is just being
        # written says anything about those that took their place.
        self._durable_index = min(self._durable_index, Index(index))
        if self._writer.running is not None:
            self._writer.running.last_index = min(self._writer.running.last_index, index)

    def _header(self, number: int, first_seq: int) -> Header:
        """What a new segment must say, so that all before it may go."""
        state = self._state
        return Header(
            journal_id=self._writer.segments[0].header.journal_id,
            number=number,
            first_seq=first_seq,
            next_index=Index(state.next_index),
            term=state.term,
            voted_for=state.voted_for,
            membership=state.membership,
        )

    # --- flushing ---------------------------------------------------------------------------------

    def begin_flush(self) -> Flush | None:
        """Take what is buffered; None if nothing is, or a flush is running.

        Raises:
            DiskError: the disk refused earlier.
        """
        return self._writer.begin_flush(self._state.last_index)

    def end_flush(self, flush: Flush) -> None:
        """Take note that ``flush`` ran: what it carried is durable.

        Raises:
            DiskError: it failed, or the disk refused earlier.
        """
        self._writer.end_flush(flush)
        self._durable_index = max(self._durable_index, Index(flush.last_index))
        self._entry_cache.shrink(self._durable_index)

    def begin_sweep(self) -> Sweep | None:
        """The deletion of what `drop_before` and `reset` left behind, for another thread.

        None if there is nothing to delete, or not yet, or a sweep is running. It may run beside a
        flush, and needs no end. If nobody asks, flushes delete the files when they become many.

        Raises:
            DiskError: the disk refused earlier.
        """
        return self._writer.begin_sweep()


def _check_closed(found: Recovered, value_cipher: ValueCipher | None) -> None:
    if value_cipher is None:
        wrong, problem = (
            Kind.ENCRYPTED,
            "the journal's entries are encrypted, and this node has no key for them",
        )
    else:
        wrong, problem = Kind.ENTRY, "the journal has entries that aren't encrypted, and this node takes none"
    if wrong in found.kinds:
        for segment in found.segments:
            segment.close()
        raise found.segments[0].damage(problem, offset=0, index=found.state.first_index)


def _context(index: int, term: int) -> bytes:
    return index.to_bytes(8, "little") + term.to_bytes(8, "little")
