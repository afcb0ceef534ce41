"""The Raft log, the term and the vote on disk: one log of records in segments of equal size.

The journal is used from one thread and never waits for the disk. Changes go to memory and to a buffer at
once, and the owner writes the buffer in a worker thread::

    flush = journal.begin_flush()
    if flush is not None:
        await in_a_thread(flush.run)      # one gathered write, one fdatasync
        journal.end_flush(flush)          # advances durable and durable_index
    sweep = journal.begin_sweep()         # now and then: deletes dropped segments
    if sweep is not None:
        await in_a_thread(sweep.run)      # may run beside a flush

The journal may be read and changed during a flush; new records go into the next one. There is one flush at a
time. Recovery depends on that to distinguish a torn end from damage (`node.raft.records`).

Every record has a sequence number, and ``written`` is the last one. A message that depends on the records up
to ``written`` == s may be sent when ``durable`` >= s (`durable_outbox`).

Memory: 20 bytes per entry, and the payloads of the newest entries up to ``cache_bytes``. Payloads that are
not written yet are always kept, whatever their size. Older ones are read from disk, and each read verifies
the checksum.

Not here: how records reach the disk (`node.raft.writer`), the commit index (learned again after a restart,
PS-3), and the meaning of entries, except which membership is in force where.
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
"""Maximum number of entries of one `Journal.read`. A frame between nodes holds at most 65,536 items."""

CACHE_BYTES = 64 << 20
_NOTHING = b""
_MEMBERSHIP = bytes([EntryType.MEMBERSHIP])


class ValueCipher(Protocol):
    """Encrypts payloads at rest (`node.encryption`). The record checksum covers the encrypted bytes."""

    def encrypt(self, payload: bytes, context: bytes) -> bytes: ...

    def decrypt(self, encrypted: bytes, context: bytes) -> bytes:
        """Decrypt a payload; raises CorruptionError if it was not encrypted in this context."""


class Journal:
    """The log, term and vote of one node. Create it with `open`.

    Invariant: ``durable <= written`` and ``durable_index <= last_index``; entries after ``durable_index`` are
    in the cache.
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
        """The torn end that `open` found and cut off; None if the end was clean."""
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
        """Read the journal, or create one in an empty directory.

        Args:
            disk: the journal's own directory.
            segment_bytes: preallocated size of a segment. A larger record gets a segment of its own.
            cache_bytes: payloads of durable entries kept in memory.
            relaxed: treat a flush as durable without a sync: a power failure loses acknowledged data.
            value_cipher: encrypts the payloads of entries. Term, vote and memberships stay readable.
            journal_id: 16 bytes for a new journal; None: random.

        Raises:
            CorruptionError: damage that a power failure can't cause, encrypted entries without a cipher, or
                unencrypted entries with one.
            DiskError: a read or write failed.
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
            # Created by an earlier release, without its size: a lost end can't be detected while it is the
            # last one.
            journal._writer.roll()
        return journal

    def close(self) -> None:
        """Close the files. Records that were not flushed are lost, even if their flush was begun; none may be
        running.
        """
        self._writer.close()

    # --- reading ----------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """The number of the last record."""
        return self._writer.written

    @property
    def durable(self) -> int:
        """The number of the last durable record; all before it are durable too."""
        return self._writer.durable

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def voted_for(self) -> str | None:
        """The candidate that got this node's vote in `term`."""
        return self._state.voted_for

    @property
    def membership(self) -> Placed | None:
        """The membership in force at the end of the log, with its index; None if the log contains none."""
        return self._state.membership

    def membership_at(self, index: int) -> Placed | None:
        """Return the membership in force at entry ``index``, which the log must hold, not before the base."""
        base = self._state.base
        assert base is None or index >= base.index, f"entry {index} is in a snapshot, of entry {base.index}"
        return self._state.membership_at(index)

    @property
    def base(self) -> Base | None:
        """The snapshot after which the log starts; None if it starts with a real entry."""
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
        """The first entry whose payload is stored; greater than ``last_index`` if there is none.

        A follower that needs an earlier entry needs a snapshot.
        """
        base = self._state.base
        return Index(self._state.first if base is None else base.index + 1)

    @property
    def durable_index(self) -> Index:
        """The last entry whose present version is durable; 0 if there is none."""
        return self._durable_index

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segments, preallocated space included."""
        return sum(segment.capacity for segment in self._writer.segments)

    @property
    def bytes_put(self) -> int:
        """Bytes of all records since the journal was opened, durable or not. Never decreases."""
        return self._writer.bytes_put

    @property
    def unallocated_bytes(self) -> int:
        """Size of the segments that do not exist yet: the running or next flush creates them."""
        return sum(segment.capacity for segment in self._writer.segments if not segment.exists)

    def term_at(self, index: int) -> Term | None:
        """Return the term of an entry; None if the log does not hold it."""
        return self._state.term_at(index)

    def first_index_of_term_at(self, index: int) -> Index:
        """Return the first entry of this log that has the same term as entry ``index``.

        Raises:
            IndexError: the log does not hold it.
        """
        return self._state.first_index_of_term_at(index)

    def first_index_within(self, bytes_max: int) -> Index:
        """Return the first entry of the newest segments that together take at most ``bytes_max``.

        At least the newest segment counts. It is used to drop entries that take too much space.
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
        """Return the payload of an entry; empty for the two entries that represent a snapshot.

        Raises:
            IndexError: the log does not hold it.
            CorruptionError: the checksum of the stored bytes is wrong.
            DiskError: a disk operation failed, now or earlier.
        """
        self._writer.check()
        payload = self._entry_cache.get(index)
        if payload is not None:
            return payload
        if index < self.first_readable and self._state.term_at(index) is not None:
            return _NOTHING
        return self._read(index)

    def length_at(self, index: int) -> int:
        """Return the stored size of an entry's payload in bytes; encryption adds a few dozen bytes.

        Raises:
            IndexError: the log does not hold it.
        """
        return self._state.length(index)

    def read(self, index: int, max_bytes: int) -> list[tuple[Index, Term, bytes]]:
        """Return entries from ``index`` on, with about ``max_bytes`` of payload.

        Returns at least one entry if there is any, and at most ``READ_ENTRIES_MAX``.

        Raises:
            IndexError: ``index`` is below `first_readable`.
            CorruptionError: the checksum of the stored bytes is wrong.
            DiskError: a disk operation failed, now or earlier.
        """
        if index < self.first_readable:
            raise IndexError(
                f"entry {index} has no payload here: the first one with a payload is {self.first_readable}"
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
            raise segment.damage("the entry is damaged", offset=offset, index=index)
        if self._value_cipher is None or record.kind == Kind.MEMBERSHIP:
            return record.payload
        try:
            return self._value_cipher.decrypt(record.payload, _context(index, term))
        except CorruptionError as error:
            raise segment.damage(
                f"the entry can't be decrypted: {error}", offset=offset, index=index
            ) from error

    # --- changing ---------------------------------------------------------------------------------

    def append(self, index: int, term: int, payload: bytes) -> None:
        """Append the entry after the last one. Terms never decrease.

        If its type is `EntryType.MEMBERSHIP`, the membership after the type byte is in force from here on.

        Raises:
            DiskError: a disk operation failed earlier.
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
        """Remove entry ``from_index`` and all later ones, if there are any.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        state = self._state
        if from_index >= state.next_index:
            return
        keep = (
            0 if self._writer.segments[0].number == 1 else state.first
        )  # otherwise earlier entries were dropped
        keep = keep if state.base is None else state.base.index
        assert from_index > keep, f"truncating from {from_index}, but entries up to {keep} are committed"
        restored = state.membership_at(from_index - 1)
        self._writer.put(
            Kind.TRUNCATE, from_index, 0, pack_placed(restored if restored != state.membership else None)
        )
        self._entry_cache.discard_from(from_index)
        state.truncate(from_index)
        self._limit_durable(from_index - 1)

    def set_term(self, term: int, voted_for: str | None) -> None:
        """Store the term and the vote, which is set once per term. Writes no record if nothing changes.

        Raises:
            DiskError: a disk operation failed earlier.
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
        """Restart the log after a snapshot: it then holds these two entries, without payloads.

        Durable with the next flush. Older segments are deleted by the next `begin_sweep` after it.

        Args:
            base: index and term of the last entry that the snapshot contains.
            previous: index and term of the entry before it.
            membership: the encoded membership of the snapshot. None: keep the one in force.

        Raises:
            DiskError: a disk operation failed earlier.
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
        self._writer.drop_segments_before(self._writer.segments[-1].number)

    def drop_before(self, index: int) -> None:
        """Drop the segments that hold only entries before ``index``; at least two entries stay.

        Only whole segments are dropped, so `first_index` moves to the first entry of the oldest remaining
        segment, or not at all. The next `begin_sweep` deletes the files.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        self._writer.check()
        state = self._state
        keep = min(index, state.last_index - 1)
        if keep <= state.first_index:
            return
        number = self._places.segment(state.position(keep))
        state.drop_positions_below(self._places.position(number))
        self._entry_cache.discard_before(state.first)
        self._writer.drop_segments_before(number)

    def _limit_durable(self, index: int) -> None:
        # Later entries were replaced: neither the durable index nor the running flush says anything about the
        # entries that replaced them.
        self._durable_index = min(self._durable_index, Index(index))
        if self._writer.running is not None:
            self._writer.running.last_index = min(self._writer.running.last_index, index)

    def _header(self, number: int, first_seq: int) -> Header:
        """Return the header of a new segment, which holds all state that must survive the older segments."""
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
        """Return a flush of the buffered records; None if there are none, or a flush is running.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        return self._writer.begin_flush(self._state.last_index)

    def end_flush(self, flush: Flush) -> None:
        """Mark the records of ``flush``, which has run, as durable.

        Raises:
            DiskError: it failed, or a disk operation failed earlier.
        """
        self._writer.end_flush(flush)
        self._durable_index = max(self._durable_index, Index(flush.last_index))
        self._entry_cache.shrink(self._durable_index)

    def begin_sweep(self) -> Sweep | None:
        """Return the deletion of dropped segments, to be run in another thread.

        None if there is nothing to delete, the drop is not durable yet, or a sweep is running. It may run
        beside a flush and needs no call at its end. If this is not called, flushes delete the segments once
        there are many.

        Raises:
            DiskError: a disk operation failed earlier.
        """
        return self._writer.begin_sweep()


def _check_closed(found: Recovered, value_cipher: ValueCipher | None) -> None:
    if value_cipher is None:
        wrong, problem = (
            Kind.ENCRYPTED,
            "the journal's entries are encrypted, but this node has no key",
        )
    else:
        wrong, problem = Kind.ENTRY, "the journal has entries that aren't encrypted, but this node has a key"
    if wrong in found.kinds:
        for segment in found.segments:
            segment.close()
        raise found.segments[0].damage(problem, offset=0, index=found.state.first_index)


def _context(index: int, term: int) -> bytes:
    return index.to_bytes(8, "little") + term.to_bytes(8, "little")
