"""What an append means for the log of the node that received it.

`check_append` is a pure function of the frame, the log and the commit index. The library's own rule is
to delete everything after ``prev`` and add what came, even when it is the same (PS-1): a copy of an
earlier frame, cut at another place, then removes entries that are committed. Here entries that are
already in the log with the same term are passed over, only what is new or in conflict reaches the
library, and a conflict at or below the commit index stops the node.

Two more rules come with it. How far the commit index may go is bounded by what this very frame
verified, not by the end of the log (PS-19), for behind it there may be leftovers of a dead leader.
And an ack names what the frame verified, no more.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from node.errors import CorruptionError
from node.raft.frames import Append
from node.raft.ports import Entry, JournalView


class Accept(NamedTuple):
    """The append fits: everything up to ``match`` is now equal to the leader's log."""

    match: int
    """What the ack names: ``prev`` plus the number of entries."""
    commit: int
    """The leader's commit index, no further than ``match``."""
    prev: int
    """The last entry that stays; ``entries`` follow it."""
    entries: list[Entry]
    """What is genuinely new; empty when everything was there."""


class Refuse(NamedTuple):
    """The append doesn't fit: ask for what follows ``next - 1``."""

    refused: int
    next: int


Verdict: TypeAlias = Accept | Refuse


def check_append(append: Append, log: JournalView, commit: int) -> Verdict:
    """Decide about an append of the current term's leader.

    Args:
        append: a checked frame: its entries follow ``prev`` without a gap.
        log: this node's log, not empty.
        commit: this node's commit index, ``log.first_index <= commit``.

    Raises:
        CorruptionError: the leader's log contradicts what is committed here.
    """
    prev, prev_term, entries = append.prev, append.prev_term, append.entries
    first, last = log.first_index, log.last_index
    match = prev + len(entries)
    if prev > last:
        return Refuse(refused=prev, next=last + 1)
    if prev < first:
        # PS-24: what is no longer in the log is committed, and applied, and so is its first entry.
        entries = entries[first - prev :]
        prev = first
    elif log.term_at(prev) != prev_term:
        if prev <= commit:
            raise CorruptionError(
                f"the leader of term {append.term} has term {prev_term} at committed entry {prev}, "
                f"where this log has term {log.term_at(prev)}"
            )
        # PS-23: a whole term back at once, but never into what is committed and therefore equal.
        return Refuse(refused=prev, next=max(log.first_index_of_term_at(prev), commit + 1))
    known = _known(entries, log)
    fresh = entries[known:]
    if fresh and fresh[0][0] <= commit:
        raise CorruptionError(
            f"the leader of term {append.term} has term {fresh[0][1]} at committed entry {fresh[0][0]}, "
            f"where this log has term {log.term_at(fresh[0][0])}"
        )
    return Accept(match=match, commit=min(append.commit, match), prev=prev + known, entries=fresh)


def _known(entries: list[Entry], log: JournalView) -> int:
    """How many of the entries, from the front, the log already has."""
    last = log.last_index
    for count, (index, term, _) in enumerate(entries):
        if index > last or log.term_at(index) != term:
            return count
    return len(entries)
