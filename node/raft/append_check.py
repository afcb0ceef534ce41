"""The check of an append against the log of the node that received it.

`check_append` is a pure function of the frame, the log and the commit index. The library's own handler
deletes every entry after ``prev`` and appends the entries of the frame, even if they are equal (PS-1). A copy
of an earlier frame, cut at another place, then removes committed entries. Here entries that the log already
has with the same term are skipped, only new or conflicting ones reach the library, and a conflict at or below
the commit index stops the node.

Two more rules: The commit index advances at most to the last entry that this frame verified, not to the end
of the log (PS-19), because uncommitted entries of an earlier leader may follow there. An ack covers only what
the frame verified.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from node.errors import CorruptionError
from node.raft.frames import Append
from node.raft.ports import Entry, JournalView


class Accept(NamedTuple):
    """The append matches this log: everything up to ``match`` is now equal to the leader's log."""

    match: int
    """The index to acknowledge: ``prev`` plus the number of entries."""
    commit: int
    """The leader's commit index, at most ``match``."""
    prev: int
    """The last entry of this log that stays; ``entries`` follow it."""
    entries: list[Entry]
    """The entries that this log does not have; empty if it has all of them."""


class Refuse(NamedTuple):
    """The append does not match this log: the leader must send from entry ``next`` on."""

    refused: int
    next: int


Verdict: TypeAlias = Accept | Refuse


def check_append(append: Append, log: JournalView, commit: int) -> Verdict:
    """Compare an append of the current term's leader with this node's log.

    Args:
        append: a checked frame: its entries follow ``prev`` without a gap.
        log: this node's log, not empty.
        commit: this node's commit index, ``log.first_index <= commit``.

    Raises:
        CorruptionError: the leader's log contradicts an entry that is committed here.
    """
    prev, prev_term, entries = append.prev, append.prev_term, append.entries
    first, last = log.first_index, log.last_index
    match = prev + len(entries)
    if prev > last:
        return Refuse(refused=prev, next=last + 1)
    if prev < first:
        # PS-24: entries before the first one of this log are committed and applied, and so is the first one.
        entries = entries[first - prev :]
        prev = first
    elif log.term_at(prev) != prev_term:
        if prev <= commit:
            raise CorruptionError(
                f"the leader of term {append.term} has term {prev_term} at committed entry {prev}, "
                f"where this log has term {log.term_at(prev)}"
            )
        # PS-23: go back a whole term at once, but not into committed entries, which are equal.
        return Refuse(refused=prev, next=max(log.first_index_of_term_at(prev), commit + 1))
    present = _count_present(entries, log)
    fresh = entries[present:]
    if fresh and fresh[0][0] <= commit:
        raise CorruptionError(
            f"the leader of term {append.term} has term {fresh[0][1]} at committed entry {fresh[0][0]}, "
            f"where this log has term {log.term_at(fresh[0][0])}"
        )
    return Accept(match=match, commit=min(append.commit, match), prev=prev + present, entries=fresh)


def _count_present(entries: list[Entry], log: JournalView) -> int:
    """Return how many of the entries, from the front, the log already has."""
    last = log.last_index
    for count, (index, term, _) in enumerate(entries):
        if index > last or log.term_at(index) != term:
            return count
    return len(entries)
