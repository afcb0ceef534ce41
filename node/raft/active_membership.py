"""The membership in force on one node, and that everything else on it goes by it.

The journal knows which membership its last entry is under. Whenever that may have changed (entries
were appended or removed, a snapshot came, the node starts) `Reconfiguration.follow` looks, and hands
the new one to the election (who is counted), to the library (the same, for votes and commits) and to
the replicator (who is sent the log). Not at commit: a majority is reckoned by the last membership in
the log, or two majorities of different memberships could miss each other.

What keeps single changes safe is checked in `Reconfiguration.check`, on the leader, before one is
appended: the one before is committed, and no more than one voter differs. That the leader has
committed an entry of its own term is what *ready* means, and the engine's to check.

Who is removed. A node may be named by the old membership and not by the new, which may never be
committed: so it still grants votes, and as long as it doesn't know the new one to be committed it
may even campaign, without counting itself (with four voters, one of them leaving, the other three
can need it). Others send it the log until it knows, or until it had time to.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, §4.1, §4.2.2; his message to the raft-dev
list, *bug in single-server membership changes* (2015).
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
    """Which members there are, for every part of an engine.

    Args:
        name: this node's.
        directory: the id of its directory; a voter of its name with another one is not this node, but
            one that had the name before it, or lost that directory. None: by name alone.
        initial_voters: in force as long as the log names no members.
        journal: says what is in force where.
        election, library, replicator: go by it from `follow` on.
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
        """What is in force; the entry that brought it, or that of the snapshot. 0: the founders'."""
        self._votes = False
        """This node is one of its voters."""
        self._adopt()

    def follow(self) -> None:
        """Let everything go by what the log now says.

        Raises:
            CorruptionError: it says what is no membership.
        """
        placed = self._journal.membership
        if placed == self._placed:
            return
        self._placed = placed
        self.membership, self.index = self._read(placed)
        self._adopt()

    def at(self, index: int) -> Membership:
        """What is in force at entry ``index``, one that the log holds."""
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
            self._library.forget_leader()  # its votes were counted by another majority

    def _votes_in(self, membership: Membership) -> bool:
        """Whether this node, this very copy of the log, is a voter in it."""
        member = membership.get(self._name)
        return member is not None and member.voter and self._directory in {None, member.directory}

    # --- rules --------------------------------------------------------------------------------------

    def may_campaign(self, commit: int) -> bool:
        """Whether this node may ask for votes: see the module's text on who is removed."""
        if self._votes:
            return True
        if self.index <= commit or self.membership.get(self._name) is not None:
            return False
        return self._votes_in(self.at(commit))

    def is_over(self, commit: int) -> bool:
        """Whether this node leads a cluster that it has left."""
        return not self._votes and self.index <= commit

    def check(self, new: Membership, commit: int) -> None:
        """Whether ``new`` may follow the membership in force.

        Raises:
            ConflictError: an earlier change isn't committed.
            RefusedError: no change, more than one, or one that this leader can't survive.
        """
        now = self.membership
        if self.index > commit:
            raise ConflictError(f"the change of members in entry {self.index} is not committed yet")
        if new == now:
            raise RefusedError("that is the membership already")
        if new.joinable != now.joinable:
            raise RefusedError("whether nodes join by themselves is settled when a cluster is founded")
        if not self._votes_in(new):
            raise RefusedError(
                f"{self._name} leads, and a leader doesn't remove itself: hand leadership over first"
            )
        if len(new.copies() ^ now.copies()) > 1:
            raise RefusedError(
                f"voters {', '.join(now.voters)} can't become {', '.join(new.voters)} at once: "
                "one is added or removed at a time, and none under a new directory"
            )
        if set(new.learners) & set(now.voters):
            raise RefusedError("a voting member is removed, not made a learner again")
