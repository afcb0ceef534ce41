"""The content of a journal without payloads: one state, changed by one record at a time. No I/O.

Replaying records at start-up and appending them later use the same methods, so a restart leads to the same
state.

An entry takes twenty bytes: 16 million entries take 320 MB, a log of 1 GiB in batches of 64 KiB takes 330 kB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import itemgetter

from node.raft.records import Placed
from node.units import Index, Term


@dataclass(frozen=True, slots=True)
class Base:
    """The base of a log after a snapshot: this entry and the one before are in the log without payloads."""

    index: Index
    term: Term
    previous_term: Term


class LogState:
    """Entries by index (term, position, length), term, vote, memberships, base.

    A *position* locates an entry's record. The owner assigns the numbers, which grow from entry to entry.

    Invariant: entries are contiguous from ``first`` to ``next_index - 1``; terms never decrease.
    """

    __slots__ = (
        "_lengths",
        "_positions",
        "_terms",
        "base",
        "first",
        "memberships",
        "next_index",
        "term",
        "voted_for",
    )

    def __init__(self) -> None:
        self._terms = array("Q")
        self._positions = array("Q")
        self._lengths = array("I")
        self.first = 1
        """Index of the first entry, if the log is not empty."""
        self.next_index = 1
        self.term = Term(0)
        self.voted_for: str | None = None
        self.memberships: list[Placed] = []
        """Sorted by index: the membership in force at the first entry, and every later one. Empty if the log
        has none."""
        self.base: Base | None = None

    def __len__(self) -> int:
        return len(self._terms)

    # --- one method for each kind of record -------------------------------------------------------

    def append(self, index: int, term: int, position: int, length: int) -> None:
        if not self._terms:
            self.first = index
        self._terms.append(term)
        self._positions.append(position)
        self._lengths.append(length)
        self.next_index = index + 1

    def truncate(self, index: int, membership: Placed | None = None) -> None:
        """Remove entry ``index`` and all later ones.

        Args:
            index: the first entry to remove. It may precede ``first`` if older segments were dropped.
            membership: the membership in force after that, in case its entry is in a dropped segment too.
        """
        keep = max(0, index - self.first)
        del self._terms[keep:], self._positions[keep:], self._lengths[keep:]
        self.next_index = index
        while self.memberships and self.memberships[-1][0] >= index:
            self.memberships.pop()
        if membership is not None and not self.memberships:
            self.memberships.append(membership)

    def change_members(self, index: int, membership: bytes) -> None:
        """Register the membership of entry ``index``, which was just appended."""
        self.memberships.append((index, membership))

    def vote(self, term: Term, voted_for: str | None) -> None:
        self.term = term
        self.voted_for = voted_for

    def start_over(self, base: Base, position: int, membership: bytes | None) -> None:
        """Keep only the base and the entry before it, both at ``position``, without payloads."""
        self.memberships = [(base.index, membership)] if membership else []
        self._terms = array("Q", (base.previous_term, base.term))
        self._positions = array("Q", (position, position))
        self._lengths = array("I", (0, 0))
        self.first = base.index - 1
        self.next_index = base.index + 1
        self.base = base

    # --- dropping the beginning; no record says so ------------------------------------------------

    def drop_positions_below(self, position: int) -> None:
        """Remove the entries before ``position``, whose segments are about to be deleted."""
        count = bisect_left(self._positions, position)
        del self._terms[:count], self._positions[:count], self._lengths[:count]
        self.first += count
        if self.base is not None and self.base.index < self.first:
            self.base = None
        del self.memberships[: max(0, self._in_force(self.first))]

    # --- reading ----------------------------------------------------------------------------------

    @property
    def first_index(self) -> Index:
        return Index(self.first if self._terms else 0)

    @property
    def last_index(self) -> Index:
        return Index(self.next_index - 1 if self._terms else 0)

    def term_at(self, index: int) -> Term | None:
        at = index - self.first
        return Term(self._terms[at]) if 0 <= at < len(self._terms) else None

    @property
    def membership(self) -> Placed | None:
        """The membership in force at the end of the log."""
        return self.memberships[-1] if self.memberships else None

    def membership_at(self, index: int) -> Placed | None:
        """Return the membership in force at entry ``index``, which the log must hold."""
        at = self._in_force(index)
        return self.memberships[at] if at >= 0 else None

    def _in_force(self, index: int) -> int:
        """Return the position in ``memberships`` of the one in force at entry ``index``; -1 if there is
        none.
        """
        return bisect_right(self.memberships, index, key=itemgetter(0)) - 1

    def first_index_of_term_at(self, index: int) -> Index:
        """Return the first entry of the log with the same term as entry ``index``."""
        return Index(bisect_left(self._terms, self._terms[self.offset(index)]) + self.first)

    def first_at_or_after(self, position: int) -> Index:
        """Return the first entry whose record is not before ``position``; ``next_index`` if there is none."""
        return Index(self.first + bisect_left(self._positions, position))

    def position(self, index: int) -> int:
        return self._positions[self.offset(index)]

    def length(self, index: int) -> int:
        return self._lengths[self.offset(index)]

    def offset(self, index: int) -> int:
        """Return the position of entry ``index`` in the arrays.

        Raises:
            IndexError: the log does not hold it.
        """
        at = index - self.first
        if not 0 <= at < len(self._terms):
            raise IndexError(f"entry {index} is not in the log ({self.first} to {self.next_index - 1})")
        return at
