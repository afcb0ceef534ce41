"""The Raft engine of one node: the roles and the commit rule of pysyncobj, all other parts implemented here.

The engine does no I/O. Its caller passes in received frames, completed flushes and the passing of time; the
engine sends through a function it was given and reports events to a `Listener`. Production and simulator run
the same code. The parts: `frames` (the wire format), `following` and `append_check` (what a leader's frames
mean for this log), `applying` (committed entries), `progress` (replication to the peers), `election` and
`voting` (when to campaign, when to step down), `durable_outbox` (messages that wait for the disk),
`active_membership` (the members), `pysyncobj_adapter` (the library and its private names).

The order of work in one iteration of the driver (durability contract):

1. `receive` all frames that have arrived.
2. `tick`: commit, apply, timers.
3. `propose` what is possible now.
4. `replicate`: new entries, or a new commit index alone, are sent at once, in parallel with this node's own
   sync.
5. Start a flush of the journal if none is running. When it is done call `on_durable`, which releases the
   messages that waited for it, and ticks. Then continue at 3.

If no frame arrives, no call is needed until `next_deadline`.

Safety in short: A frame of a later term makes this node step down, except a pre-vote, a vote request that
stickiness ignores, and a term too far ahead to be believed (`terms`). Entries are compared with this log
before they are appended. Acks and votes are sent when they are durable. This node's own copy counts when it
is durable. Committed entries are applied in order, each once. A violation raises `CorruptionError`, after
which the engine refuses all calls. An error while applying has the same effect.
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
from node.raft.terms import TermEvidence, term_of
from node.raft.voting import Voting
from node.units import Index, Term

_BATCH = bytes([EntryType.BATCH])
_MEMBERSHIP = bytes([EntryType.MEMBERSHIP])
_SNAPSHOT_REMINDER = 4
"""The listener is asked again for a missing snapshot after this many longest election timeouts."""

P = ParamSpec("P")
R = TypeVar("R")


def _stops_for_good(
    method: Callable[Concatenate[Engine, P], R],
) -> Callable[Concatenate[Engine, P], R]:
    """Refuse all calls after one that failed: the engine's state may be inconsistent.

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

    All methods must be called from one thread, and not from within a callback of another method.

    Args:
        node: this node's name.
        members: the initial members: the names of the voters, including this node; or a membership, in which
            this node may be a learner or missing. In force until the log names members.
        journal: log, term and vote. An empty journal receives entry 1, a no-op of term 0.
        applied: the applied index of the state machine; 0 if it is new.
        timing: the election timeouts and the heartbeat.
        clock: monotonic seconds.
        rng: for the election timeout.
        send: passes a frame to the transport. The frame may be lost; it must not be modified, because peers
            share it.
        apply: called with each committed batch, once, in order. If it raises, the engine stops.
        listener: is notified of events.
        limits: bounds of the work done at once.
        directory: the id of this node's directory, as in its hello; "" for an initial voter. A voter in the
            log with this node's name and another directory is not this node. None: compare names only.

    Raises:
        NodeError: the installed pysyncobj is not the supported release.
        CorruptionError: the journal does not continue from the state machine's applied index.
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
        """The commit index of this node when it last became leader."""
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
        self._asked_term = 0  # term in which this node campaigned on the leader's request
        self._transferred_to: tuple[str, int] | None = None  # peer asked to campaign, and in which term
        self._notified_membership = self.membership
        listener.membership_changed(self.membership, self.membership_index)

    # --- state --------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self._library.role

    @property
    def term(self) -> int:
        return self._library.current_term

    @property
    def leader(self) -> str | None:
        """The leader of the current term, if this node knows it; it may be this node."""
        return self._library.leader

    @property
    def commit_index(self) -> int:
        return self._library.commit

    @property
    def applied_index(self) -> int:
        """The last entry that was applied, or skipped because it is no batch."""
        return self._applier.index

    @property
    def applied_term(self) -> int:
        """The term of the last applied entry."""
        return self._journal.term_at(self._applier.index) or 0

    @property
    def last_index(self) -> int:
        return self._journal.last_index

    @property
    def is_ready(self) -> bool:
        """True if this node leads and has applied the no-op of its own term, so that it may propose."""
        no_op = self._library.no_op_index
        return self.role is Role.LEADER and no_op is not None and self._applier.index >= no_op

    @property
    def membership(self) -> Membership:
        """The membership in force: that of the last membership entry in this node's log, committed or not."""
        return self._reconfiguration.membership

    @property
    def membership_index(self) -> Index:
        """The index of that entry, or of the snapshot the membership came with; 0 for the initial members."""
        return self._reconfiguration.index

    @property
    def is_changing(self) -> bool:
        """Whether the membership in force is not yet known to be committed."""
        return self._reconfiguration.index > self.commit_index

    def membership_at(self, index: int) -> Membership:
        """Return the membership in force at entry ``index``, which the log must hold. A snapshot of that
        entry carries it.

        Before the first membership entry, and without a snapshot, it is the constructor's. For a joining node
        that is the membership of a later entry: it takes no snapshot before it has reached that entry.
        """
        return self._reconfiguration.at(index)

    def caught_up(self, name: str) -> bool:
        """Return whether the member ``name`` has acknowledged nearly everything to this leader.

        Only acks on the present connection count for a learner, so they come from the directory named in its
        hello.
        """
        return self._replicator.caught_up(name)

    @property
    def peers(self) -> list[str]:
        """The other members, and removed members that may not have learned of their removal."""
        return sorted(self._replicator.progress_by_peer)

    def peer_states(self) -> list[PeerState]:
        """Return the replication state of every peer, sorted by name."""
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
        """Return when `tick` must be called at the latest, in seconds of the clock; infinity for never."""
        if self._applier.index < self.commit_index and not self._applier.suspended:
            return self._clock()
        if self.role is Role.LEADER:
            return self._beat_at if self._replicator.progress_by_peer else float("inf")
        return self._election.deadline

    # --- inputs --------------------------------------------------------------------------------------

    @_stops_for_good
    def connected(self, peer: str, directory: str | None = None, term: int | None = None) -> None:
        """Register a new connection to ``peer``, which may replace an earlier one.

        The peer need not be a member in this log: the log may be behind, and the leader may be a node it does
        not name.

        Args:
            peer: the peer's name.
            directory: the id of the peer's directory, from its hello. If the log names another directory for
                the voter of this name, the peer is another copy of the log: it receives the log, but its
                votes and acks do not count. None: compare names only.
            term: the peer's term, from its hello; None if the hello has none.
        """
        self._terms.connected(peer, term)
        self._library.connect(peer)
        self._replicator.connected(peer, self.commit_index, directory)

    @_stops_for_good
    def disconnected(self, peer: str) -> None:
        """Register that the connection to ``peer`` has ended."""
        self._terms.disconnected(peer)
        self._library.disconnect(peer)
        self._replicator.disconnected(peer)
        self._durable_outbox.forget(peer)
        if peer == self.leader:
            self._election.lost_leader()

    @_stops_for_good
    def receive(self, peer: str, message: Message) -> None:
        """Handle a frame of ``peer``, whose identity the transport has verified.

        Raises:
            RemoteProtocolError: the peer is neither a member nor connected (PS-18), or the frame is invalid:
                drop the connection.
            CorruptionError: the logs differ in a committed entry.
        """
        self._check_is_peer(peer)
        frame = frames.parse(message)
        if not self._terms.accepts(peer, term_of(frame)):
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
        """Append a batch to the log; `replicate` sends it. When it is committed, `apply` is called with it.

        Raises:
            UnavailableError: this node is not the leader.
        """
        if self.role is not Role.LEADER:
            raise UnavailableError(f"{self.name} is not the leader")
        index = Index(self._journal.last_index + 1)
        self._journal.append(index, self.term, _BATCH + payload)
        return index

    @_stops_for_good
    def change_membership(self, new: Membership) -> Index:
        """Append another membership, which is in force at once; `replicate` sends it. `is_changing` is True
        until it is committed.

        Another leader that does not have the entry may remove it from the log again.

        Raises:
            UnavailableError: this node is not a ready leader.
            ConflictError: an earlier change is not committed: try again.
            RefusedError: this change is not allowed.
        """
        if not self.is_ready:
            raise UnavailableError(f"{self.name} is not a ready leader")
        # A ready leader has committed an entry of its own term. Without that, a change of an earlier leader
        # that this one never received might also be committed (the single-server bug of 2015).
        no_op = self._library.no_op_index
        assert no_op is not None
        assert no_op <= self.commit_index
        assert self._journal.term_at(no_op) in {None, self.term}  # None: dropped after a checkpoint
        self._reconfiguration.check(new, self.commit_index)
        index = Index(self._journal.last_index + 1)
        self._journal.append(index, self.term, _MEMBERSHIP + new.encode())
        self._reconfiguration.follow()
        self._settle()
        return index

    @_stops_for_good
    def replicate(self) -> None:
        """Send new entries to the peers, as far as their windows allow, or a new commit index alone."""
        self._replicator.replicate(self.commit_index)

    @_stops_for_good
    def tick(self) -> None:
        """Run the timers, commit and apply."""
        self._tick()
        self._settle()

    @_stops_for_good
    def on_durable(self) -> None:
        """Handle a completed flush: send the messages that waited for it and count this node's own copy. Call
        `replicate` next.
        """
        self._durable_outbox.release()
        self._tick()
        self._settle()

    @_stops_for_good
    def paused(self, gap_s: float) -> None:
        """Handle a pause of this process: restart the election timer and do not count the pause against the
        peers.
        """
        self._election.rearm()
        self._election.ignore_pause(gap_s)

    @_stops_for_good
    def transfer_leadership(self, to: str | None = None) -> bool:
        """Ask a voter that has the whole log to campaign at once (`TimeoutNow`). Returns True if one was
        asked.

        Stop proposing first and call this until it returns True: under load no follower ever has the whole
        log (PS-30).

        Args:
            to: the voter to ask; None: any.
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
        if not ready or not self._library.transfer_to(ready[0]):
            return False
        self._transferred_to = (ready[0], self.term)
        return True

    @property
    def was_handed_over(self) -> bool:
        """Whether this node leads because the previous leader asked it to campaign."""
        return self._asked_term == self.term

    def is_successor(self, peer: str, term: int) -> bool:
        """Return whether ``peer`` leads in ``term`` because this node, as leader, asked it to campaign."""
        return self._transferred_to == (peer, term - 1)

    def majority_age_s(self) -> float:
        """Return the seconds since a majority of the voters was last known to follow this node, if it leads.

        No other node can be elected before the shortest election timeout has passed since then, unless this
        node asked it to campaign or its links broke.
        """
        return self._election.majority_age_s()

    # --- snapshots ------------------------------------------------------------------------------------

    @_stops_for_good
    def offered_snapshot(self, index: int, term: int) -> bool:
        """Return whether a snapshot of entry ``index`` and ``term``, offered by a peer, is needed.

        It is not needed if the log has that entry (PS-10), so the log is kept. The content of a snapshot is
        committed: in that case everything up to ``index`` is now known to be committed, and the leader gets
        an ack.
        """
        if index > self.commit_index and self._journal.term_at(index) != term:
            return True
        self._library.commit_to(max(index, self.commit_index))
        self._follower.notify_leader(self.commit_index)
        return False

    def suspend_applying(self) -> None:
        """Apply nothing until the snapshot that replaces the state is installed or given up."""
        self._applier.suspended = True

    def resume_applying(self) -> None:
        self._applier.suspended = False

    @_stops_for_good
    def snapshot_installed(
        self, index: int, term: int, previous: tuple[int, int], membership: Membership | None = None
    ) -> None:
        """Let the log continue from entry ``index``, to which the state machine was set durably.

        Call it after `offered_snapshot`, with applying suspended meanwhile, when the store's new content is
        complete and in place (PS-6: an incomplete snapshot is never acknowledged). The ack is sent when the
        journal's new base is durable. Applying is resumed.

        Args:
            index: the last entry that the snapshot contains.
            term: the term of that entry.
            previous: index and term of the entry before it.
            membership: `membership_at` this entry, on the node that made the snapshot. None: keep the one in
                force, which is right only if it never changed.
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
            return  # PS-5: an answer to an earlier leadership
        peer_progress = self._replicator.progress_by_peer.get(peer)
        if peer_progress is None:
            return  # it was removed
        if peer_progress.counts or not peer_progress.voter:
            self._election.contact(peer)
        self._listener.follower_payload_received(peer, answer.heartbeat_payload)
        match answer:
            case Ack(match=match):
                if match > self._journal.last_index:
                    raise RemoteProtocolError(
                        f"{peer} acknowledged entry {match}, but the leader's log ends at "
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
            self._library.end_transfer()
        if not quorum:
            self._voting.cause = "no acks of a majority"
        self._remove_left()

    def _remove_left(self) -> None:
        """Forget removed members that need nothing more; step down if this node was removed."""
        for name in self._replicator.gone(self.commit_index):
            self._election.forget(name)
            self._listener.member_left(name)
        if self.role is Role.LEADER and self._reconfiguration.is_removed(self.commit_index):
            self.transfer_leadership()
            self._voting.cause = "this node was removed from the cluster"
            self._library.resign()

    def _readable(self) -> int:
        """Return the last entry that the library may commit and apply."""
        if self._applier.suspended:
            return self._applier.index
        return self._journal.durable_index if self.role is Role.LEADER else self._journal.last_index

    def _settle(self) -> None:
        """Notify the listener of changed membership, role, term or leader, once per call."""
        membership = self._reconfiguration.membership
        if membership is not self._notified_membership and membership != self._notified_membership:
            self._notified_membership = membership
            self._listener.membership_changed(membership, self.membership_index)
        library = self._library
        now = (library.role, library.current_term, library.leader)
        if now != self._notified:
            self._notified = now
            self._listener.role_changed(*now, self._voting.cause)

    def _counts(self, peer: str) -> bool:
        peer_progress = self._replicator.progress_by_peer.get(peer)
        return peer_progress is not None and peer_progress.counts

    def _check_is_peer(self, peer: str) -> None:
        if peer not in self._replicator.progress_by_peer and not self._replicator.is_linked(peer):
            raise RemoteProtocolError(f"{peer!r:.60} is not a member")

    # --- what the library reports -----------------------------------------------------------------------

    def library_sent(self, peer: str, message: dict[str, Any]) -> None:
        """Send the frame that corresponds to a message of the library."""
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
        """Send heartbeats: one is due, or the leadership begins."""
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
            self._election.rearm()  # PS-27: do not campaign at once against the successor

    def library_applies(self, index: int, payload: bytes) -> None:
        """Apply entry ``index``, which is committed and follows the last applied one."""
        try:
            self._applier.apply(index, payload)
        except BaseException as error:
            self._broken = error  # whatever the error is, the entry may be half applied
            raise


def _initial_voters(node: str, members: Sequence[str] | Membership) -> Membership:
    if isinstance(members, Membership):
        return members
    if node not in members or len(set(members)) != len(members):
        raise NodeError(f"members {list(members)}: expected {node} among them, and every name once")
    return Membership.initial_voters(members)
