"""Checks of Raft's guarantees while a group runs. The first violation ends the run.

*Election safety*: a term has one leader. *Leader completeness*: an elected server has every entry that was
committed in an earlier term. *State machine safety*: all servers apply the same batch at the same index, in
order, each once. *Log matching*: two logs that agree on an entry's term agree on all earlier entries.
*Durability*: every batch that was applied anywhere is in every state in the end. *Convergence*: after all
faults have ended there is a leader, and all states are equal. *Membership*: two memberships that are
committed one after the other differ in one voter at most, as a name and as a directory; and the membership
that a node applies or gets with a snapshot is the one that was committed there.

Source: Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, TypeAlias

from node.raft.membership import Membership
from node.raft.ports import JournalView

State: TypeAlias = list[tuple[int, bytes]]
"""The applied batches of a server: index and payload of each."""


class ViolationError(Exception):
    """An invariant is violated. ``kind`` names it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Observed(Protocol):
    """A server at the end of a run, as the checker uses it."""

    name: str
    state: State

    @property
    def up(self) -> bool: ...
    @property
    def log(self) -> JournalView: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def applied(self) -> int: ...


class RaftChecker:
    """Checks every election, commit and application, and records which entries were committed."""

    def __init__(self, initial_voters: Membership) -> None:
        self.memberships: dict[int, Membership] = {0: initial_voters}
        """The committed memberships, by the index of their entry."""
        self.committed: dict[int, tuple[int, bytes]] = {}
        """Term and payload of each entry that any leader committed or any server applied."""
        self._commit_terms: dict[int, int] = {}
        self._leaders: dict[int, str] = {}

    def elected(self, name: str, term: int, journal: JournalView) -> None:
        leader = self._leaders.setdefault(term, name)
        if leader != name:
            raise ViolationError("election safety", f"term {term} is led by {leader} and {name}")
        for index, entry in self.committed.items():
            if index >= journal.first_readable and self._commit_terms[index] < term:
                self._expect(name, journal, index, entry)

    def _expect(self, name: str, journal: JournalView, index: int, entry: tuple[int, bytes]) -> None:
        if index > journal.last_index or journal.term_at(index) != entry[0]:
            raise ViolationError(
                "leader completeness",
                f"{name} leads, entry {index} of term {entry[0]} is committed, and there it has term "
                f"{journal.term_at(index)} (last entry {journal.last_index})",
            )

    def commits(self, name: str, journal: JournalView, term: int, above: int, up_to: int) -> None:
        """Check the entries that the leader of ``term`` has committed by moving its commit index."""
        for index in range(max(above + 1, journal.first_readable), up_to + 1):
            self._commit(name, index, journal.term_at(index) or 0, journal.payload_at(index), term)

    def applies(self, name: str, index: int, term: int, payload: bytes, state: State) -> None:
        """Check a batch that a server applies to ``state``, which doesn't contain it yet."""
        if state and state[-1][0] >= index:
            raise ViolationError("state machine safety", f"{name} applies {index} after {state[-1][0]}")
        self._commit(name, index, term, b"\x01" + payload, term)

    def passes(self, name: str, index: int, term: int, payload: bytes) -> None:
        """Check an entry that a server passes because it is no batch."""
        self._commit(name, index, term, payload, term)

    def _commit(self, name: str, index: int, term: int, payload: bytes, at_term: int) -> None:
        self._commit_terms.setdefault(index, at_term)
        if index not in self.committed and payload[:1] == b"\x02":
            self._members_committed(index, Membership.decode(payload[1:]))
        expected = self.committed.setdefault(index, (term, payload))
        if expected != (term, payload):
            raise ViolationError(
                "state machine safety",
                f"{name} commits {payload[:12]!r} of term {term} at {index}, where "
                f"{expected[1][:12]!r} of term {expected[0]} was committed",
            )

    @property
    def members(self) -> Membership:
        """The latest committed membership."""
        return self.memberships[max(self.memberships)]

    def _members_committed(self, index: int, membership: Membership) -> None:
        self.memberships[index] = membership
        ordered = [self.memberships[at] for at in sorted(self.memberships)]
        for before, after in pairwise(ordered):
            if len(before.copies() ^ after.copies()) > 1:
                raise ViolationError("membership", f"{before.voters} became {after.voters}")

    def members_applied(self, name: str, index: int, membership: Membership) -> None:
        """Check a membership that a server takes for committed as of entry ``index``."""
        expected = self.memberships[max(at for at in self.memberships if at <= index)]
        if membership != expected:
            raise ViolationError(
                "membership",
                f"{name} takes {membership.names} for committed at {index}, but {expected.names} was",
            )

    # --- at the end -------------------------------------------------------------------------------

    def finish(self, servers: Sequence[Observed]) -> None:
        """Check convergence and durability some time after all faults have ended."""
        for position, one in enumerate(servers):
            if not one.up:
                raise ViolationError("convergence", f"{one.name} is a member and isn't up")
            for other in servers[:position]:
                self._match(one, other)
        applied = {server.name: server.applied for server in servers}
        if not any(server.is_ready for server in servers):
            raise ViolationError("convergence", "there is no ready leader")
        if len(set(applied.values())) > 1:
            raise ViolationError("convergence", f"not all have applied the same: {applied}")
        entries = sorted(self.committed.items())
        batches = [(index, payload[1:]) for index, (_, payload) in entries if payload[:1] == b"\x01"]
        for server in servers:
            if server.state != batches:
                missing = [batch for batch in batches if batch not in server.state]
                raise ViolationError("durability", f"{server.name} misses {len(missing)}: {missing[:3]}")

    def _match(self, one: Observed, other: Observed) -> None:
        a, b = one.log, other.log
        first, last = max(a.first_readable, b.first_readable), min(a.last_index, b.last_index)
        agreed = False
        for index in range(last, first - 1, -1):
            agreed = agreed or a.term_at(index) == b.term_at(index)
            if agreed and (a.term_at(index), a.payload_at(index)) != (b.term_at(index), b.payload_at(index)):
                raise ViolationError("log matching", f"{one.name} and {other.name} differ at {index}")
