"""The Raft engine of one node: pysyncobj's role machine and commit rule, with everything around them ours.

Sans-IO: it is told what arrived, what became durable and that time has passed; it sends through a
function it was given and tells a `Listener` what happened. Production and simulator run this same
code. The parts: `frames` (what goes over the wire), `following` and `inbound` (what a leader's frames
mean for our log), `applying` (what is committed), `progress` (how our log reaches the peers),
`election` and `voting` (when to campaign, when to stop), `durable_outbox` (what waits for the disk),
`reconfiguration` (who the members are), `compat` (the library, held by its private names).

The order of work in one round, which the driver keeps (durability contract):

1. `receive` every frame that is there. 2. `tick`: commit, apply, timers. 3. `propose` what is now
possible. 4. `replicate`: new entries, or else the new commit index, leave at once, beside our own
sync. 5. Start a flush of the journal if none runs. When it is done: `on_durable`, which releases
what was promised and ticks; then again from 3.

`next_deadline` says how long nothing need be called if nothing arrives.

Safety in short. A frame of a later term makes us step down, whatever it is, except a pre-vote, a vote request
that stickiness ignores, and a term too far ahead to be believed (`terms`). What is appended was compared
with our log first. A promise leaves when it is durable. Our own copy counts when it is durable. What is
applied is committed, in order, once. What contradicts this is a `CorruptionError`, after which the engine
refuses to go on; so it does when applying fails.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from node.errors import CorruptionError, NodeError, RefusedError, RemoteProtocolError, UnavailableError
from node.raft import frames
from node.raft.active_membership import Reconfiguration
from node.raft.applying import Applier
from node.raft.durable_outbox import DurableOutbox
from node.raft.election import Election
from node.raft.following import Follower
from node.raft.frames import (
    Ack,
    Alive,
    Append,
    Refusal,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from node.raft.library_log import LibraryLog
from node.raft.membership import Membership
from node.raft.ports import (
    Clock,
    EntryType,
    JournalView,
    Limits,
    Listener,
    Message,
    PeerState,
    Role,
    Timing,
)
from node.raft.progress import Replicator
from node.raft.pysyncobj_adapter import Library, verify
from node.raft.terms import TermEvidence, spoken
from node.raft.voting import Voting
from node.units import Index, Term

_BATCH = bytes([EntryType.BATCH])
_MEMBERSHIP = bytes([EntryType.MEMBERSHIP])
_SNAPSHOT_REMINDER = 4
"""A missing snapshot is called for again after this many longest election timeouts."""

P = ParamSpec("P")
R = TypeVar("R")


def _stops_for_good(
    method: Callable[Concatenate[Engine, P], R],
) -> Callable[Concatenate[Engine, P], R]:
    """Let no call through after one that failed: what it left half done must not be built upon.

    The library would apply the entry again, or the next one without it (PS-13).
    """

    @functools.wraps(method)
    def guarded(self: Engine, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._broken is not None:
            raise NodeError(f"the raft engine stopped: {self._broken}") from self._broken
        try:
            return method(self, *args, **kwargs)
        except (RemoteProtocolError, UnavailableError, RefusedError):
            raise
        except BaseException as error:
            self._broken = error
            raise

    return guarded


class Engine:
    """One member of one Raft group.

    All methods are called from one thread, and none from within a callback of another.

    Args:
        node: this node's name.
        members: who founded the cluster: the names of its voters, this node's among them; or a
            membership, in which this node may be a learner or missing. Counts until the log says better.
        journal: log, term and vote. An empty one is given entry 1, a no-op of term 0.
        applied: the index up to which the state machine has applied; 0 if it is new.
        timing: the election timeouts and the heartbeat.
        clock: seconds that only elapse.
        rng: for the election timeout.
        send: gives a frame to the transport. It may be lost; it must not be changed, for peers share it.
        apply: called with each committed batch, once, in order. What it raises stops the engine.
        listener: who is told.
        limits: bounds on what is done at once.
        directory: the id of this node's directory, as its hello says it; "" if it is a founder's. Voters
            in the log that have this node's name and another directory are not this node. None: they are.

    Raises:
        NodeError: the installed pysyncobj isn't the one this was built on.
        CorruptionError: journal and state machine don't fit together.
    """

    def __init__(
        self,
        *,
        node: str,
        members: Sequence[str] | Membership,
        journal: JournalView,
        applied: int,
        timing: Timing,
        clock: Clock,
        rng: random.Random,
        send: Callable[[str, Message], None],
        apply: Callable[[Index, Term, bytes], None],
        listener: Listener,
        limits: Limits | None = None,
        directory: str | None = None,
    ) -> None:
        verify()
        initial_voters = _initial_voters(node, members)
        limits = limits or Limits()
        self.name = node
        self.commit_when_elected = 0
        """The commit index this node knew when it became leader last."""
        self._journal, self._timing, self._clock = journal, timing, clock
        self._send, self._listener = send, listener
        self._broken: BaseException | None = None
        self._beat_at = 0.0
        self._election = Election(timing=timing, clock=clock, rng=rng, peers=[])
        self._durable_outbox = DurableOutbox(journal, send=send, heartbeat_payload=listener.follower_payload)
        self._replicator = Replicator(
            peers=[],
            journal=journal,
            clock=clock,
            limits=limits,
            remind_s=_SNAPSHOT_REMINDER * timing.election_max_s,
            send=send,
            heartbeat_payload=listener.leader_payload,
            needs_snapshot=listener.needs_snapshot,
        )
        log = LibraryLog(journal, readable=self._readable, clock=clock, budget_s=limits.apply_s)
        self._library = Library(node=node, peers=[], log=log, timing=timing, timer=self._election, owner=self)
        self._reconfiguration = Reconfiguration(
            name=node,
            directory=directory,
            initial_voters=initial_voters,
            journal=journal,
            election=self._election,
            library=self._library,
            replicator=self._replicator,
        )
        self._election.rearm()
        self._terms = TermEvidence(
            name=node,
            clock=clock,
            own=lambda: self.term,
            voters=lambda: self.membership.voters,
            counts=self._counts,
        )
        self._voting = Voting(
            name=node,
            library=self._library,
            journal=journal,
            election=self._election,
            connected=lambda: [
                name
                for name, peer_progress in self._replicator.progress_by_peer.items()
                if peer_progress.connected and peer_progress.counts
            ],
            counts=self._counts,
            may_campaign=lambda: self._reconfiguration.may_campaign(self.commit_index),
            ask=send,
            durable_send=self._durable_outbox.send,
            payload_received=listener.follower_payload_received,
        )
        self._follower = Follower(
            name=node,
            library=self._library,
            journal=journal,
            election=self._election,
            voting=self._voting,
            durable_outbox=self._durable_outbox,
            reconfiguration=self._reconfiguration,
            listener=listener,
        )
        self._applier = Applier(
            journal=journal, apply=apply, reconfiguration=self._reconfiguration, listener=listener
        )
        self._library.start_from(self._applier.start_from(applied))
        self._notified: tuple[Role, int, str | None] = (self.role, self.term, self.leader)
        self._asked_term = 0  # in which this node campaigned because the leader asked it to
        self._handed_to: tuple[str, int] | None = None  # whom this node asked, and in which term
        self._told_membership = self.membership
        listener.membership_changed(self.membership, self.membership_index)

    # --- what is known ------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self._library.role

    @property
    def term(self) -> int:
        return self._library.current_term

    @property
    def leader(self) -> str | None:
        """Who leads the current term, as far as this node knows; itself included."""
        return self._library.leader

    @property
    def commit_index(self) -> int:
        return self._library.commit

    @property
    def applied_index(self) -> int:
        """The last entry given to ``apply``, or passed."""
        return self._applier.index

    @property
    def applied_term(self) -> int:
        """That entry's term."""
        return self._journal.term_at(self._applier.index) or 0

    @property
    def last_index(self) -> int:
        return self._journal.last_index

    @property
    def is_ready(self) -> bool:
        """Leader, and everything committed before its term is applied: it may propose."""
        no_op = self._library.no_op_index
        return self.role is Role.LEADER and no_op is not None and self._applier.index >= no_op

    @property
    def membership(self) -> Membership:
        """Who belongs to the cluster, by the last entry of this node's log that says so."""
        return self._reconfiguration.membership

    @property
    def membership_index(self) -> Index:
        """That entry, or that of the snapshot it came with; 0: those who founded the cluster."""
        return self._reconfiguration.index

    @property
    def is_changing(self) -> bool:
        """Whether the membership in force isn't known to be committed."""
        return self._reconfiguration.index > self.commit_index

    def membership_at(self, index: int) -> Membership:
        """Who belonged to it at entry ``index``, one that the log holds: what a snapshot must carry.

        Before the first entry that says so, and behind no snapshot, those that the constructor was given.
        For a node that was invited they are those of a later entry: it makes no snapshot before that.
        """
        return self._reconfiguration.at(index)

    def caught_up(self, name: str) -> bool:
        """Whether the member ``name`` has acknowledged nearly everything to this leader, just now.

        For a learner: on the connection that is up, so it is whom its hello there said it is.
        """
        return self._replicator.caught_up(name)

    @property
    def peers(self) -> list[str]:
        """The other members, and those who left but may not know it yet."""
        return sorted(self._replicator.progress_by_peer)

    def peer_states(self) -> list[PeerState]:
        """How every peer stands, by name."""
        leading = self.role is Role.LEADER
        return [
            PeerState(
                name=peer_progress.name,
                state=str(peer_progress.state),
                match=peer_progress.match,
                next=peer_progress.next,
                connected=peer_progress.connected,
                contact_age_s=self._election.contact_age(peer_progress.name) if leading else None,
                inflight_bytes=peer_progress.inflight_bytes,
                voter=peer_progress.voter,
            )
            for _, peer_progress in sorted(self._replicator.progress_by_peer.items())
        ]

    def next_deadline(self) -> float:
        """When `tick` must be called at the latest, in seconds of the clock; infinity for never."""
        if self._applier.index < self.commit_index and not self._applier.suspended:
            return self._clock()
        if self.role is Role.LEADER:
            return self._beat_at if self._replicator.progress_by_peer else float("inf")
        return self._election.deadline

    # --- what happens ---------------------------------------------------------------------------------

    @_stops_for_good
    def connected(self, peer: str, directory: str | None = None, term: int | None = None) -> None:
        """A connection to ``peer`` is up, perhaps in place of an earlier one.

        Not only to members that this log names: it may be behind, and the leader one it doesn't know.

        Args:
            peer: its name.
            directory: the id of its directory, as its hello says. If the log says that this name votes
                with another one, it is sent the log and its votes and acks don't count: it is another
                copy of the log than the one that voted. None: it is whom its name says.
            term: the term it is in, as its hello says; None if the hello doesn't.
        """
        self._terms.connected(peer, term)
        self._library.connect(peer)
        self._replicator.connected(peer, self.commit_index, directory)

    @_stops_for_good
    def disconnected(self, peer: str) -> None:
        """No connection to ``peer`` is left."""
        self._terms.disconnected(peer)
        self._library.disconnect(peer)
        self._replicator.disconnected(peer)
        self._durable_outbox.forget(peer)
        if peer == self.leader:
            self._election.lost_leader()

    @_stops_for_good
    def receive(self, peer: str, message: Message) -> None:
        """Take a frame of ``peer``, whose identity the transport has verified.

        Raises:
            RemoteProtocolError: neither a member nor connected (PS-18), or not a frame: drop the connection.
            CorruptionError: logs contradict each other where they are committed.
        """
        self._known(peer)
        frame = frames.parse(message)
        if not self._terms.believes(peer, spoken(frame)):
            return
        match frame:
            case Append() as append:
                self._follower.append(peer, append)
            case Alive() as alive:
                self._follower.alive(peer, alive)
            case Ack() | Refusal() as answer:
                self._on_answer(peer, answer)
            case ballot:
                if self._voting.receive(peer, ballot):
                    self._tick()
        self._settle()

    @_stops_for_good
    def propose(self, payload: bytes) -> Index:
        """Append a batch to the log; `replicate` sends it. Whether it commits, `apply` will tell.

        Raises:
            UnavailableError: this node doesn't lead.
        """
        if self.role is not Role.LEADER:
            raise UnavailableError(f"{self.name} is not the leader")
        index = Index(self._journal.last_index + 1)
        self._journal.append(index, self.term, _BATCH + payload)
        return index

    @_stops_for_good
    def change_membership(self, new: Membership) -> Index:
        """Append another membership, in force at once; `replicate` sends it. `is_changing` until committed.

        It may be undone: when another leader is elected that doesn't have it.

        Raises:
            UnavailableError: this node is not a ready leader.
            ConflictError: an earlier change isn't committed: try again.
            RefusedError: this one can't be made, now or later.
        """
        if not self.is_ready:
            raise UnavailableError(f"{self.name} is not a ready leader")
        # Ready means: an entry of this leader's own term is committed. Else a change of an earlier
        # leader might be too, that this one never saw (the bug of 2015).
        no_op = self._library.no_op_index
        assert no_op is not None
        assert no_op <= self.commit_index
        assert self._journal.term_at(no_op) in {None, self.term}  # None: dropped behind a checkpoint
        self._reconfiguration.check(new, self.commit_index)
        index = Index(self._journal.last_index + 1)
        self._journal.append(index, self.term, _MEMBERSHIP + new.encode())
        self._reconfiguration.follow()
        self._settle()
        return index

    @_stops_for_good
    def replicate(self) -> None:
        """Send the peers what is new, as far as their windows admit: entries, or a commit index alone."""
        self._replicator.replicate(self.commit_index)

    @_stops_for_good
    def tick(self) -> None:
        """Let time pass: timers, commit, apply."""
        self._tick()
        self._settle()

    @_stops_for_good
    def on_durable(self) -> None:
        """A flush of the journal is done: promises leave, our own copy counts. `replicate` after it."""
        self._durable_outbox.release()
        self._tick()
        self._settle()

    @_stops_for_good
    def paused(self, gap_s: float) -> None:
        """This process stood still for ``gap_s``: judge nobody by it, and hear what has arrived first."""
        self._election.rearm()
        self._election.forgive(gap_s)

    @_stops_for_good
    def transfer_leadership(self, to: str | None = None) -> bool:
        """Ask a voter that has everything to take over; it needs one round of votes.

        Stop proposing first and wait until this returns True: under load nobody ever has
        everything (PS-30). True means that it was asked.
        """
        if self.role is not Role.LEADER:
            return False
        ready = [
            name
            for name, peer_progress in sorted(self._replicator.progress_by_peer.items())
            if peer_progress.connected
            and peer_progress.counts
            and peer_progress.match == self._journal.last_index
            and to in {None, name}
        ]
        ready.sort(key=self._election.contact_age)
        if not ready or not self._library.hand_over(ready[0]):
            return False
        self._handed_to = (ready[0], self.term)
        return True

    @property
    def was_handed_over(self) -> bool:
        """Whether this node leads because the leader before it asked it to."""
        return self._asked_term == self.term

    def is_successor(self, peer: str, term: int) -> bool:
        """Whether ``peer`` leads in ``term`` because this node, as leader, asked it to."""
        return self._handed_to == (peer, term - 1)

    def majority_age_s(self) -> float:
        """Seconds since a majority of the voters was last known to follow this node, if it leads.

        No other node can be elected before the shortest election timeout has passed since, unless this
        node asked it to, or its links broke.
        """
        return self._election.majority_age_s()

    # --- snapshots ------------------------------------------------------------------------------------

    @_stops_for_good
    def offered_snapshot(self, index: int, term: int) -> bool:
        """A peer offers a snapshot up to that entry: is it wanted?

        It isn't if the log has that entry (PS-10). Then the log needn't be thrown away: what the
        snapshot contains is committed, so everything up to there is now known to be, and the
        leader is told.
        """
        if index > self.commit_index and self._journal.term_at(index) != term:
            return True
        self._library.commit_to(max(index, self.commit_index))
        self._follower.notify_leader(self.commit_index)
        return False

    def suspend_applying(self) -> None:
        """A snapshot is being put in place of the state: apply nothing until it is done or given up."""
        self._applier.suspended = True

    def resume_applying(self) -> None:
        self._applier.suspended = False

    @_stops_for_good
    def snapshot_installed(
        self, index: int, term: int, previous: tuple[int, int], membership: Membership | None = None
    ) -> None:
        """The state machine is now that of entry ``index``, durably; let the log follow.

        Call it after `offered_snapshot`, with applying suspended meanwhile, when the store's new
        content is complete and in place (PS-6: anything less is never acknowledged). The ack leaves
        when the journal's new base is durable. Applying is resumed.

        Args:
            index: the last entry that the snapshot contains.
            term: that entry's term.
            previous: index and term of the entry before it.
            membership: `membership_at` this entry, where the snapshot was made. None: the one in force
                stays, which is right only if it never changed.
        """
        if index <= self._applier.index:
            raise CorruptionError(
                f"a snapshot of entry {index} was installed over the state of entry {self._applier.index}"
            )
        if self._journal.term_at(index) != term:
            encoded = None if membership is None else membership.encode()
            self._journal.reset(base=(index, term), previous=previous, membership=encoded)
        self._applier.index = index
        self._library.start_from(index)
        self._applier.suspended = False
        self._follower.notify_leader(index)
        self._reconfiguration.follow()
        self._settle()
        self._listener.membership_committed(self.membership_at(index), Index(index))

    # --- answers --------------------------------------------------------------------------------------

    def _on_answer(self, peer: str, answer: Ack | Refusal) -> None:
        if self._voting.overtaken(peer, answer.term):
            return
        if answer.term < self.term or self.role is not Role.LEADER:
            return  # PS-5: it was meant for an earlier leadership
        peer_progress = self._replicator.progress_by_peer.get(peer)
        if peer_progress is None:
            return  # it left
        if peer_progress.counts or not peer_progress.voter:
            self._election.contact(peer)
        self._listener.follower_payload_received(peer, answer.heartbeat_payload)
        match answer:
            case Ack(match=match):
                if match > self._journal.last_index:
                    raise RemoteProtocolError(
                        f"{peer} acknowledges entry {match}, the log of this term ends at "
                        f"{self._journal.last_index}"
                    )
                if peer_progress.acked(match) and peer_progress.counts:
                    self._library.acked(peer, match)
            case Refusal(refused=refused, next=following):
                if peer_progress.refused(refused, following, self._journal.last_index):
                    self._listener.lost_entries(peer, peer_progress.match, following - 1)
        self._replicator.feed(peer, self.commit_index)

    # --- the tick -------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._clock()
        quorum = True
        if self.role is Role.LEADER:
            quorum = self._election.has_quorum()
            self._library.beat_due = now >= self._beat_at
        elif not self._election.authorised and self._election.expired():
            self._voting.ask()
        self._library.tick(quorum=quorum)
        self._library.beat_due = False
        if self._election.authorised or self._election.transfer:
            self._election.revoke()
            self._library.no_transfer()
        if not quorum:
            self._voting.cause = "no acks of a majority"
        self._part()

    def _part(self) -> None:
        """Let those go who left; go if this node is one of them."""
        for name in self._replicator.gone(self.commit_index):
            self._election.forget(name)
            self._listener.member_left(name)
        if self.role is Role.LEADER and self._reconfiguration.is_over(self.commit_index):
            self.transfer_leadership()
            self._voting.cause = "it left the cluster"
            self._library.resign()

    def _readable(self) -> int:
        """How far the library may read to commit and apply."""
        if self._applier.suspended:
            return self._applier.index
        return self._journal.durable_index if self.role is Role.LEADER else self._journal.last_index

    def _settle(self) -> None:
        """Tell of a change once, when the call that brought it is over."""
        membership = self._reconfiguration.membership
        if membership is not self._told_membership and membership != self._told_membership:
            self._told_membership = membership
            self._listener.membership_changed(membership, self.membership_index)
        library = self._library
        now = (library.role, library.current_term, library.leader)
        if now != self._notified:
            self._notified = now
            self._listener.role_changed(*now, self._voting.cause)

    def _counts(self, peer: str) -> bool:
        peer_progress = self._replicator.progress_by_peer.get(peer)
        return peer_progress is not None and peer_progress.counts

    def _known(self, peer: str) -> None:
        if peer not in self._replicator.progress_by_peer and not self._replicator.is_linked(peer):
            raise RemoteProtocolError(f"{peer!r:.60} is not a member")

    # --- what the library reports -----------------------------------------------------------------------

    def library_sent(self, peer: str, message: dict[str, Any]) -> None:
        """Send what the library means, in our own words."""
        match message:
            case {"type": "next_node_idx"}:
                self._library.answered(message)
            case {"type": "request_vote", "term": term, "last_log_index": index, "last_log_term": of}:
                if self._election.transfer:
                    self._asked_term = term
                self._durable_outbox.send(peer, VoteRequest(term, index, of, self._election.transfer))
            case {"type": "response_vote", "term": term}:
                self._durable_outbox.send(peer, Vote(term))
            case {"type": "timeout_now", "term": term}:
                self._send(peer, TimeoutNow(term).encode())
            case _:
                raise AssertionError(f"the library sends {message.get('type')}")

    def library_beat(self) -> None:
        """A leader's heartbeat is due, or its leadership begins."""
        self._beat_at = self._clock() + self._timing.heartbeat_s
        self._replicator.replicate(self.commit_index, beat=True)

    def library_role(self, old: Role, new: Role) -> None:
        match new:
            case Role.LEADER:
                self.commit_when_elected = self.commit_index
                self._election.leading()
                self._replicator.lead(self.term)
            case Role.CANDIDATE:
                self._election.campaigning()
        if old is Role.LEADER:
            self._replicator.stop()
            self._election.rearm()  # PS-27: don't campaign at once against the successor

    def library_applies(self, index: int, payload: bytes) -> None:
        """Entry ``index`` is committed and next."""
        try:
            self._applier.apply(index, payload)
        except BaseException as error:
            self._broken = error  # whatever it is: half an entry may be applied
            raise


def _initial_voters(node: str, members: Sequence[str] | Membership) -> Membership:
    if isinstance(members, Membership):
        return members
    if node not in members or len(set(members)) != len(members):
        raise NodeError(f"{node} can't be a member of {list(members)}: expected it once, every name once")
    return Membership.initial_voters(members)
