"""The journal as pysyncobj sees it: a sequence of (command, index, term), read lazily.

The library uses its log like a list, copies tails of it and loads an entry to read its term (PS-35, PS-37).
Here a slice is a window, and an entry reads its payload only when it is applied.

Two rules are enforced here, because the library's commit and apply loops both read through bounded slices:

- A slice ends at ``readable()``. On a leader that is its durable index, so its own copy counts only when it
  is on the disk (PS-14), also in a group of one member.
- Applying stops after ``budget_s``, so that a long backlog does not keep the node from sending heartbeats.

The library's own entry is a no-op; it is stored with our type byte.
"""

# The library prescribes the names of the methods below.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from node.raft.ports import Clock, EntryType, JournalView

NO_OP = bytes([EntryType.NO_OP])


class Received(NamedTuple):
    """A payload received from the leader, as opposed to a command created by the library."""

    payload: bytes


class LibraryEntry:
    """One entry: ``[0]`` the payload, ``[1]`` the index, ``[2]`` the term."""

    __slots__ = ("_index", "_journal")

    def __init__(self, journal: JournalView, index: int) -> None:
        self._journal = journal
        self._index = index

    def __getitem__(self, field: int) -> object:
        if field == 0:
            return self._journal.payload_at(self._index)
        return self._index if field == 1 else self._journal.term_at(self._index)


class Window:
    """The entries from ``first`` up to, but not including, ``end``; it stores none of them."""

    __slots__ = ("_budget_s", "_clock", "_end", "_first", "_journal")

    def __init__(self, journal: JournalView, first: int, end: int, clock: Clock, budget_s: float) -> None:
        self._journal = journal
        self._first = first
        self._end = max(first, end)
        self._clock = clock
        self._budget_s = budget_s

    def __len__(self) -> int:
        return self._end - self._first

    def __getitem__(self, position: int) -> LibraryEntry:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return LibraryEntry(self._journal, self._first + position)

    def __iter__(self) -> Iterator[LibraryEntry]:
        """Yield entries in order until the time budget is used up; the library continues later."""
        until = self._clock() + self._budget_s
        for index in range(self._first, self._end):
            yield LibraryEntry(self._journal, index)
            if self._clock() > until:
                return


class LibraryLog:
    """Takes the place of the library's journal. The library prescribes the method names."""

    def __init__(
        self, journal: JournalView, *, readable: Callable[[], int], clock: Clock, budget_s: float
    ) -> None:
        self.readable = readable
        """Returns the last index that a slice may contain."""
        self._journal = journal
        self._clock = clock
        self._budget_s = budget_s

    def __len__(self) -> int:
        return self._journal.last_index - self._journal.first_index + 1 if self._journal.last_index else 0

    def __getitem__(self, key: int | slice) -> LibraryEntry | Window:
        first, last = self._journal.first_index, self._journal.last_index
        if isinstance(key, slice):
            end = last + 1 if key.stop is None else min(first + key.stop, self.readable() + 1)
            return Window(self._journal, first + (key.start or 0), end, self._clock, self._budget_s)
        index = last + 1 + key if key < 0 else first + key
        if not first <= index <= last:
            raise IndexError(key)
        return LibraryEntry(self._journal, index)

    def add(self, command: bytes | Received, index: int, term: int) -> None:
        assert index == self._journal.last_index + 1, f"entry {index} would leave a gap"
        payload = command.payload if isinstance(command, Received) else NO_OP
        self._journal.append(index, term, payload)

    def deleteEntriesFrom(self, position: int) -> None:
        self._journal.truncate(self._journal.first_index + position)

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        self._journal.set_term(term, voted_for)

    def getCurrentTerm(self) -> int:
        return self._journal.term

    def getVotedForNodeId(self) -> str | None:
        return self._journal.voted_for

    def getRaftCommitIndex(self) -> int:
        """Return 1: a stored commit index may be greater than what survived (PS-3), so it is always learned
        again.
        """
        return 1

    def setRaftCommitIndex(self, index: int) -> None:
        """Ignore the index, for the same reason."""

    def onOneSecondTimer(self) -> None:
        """Do nothing; the library would store its commit index here."""
