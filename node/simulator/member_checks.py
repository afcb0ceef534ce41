"""Checks of single-server membership changes, in whole nodes.

*One at a time*: a leader begins a change only when the previous one and an entry of its own term are
committed, and the change adds or removes at most one voter. *By the log*: every node uses the last
membership in its log, committed or not. *For good*: a node that knows that a membership is committed uses it
or a later one, whether it got it as an entry or in a snapshot.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, chapter 4.
"""

from __future__ import annotations

from typing import Protocol

from node.raft.membership import Membership
from node.raft.ports import JournalView
from node.simulator.log_checks import LogChecker
from node.simulator.raft_checks import ViolationError


class Led(Protocol):
    """The parts of an engine that concern membership."""

    @property
    def commit_index(self) -> int: ...
    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...


def expect_one_at_a_time(
    name: str, new: Membership, before: Membership, since: int, commit: int, *, knows_own: bool
) -> None:
    """Check a membership change that a leader has begun.

    Args:
        name: the leader.
        new: the membership that it has appended.
        before: the membership in force until then.
        since: the index of the entry that contains ``before``.
        commit: the leader's commit index.
        knows_own: whether the entry at ``commit`` is of the leader's own term.
    """
    if since > commit:
        raise ViolationError("membership", f"{name} begins a change, that of entry {since} isn't committed")
    if not knows_own:
        raise ViolationError("membership", f"{name} begins a change before it committed an entry of its term")
    if len(new.copies() ^ before.copies()) > 1:
        raise ViolationError("membership", f"{before.voters} become {new.voters} in one change")


class MemberChecker:
    """Checks every membership in any journal, and every node after each step.

    Args:
        log: knows which entries are committed.
    """

    def __init__(self, log: LogChecker) -> None:
        self._log = log
        self._changes: dict[tuple[int, int], Membership] = {}
        """By index and term of the entry, ordered by index except for entries that were never committed."""

    def appended(self, index: int, term: int, encoded: bytes) -> None:
        """Record a membership that was appended to a journal."""
        if (index, term) not in self._changes:
            self._changes[index, term] = Membership.decode(encoded)

    def observe(self, name: str, engine: Led, journal: JournalView) -> None:
        """Check the membership of a node that may have got, lost or committed entries."""
        since, placed, commit = engine.membership_index, journal.membership, engine.commit_index
        if since != (placed[0] if placed is not None else 0):
            raise ViolationError(
                "membership", f"{name} uses the membership of entry {since}, but its log has {placed}"
            )
        if since > commit:
            return
        for (index, term), membership in reversed(self._changes.items()):
            if index <= commit and self._log.committed_term(index) == term:
                if engine.membership != membership:
                    raise ViolationError(
                        "membership",
                        f"{name} uses {engine.membership.voters} of entry {since}, "
                        f"but {membership.voters} of entry {index} are committed",
                    )
                return
