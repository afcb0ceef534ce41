"""Journals for simulations: one in memory, and the real one on a simulated disk.

A `Tape` is the disk of a `MemoryJournal`: an ordered list of operations of which a prefix is durable. It
survives a crash. A new `MemoryJournal` is created from it by replaying the remaining operations. A crashed
process loses nothing that it wrote; a power failure loses a suffix of the operations that no flush has made
durable. This journal is fast, and has no file format that could be wrong.

A `JournalDisk` holds a real journal (`node.raft.journal`) on a `SimulatedDisk`, with torn writes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from node.raft.journal import Journal
from node.raft.ports import EntryType, JournalView
from node.simulator.disk import PowerCutError, SimulatedDisk
from node.units import Index, Term

_MEMBERSHIP = bytes([EntryType.MEMBERSHIP])

Operation: TypeAlias = Callable[["MemoryJournal"], None]


class FlushedJournal(JournalView, Protocol):
    """A journal with the methods that its driver calls. A flush has a method ``run``."""

    def begin_flush(self) -> Any: ...
    def end_flush(self, flush: Any) -> None: ...
    def drop_before(self, index: int) -> None: ...


class Medium(Protocol):
    """The storage that survives a process. Open it again after each crash."""

    def open(self) -> FlushedJournal: ...

    def killed(self) -> None:
        """Close open files: the process died."""

    def lose(self, rng: random.Random) -> int:
        """Lose data that isn't durable: the power failed. Returns the number of lost records."""


class Tape:
    """A list of operations, in order, that stands for a disk."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.durable = 0

    def open(self) -> MemoryJournal:
        return MemoryJournal(self)

    def killed(self) -> None:
        """Do nothing: written operations stay."""

    def lose(self, rng: random.Random) -> int:
        keep = rng.randint(self.durable, len(self.operations))
        lost = len(self.operations) - keep
        del self.operations[keep:]
        self.durable = keep
        return lost


class JournalDisk:
    """A real journal on a simulated disk. Segments and cache are small, so that both limits are reached.

    Args:
        rng: decides what survives a power failure.
        name: for error messages.
    """

    def __init__(self, rng: random.Random, name: str) -> None:
        self._disk = SimulatedDisk(rng, name=name)
        self._journal: Journal | None = None

    def open(self) -> Journal:
        self._journal = Journal.open(
            self._disk,
            segment_bytes=8192,
            cache_bytes=2048,
            journal_id=self._disk.describe("").encode()[:16].ljust(16),
        )
        return self._journal

    def killed(self) -> None:
        self._disk.kill()

    def lose(self, rng: random.Random) -> int:
        """Simulate a power failure, in half of the cases during a flush."""
        assert self._journal is not None
        written = self._journal.written
        flush = self._journal.begin_flush() if rng.random() < 0.5 else None
        if flush is not None:
            self._disk.stop_after(rng.randrange(4))
            with contextlib.suppress(PowerCutError):
                flush.run()
        self._disk.power_cut()
        kept = self.open().written
        self._disk.kill()
        return written - kept


class MemoryFlush:
    """A running flush: it covers what was written before it began."""

    def __init__(self, tape: Tape, seq: int, last_index: int) -> None:
        self._tape = tape
        self.seq = seq
        self.last_index = last_index

    def run(self) -> None:
        """Make the covered operations durable: the part that a worker thread does with a real disk."""
        self._tape.durable = max(self._tape.durable, self.seq)


class MemoryJournal:
    """Log, term and vote: the part of the interface of `node.raft.journal.Journal` that the engine uses."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._first = 1
        self._entries: list[tuple[int, bytes]] = []
        self._base = 0
        self._memberships: list[tuple[int, bytes]] = []
        self._flush: MemoryFlush | None = None
        self.term = 0
        self.voted_for: str | None = None
        for operation in tape.operations:
            operation(self)
        self.durable = len(tape.operations)  # operations that were read back are on the disk
        self.durable_index = self.last_index
        tape.durable = self.durable

    @property
    def written(self) -> int:
        return len(self._tape.operations)

    @property
    def first_index(self) -> int:
        return self._first if self._entries else 0

    @property
    def first_readable(self) -> int:
        return max(self._first, self._base + 1)

    @property
    def last_index(self) -> int:
        return self._first + len(self._entries) - 1 if self._entries else 0

    @property
    def membership(self) -> tuple[int, bytes] | None:
        return self._memberships[-1] if self._memberships else None

    def membership_at(self, index: int) -> tuple[int, bytes] | None:
        return next((placed for placed in reversed(self._memberships) if placed[0] <= index), None)

    def term_at(self, index: int) -> int | None:
        return self._entries[index - self._first][0] if self._first <= index <= self.last_index else None

    def payload_at(self, index: int) -> bytes:
        assert self._first <= index <= self.last_index
        return self._entries[index - self._first][1]

    def length_at(self, index: int) -> int:
        assert self._first <= index <= self.last_index
        return len(self._entries[index - self._first][1])

    def read(self, index: int, max_bytes: int) -> list[tuple[Index, Term, bytes]]:
        assert index >= self.first_readable, f"entry {index} has no payload here"
        found: list[tuple[Index, Term, bytes]] = []
        for at in range(index, self.last_index + 1):
            term, payload = self._entries[at - self._first]
            max_bytes -= len(payload)
            if found and max_bytes < 0:
                break
            found.append((Index(at), Term(term), payload))
        return found

    def first_index_of_term_at(self, index: int) -> int:
        term = self.term_at(index)
        while index > self._first and self.term_at(index - 1) == term:
            index -= 1
        return index

    # --- changing ---------------------------------------------------------------------------------

    def append(self, index: int, term: int, payload: bytes) -> None:
        assert index == self.last_index + 1 or not self._entries
        assert not self._entries or term >= self._entries[-1][0], "terms never decrease"
        self._write(lambda journal: journal._append(term, payload))

    def truncate(self, from_index: int) -> None:
        self._write(lambda journal: journal._cut(from_index))
        self._limit_durable(from_index - 1)

    def set_term(self, term: int, voted_for: str | None) -> None:
        if (term, voted_for) == (self.term, self.voted_for):
            return
        assert term > self.term or self.voted_for is None, "one vote a term"

        def write(journal: MemoryJournal) -> None:
            journal.term, journal.voted_for = term, voted_for

        self._write(write)

    def reset(
        self, base: tuple[int, int], previous: tuple[int, int], membership: bytes | None = None
    ) -> None:
        def write(journal: MemoryJournal) -> None:
            kept = membership or (journal._memberships[-1][1] if journal._memberships else None)
            journal._memberships = [] if kept is None else [(base[0], kept)]
            journal._first, journal._base = previous[0], base[0]
            journal._entries = [(previous[1], b""), (base[1], b"")]

        self._write(write)
        self._limit_durable(0)

    def drop_before(self, index: int) -> None:
        """Drop entries before ``index``, but keep two. Durable at once: a real journal deletes files."""
        keep = min(index, self.last_index - 1)
        if keep > self._first:
            self._write(lambda journal: journal._drop(keep))

    # --- flushing ---------------------------------------------------------------------------------

    def begin_flush(self) -> MemoryFlush | None:
        if self._flush is not None or self.durable == self.written:
            return None
        self._flush = MemoryFlush(self._tape, self.written, self.last_index)
        return self._flush

    def end_flush(self, flush: MemoryFlush) -> None:
        assert flush is self._flush
        self._flush = None
        self.durable = max(self.durable, flush.seq)
        self.durable_index = max(self.durable_index, flush.last_index)

    def flush(self) -> None:
        """Make everything durable at once."""
        flush = self.begin_flush()
        if flush is not None:
            flush.run()
            self.end_flush(flush)

    # --- replayed operations ------------------------------------------------------------------------

    def _write(self, operation: Operation) -> None:
        self._tape.operations.append(operation)
        operation(self)

    def _append(self, term: int, payload: bytes) -> None:
        self._entries.append((term, payload))
        if payload[:1] == _MEMBERSHIP:
            self._memberships.append((self.last_index, payload[1:]))

    def _cut(self, from_index: int) -> None:
        assert from_index > self._first
        self._memberships = [placed for placed in self._memberships if placed[0] < from_index]
        del self._entries[from_index - self._first :]

    def _drop(self, keep: int) -> None:
        del self._entries[: keep - self._first]
        self._first = keep

    def _limit_durable(self, index: int) -> None:
        # The entries that replaced them are not durable yet, and a running flush does not cover them.
        self.durable_index = min(self.durable_index, index)
        if self._flush is not None:
            self._flush.last_index = min(self._flush.last_index, index)
