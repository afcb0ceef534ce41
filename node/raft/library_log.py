"""The journal as the library sees it: a sequence of (command, index, term) that is read lazily.

The library reads its log as if it were a list, copies tails of it and loads an entry to look at
its term (PS-35, PS-37). Here a slice is a window and an entry reads its payload only when it is applied.

Two rules live here because the library's commit and apply loops both read through bounded slices:

- A slice ends at ``readable()``. On a leader that is its durable index, so its own copy counts only
  when it is on the disk (PS-14), in a group of one member too.
- Applying stops after a while (``budget_s``), so that a long backlog doesn't silence the node.

The entry the library adds on its own account is a no-op; it is stored under our own type byte.
"""

# The names of the methods below are the library's.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from node.raft.ports import Clock, EntryType, JournalView

NO_OP = bytes([EntryType.NO_OP])


class Received(NamedTuple):
    """A payload that came from the leader, as opposed to a command the library made."""

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
    """Entries ``first`` to ``end`` exclusive, without holding any."""

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
        """Entries in order, until the time is up; the library comes back for the rest."""
        until = self._clock() + self._budget_s
        for index in range(self._first, self._end):
            yield LibraryEntry(self._journal, index)
            if self._clock() > until:
                return


class LibraryLog:
    """What stands where the library believes its own journal to be. Names are the library's."""

    def __init__(
        self, journal: JournalView, *, readable: Callable[[], int], clock: Clock, budget_s: float
    ) -> None:
        self.readable = readable
        """How far slices reach at most."""
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
        assert index == self._journal.last_index + 1, f"entry {index} would leave a hole"
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
        """A stored commit index may lie beyond what survived (PS-3): it is always learned again."""
        return 1

    def setRaftCommitIndex(self, index: int) -> None:
        """Not stored, for the same reason."""

    def onOneSecondTimer(self) -> None:
        """The library would write its commit index now."""
