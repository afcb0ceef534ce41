"""What single-server changes of the membership rest on, looked at in whole nodes.

*One at a time*: a leader begins a change when the one before is committed, as is an entry of its own
term, and no more than one voter differs. *By the log*: every node goes by the last membership in its
log, committed or not. *For good*: once a membership is committed, whoever knows that, goes by it or by
a later one, however it came by the log.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, chapter 4.
"""

from __future__ import annotations

from typing import Protocol

from node.raft.membership import Membership
from node.raft.ports import JournalView
from node.simulator.log_checks import LogChecker
from node.simulator.raft_checks import ViolationError


class Led(Protocol):
    """An engine, as far as its members go."""

    @property
    def commit_index(self) -> int: ...
    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...


def expect_one_at_a_time(
    name: str, new: Membership, before: Membership, since: int, commit: int, *, knows_own: bool
) -> None:
    """A leader has begun a change.

    Args:
        name: the leader.
        new: what it has appended.
        before: what was in force.
        since: the entry that brought that.
        commit: its commit index.
        knows_own: the entry there is of the leader's own term.
    """
    if since > commit:
        raise ViolationError("membership", f"{name} begins a change, that of entry {since} isn't committed")
    if not knows_own:
        raise ViolationError("membership", f"{name} begins a change and has committed nothing in its term")
    if len(new.copies() ^ before.copies()) > 1:
        raise ViolationError("membership", f"{before.voters} are to become {new.voters} at once")


class MemberChecker:
    """Told of every membership in any journal, and of every node after every step.

    Args:
        log: knows what is committed.
    """

    def __init__(self, log: LogChecker) -> None:
        self._log = log
        self._changes: dict[tuple[int, int], Membership] = {}
        """By index and term of the entry: in order, but for those that were never committed."""

    def appended(self, index: int, term: int, encoded: bytes) -> None:
        """A journal has got an entry that brings a membership."""
        if (index, term) not in self._changes:
            self._changes[index, term] = Membership.decode(encoded)

    def observe(self, name: str, engine: Led, journal: JournalView) -> None:
        """A node may have got, lost or committed entries."""
        since, placed, commit = engine.membership_index, journal.membership, engine.commit_index
        if since != (placed[0] if placed is not None else 0):
            raise ViolationError(
                "membership", f"{name} goes by the members of entry {since}, its log by {placed}"
            )
        if since > commit:
            return
        for (index, term), membership in reversed(self._changes.items()):
            if index <= commit and self._log.committed_term(index) == term:
                if engine.membership != membership:
                    raise ViolationError(
                        "membership",
                        f"{name} goes by {engine.membership.voters} of entry {since}, "
                        f"{membership.voters} of entry {index} are committed",
                    )
                return
