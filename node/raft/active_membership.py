"""The membership in force on this node, and the parts of the engine that depend on it.

The journal stores the membership that applies to its last entry. `Reconfiguration.follow` reads it whenever
it may have changed: after entries were appended or removed, after a snapshot, and at the start. It passes the
new membership to the election (which votes count), to the library (the same, for votes and commits) and to
the replicator (which peers receive the log). It does not wait for the commit: a majority is always computed
from the last membership in the log. Otherwise two majorities of different memberships might not overlap.

`Reconfiguration.check` keeps single-server changes safe. The leader calls it before it appends a change: the
change before must be committed, and at most one voter may differ. A third condition, that the leader has
committed an entry of its own term, is part of *ready* and is checked by the engine.

A removed node. The new membership, which no longer names this node, may never be committed. So this node
still grants votes. Until it learns that the new membership is committed it may even campaign, without
counting itself: with four voters of which one is leaving, the other three may need its log to elect a leader.
The leader keeps sending it the log until it has learned of its removal, or until `progress.FAREWELL_S` has
passed.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, §4.1, §4.2.2; his message to the raft-dev list,
*bug in single-server membership changes* (2015).
"""

from __future__ import annotations

from node.errors import ConflictError, CorruptionError, RefusedError, RemoteProtocolError
from node.raft.election import Election
from node.raft.membership import Membership
from node.raft.ports import JournalView, Role
from node.raft.progress import Replicator
from node.raft.pysyncobj_adapter import Library
from node.raft.records import Placed
from node.units import Index


class Reconfiguration:
    """Applies the membership in force to every part of an engine.

    Args:
        name: this node's name.
        directory: the id of this node's directory. A voter of the same name with another directory is a
            different copy of the log: an earlier node of that name, or this node before it lost its
            directory. None: compare names only.
        initial_voters: in force while the log names no members.
        journal: stores which membership is in force at which entry.
        election, library, replicator: receive the membership from `follow`.
    """

    def __init__(
        self,
        *,
        name: str,
        directory: str | None,
        initial_voters: Membership,
        journal: JournalView,
        election: Election,
        library: Library,
        replicator: Replicator,
    ) -> None:
        self._name = name
        self._directory = directory
        self._initial_voters = initial_voters
        self._journal = journal
        self._election = election
        self._library = library
        self._replicator = replicator
        self._placed = journal.membership
        self.membership, self.index = self._read(self._placed)
        """The membership in force, and the index of its entry or of the snapshot it came with. Index 0: the
        initial voters."""
        self._votes = False
        """True if this node is a voter of it."""
        self._adopt()

    def follow(self) -> None:
        """Apply the membership that the log now contains.

        Raises:
            CorruptionError: the log contains a membership that can't be decoded.
        """
        placed = self._journal.membership
        if placed == self._placed:
            return
        self._placed = placed
        self.membership, self.index = self._read(placed)
        self._adopt()

    def at(self, index: int) -> Membership:
        """Return the membership in force at entry ``index``, which the log must hold."""
        return self._read(self._journal.membership_at(index))[0]

    def _read(self, placed: Placed | None) -> tuple[Membership, Index]:
        if placed is None:
            return self._initial_voters, Index(0)
        try:
            return Membership.decode(placed[1]), Index(placed[0])
        except RemoteProtocolError as error:
            raise CorruptionError(f"the log's membership since entry {placed[0]}: {error}") from error

    def _adopt(self) -> None:
        others = [name for name in self.membership.names if name != self._name]
        voters = {
            member.name: member.directory
            for member in self.membership.members
            if member.voter and member.name != self._name
        }
        self._votes = counts = self._votes_in(self.membership)
        self._replicator.set_members(others, voters, since=self.index)
        self._election.set_voters(voters, counts=counts)
        progress_by_peer = self._replicator.progress_by_peer
        matches = {
            name: progress_by_peer[name].match if progress_by_peer[name].counts else 0 for name in voters
        }
        self._library.set_voters(matches, counts=counts)
        if self._library.role is Role.CANDIDATE:
            self._library.forget_leader()  # its votes were counted against another majority

    def _votes_in(self, membership: Membership) -> bool:
        """Return whether this node, with this directory, is a voter of ``membership``."""
        member = membership.get(self._name)
        return member is not None and member.voter and self._directory in {None, member.directory}

    # --- rules --------------------------------------------------------------------------------------

    def may_campaign(self, commit: int) -> bool:
        """Return whether this node may campaign. For a removed node see the module docstring."""
        if self._votes:
            return True
        if self.index <= commit or self.membership.get(self._name) is not None:
            return False
        return self._votes_in(self.at(commit))

    def is_removed(self, commit: int) -> bool:
        """Return whether the removal of this node is committed, so that it must not lead any more."""
        return not self._votes and self.index <= commit

    def check(self, new: Membership, commit: int) -> None:
        """Check that ``new`` may follow the membership in force.

        Raises:
            ConflictError: an earlier change is not committed.
            RefusedError: ``new`` changes nothing, changes more than one voter, or removes this leader.
        """
        now = self.membership
        if self.index > commit:
            raise ConflictError(
                f"the membership change in entry {self.index} is not committed yet: try again later"
            )
        if new == now:
            raise RefusedError("the cluster has this membership already")
        if new.joinable != now.joinable:
            raise RefusedError(
                "whether nodes may join by request can't be changed after the cluster was bootstrapped"
            )
        if not self._votes_in(new):
            raise RefusedError(
                f"{self._name} is the leader and can't remove itself: transfer leadership first"
            )
        if len(new.copies() ^ now.copies()) > 1:
            raise RefusedError(
                f"voters {', '.join(now.voters)} can't become {', '.join(new.voters)} at once: "
                "add or remove one voter at a time; a voter's directory can't be changed"
            )
        if set(new.learners) & set(now.voters):
            raise RefusedError("a voter can't be made a learner: remove it instead")
