"""Tests of the checkers: each mutation removes a rule, and one of some seeds must find the violation.

Each mutation is a change that a developer could make with good intentions. The number of seeds shows how rare
the relevant situation is; most mutations are found by the first seed. The seed that finds a mutation changes
with everything that changes a run: see `seed_search`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

import pytest
from member_mutations import changes_overlap, learners_count, members_count_when_they_are_committed
from seed_search import SeedSearch

from node.core import dispatch as core_dispatch
from node.core import machine as core_machine
from node.core import new_term, presence, subscriptions
from node.core.commands import PauseRedelivery
from node.errors import DiskError
from node.raft import following, records
from node.raft.active_membership import Reconfiguration
from node.raft.append_check import Accept, Refuse, Verdict
from node.raft.durable_outbox import DurableOutbox
from node.raft.engine import Engine
from node.raft.frames import Ack
from node.raft.membership import Membership
from node.raft.ports import Role
from node.raft.segments import Segment
from node.raft.voting import Voting
from node.server import effect_executor, proposer
from node.server.clock import ClusterClock
from node.server.effect_executor import EffectExecutor
from node.server.membership import node_identity
from node.server.membership.reconfiguration import Reconfigurer
from node.server.origin import Origin
from node.server.proposer import Proposer
from node.server.read_index import ReadIndex
from node.server.replica import Replica
from node.server.routing import Routing
from node.simulator import recovery
from node.simulator.cluster_run import Case, attempt
from node.simulator.disk import SimulatedFile
from node.simulator.machine_clock import EPOCH_NS
from node.simulator.profiles import PROFILES, changed
from node.simulator.shrink import Shrinker
from node.simulator.sim_node import SimNode
from node.simulator.sim_store import MemoryMachineStore, RottingStore
from node.store import blocks, values
from node.store.snapshot import Manifest
from node.store.transfer import SnapshotReceiver

Patch = pytest.MonkeyPatch


class Mutation(NamedTuple):
    """A removed rule."""

    without: str
    apply: Callable[[Patch], None]
    profile: str
    seeds: int
    """One of this many seeds must find it: see `seed_search`."""

    nodes: int = 3
    rates: Mapping[str, float] = {}
    """Acts with other rates than in the profile."""


def _ackwait_restarts_at_failover(patch: Patch) -> None:
    begin_term = new_term.begin_term
    patch.setattr(new_term, "begin_term", lambda turn, c: begin_term(turn, c._replace(known_commit=0)))


def _ackwait_runs_for_unsent_messages(patch: Patch) -> None:
    begin_term = new_term.begin_term
    patch.setattr(new_term, "begin_term", lambda turn, c: begin_term(turn, c._replace(known_commit=1 << 60)))


def _known_commit_is_forgotten(patch: Patch) -> None:
    patch.setattr(
        Engine, "commit_when_elected", property(lambda self: 0, lambda self, _: None), raising=False
    )


def _wall_clock_is_cluster_time(patch: Patch) -> None:
    changed = Replica.role_changed

    def role_changed(self: Replica, role: str, term: int, leader: str | None, cause: str) -> None:
        changed(self, role, term, leader, cause)
        if role == "leader":
            wall_clock_ns = self.host.wall_clock_ns() - EPOCH_NS
            self.clock._fixed = self.host.monotonic_ns() - wall_clock_ns

    patch.setattr(Replica, "role_changed", role_changed)


def _offsets_of_past_leaders_count(patch: Patch) -> None:
    received = ClusterClock.received
    patch.setattr(ClusterClock, "received", lambda self, time_ns, term=0: received(self, time_ns))


def _time_before_the_last_waiting_acks(patch: Patch) -> None:
    """As in machine version 1: commands that don't fit into the first entry come too late."""
    refused = proposer.too_new
    patch.setattr(
        proposer, "too_new", lambda kind, version: kind is PauseRedelivery or refused(kind, version)
    )


def _time_before_waiting_acks(patch: Patch) -> None:
    _time_before_the_last_waiting_acks(patch)
    open_term, next_batches = Proposer._open_term, Proposer._next_batches

    def without_batches(self: Proposer, *args: Any) -> None:
        patch.setattr(Proposer, "_next_batches", lambda self: [])
        open_term(self, *args)
        patch.setattr(Proposer, "_next_batches", next_batches)

    patch.setattr(Proposer, "_open_term", without_batches)


def _cold_starts_are_not_announced(patch: Patch) -> None:
    ready = Proposer.ready

    def never(self: Proposer, now_s: float, connected: Any, *, cold: bool) -> None:
        ready(self, now_s, connected, cold=False)

    patch.setattr(Proposer, "ready", never)


def _votes_and_acks_leave_at_once(patch: Patch) -> None:
    patch.setattr(DurableOutbox, "send", DurableOutbox._leave)


def _own_copy_counts_at_once(patch: Patch) -> None:
    def readable(self: Engine) -> int:
        return self._applier.index if self._applier.suspended else self._journal.last_index

    patch.setattr(Engine, "_readable", readable)


def _pending_forgotten_on_leader_change(patch: Patch) -> None:
    changed = Origin.leader_changed

    def leader_changed(self: Origin, term: int | None) -> None:
        if term is None:
            self._waiting.clear()
            self._pending.clear()
        changed(self, term)

    patch.setattr(Origin, "leader_changed", leader_changed)


def _acked_before_it_is_committed(patch: Patch) -> None:
    flush = Origin.flush

    def flush_and_answer(self: Origin) -> None:
        from node.core.effects import OK

        flush(self)
        for serial in [serial for serial, pending in self._pending.items() if type(pending) is tuple]:
            self.publish_answered(self._pending.pop(serial), OK)  # type: ignore[arg-type]

    patch.setattr(Origin, "flush", flush_and_answer)


def _a_restarted_node_serves_at_once(patch: Patch) -> None:
    def commit_learned(self: ReadIndex, commit: int) -> None:
        if not self.done and not self._suspended:
            self.finish(self._engine.applied_index)

    patch.setattr(ReadIndex, "commit_learned", commit_learned)


def _new_connections_get_earlier_deliveries(patch: Patch) -> None:
    patch.setattr(EffectExecutor, "accepted", lambda self, connection, time_ns: None)


def _acknowledged_deliveries_go_out(patch: Patch) -> None:
    def write_chunk(self: Any, subscription: Any, entry: int, seqs: Any, inbox: bytes, receiver: Any) -> None:
        payloads = self._messages.get_many(subscription.channel.id, seqs)
        for payload in payloads:
            if payload is not None:
                receiver.deliver(inbox, payload)

    patch.setattr(EffectExecutor, "_write_chunk", write_chunk)


def _channels_are_mixed_up(patch: Patch) -> None:
    """Read message N of another channel: every channel has a message 5."""
    write_chunk = EffectExecutor._write_chunk

    def write(self: Any, subscription: Any, entry: int, seqs: Any, inbox: bytes, receiver: Any) -> None:
        messages = self._messages

        class Mixed:
            def get_many(self, channel: int, seqs: Any) -> Any:
                return [messages.get(1, seq) or messages.get(channel, seq) for seq in seqs]

        self._messages = Mixed()
        try:
            write_chunk(self, subscription, entry, seqs, inbox, receiver)
        finally:
            self._messages = messages

    patch.setattr(EffectExecutor, "_write_chunk", write)


def _no_flag(patch: Patch) -> None:
    patch.setattr(effect_executor, "redelivered", lambda payload, count: payload)


def _max_in_flight_is_exceeded(patch: Patch) -> None:
    def share_out(group: Any, able: list[Any], first: int, last: int, *_times_ns: int) -> list[Any]:
        return [able[0] for _ in range(first, last + 1)]

    patch.setattr(core_dispatch, "share_out", share_out)


def _leaving_members_keep_their_messages(patch: Patch) -> None:
    end = subscriptions.end

    def forget(turn: Any, subscription: Any, *, for_good: bool) -> None:
        if len(subscription.group.members) > 1:
            subscription.unacked = {}
        end(turn, subscription, for_good=for_good)

    patch.setattr(subscriptions, "end", forget)


def _a_move_makes_everything_due(patch: Patch) -> None:
    resume = presence.resume_sending

    def everything(
        turn: Any, member: Any, gone: int | None = None, back: int | None = None, **how: Any
    ) -> None:
        resume(turn, member, 0 if gone is not None else None, back, **how)

    patch.setattr(presence, "resume_sending", everything)


def _moves_go_unnoticed(patch: Patch) -> None:
    patch.setattr(Routing, "where", lambda self, subject: ("n1", 1))


def _a_set_decides_the_order(patch: Patch) -> None:
    """R30: an order that differs between processes gives different decisions."""
    dispatch = core_machine.dispatch
    runs = iter(range(1 << 30))

    def disordered(turn: Any) -> None:
        if next(runs) % 2:
            turn.state.sendable = dict(reversed(turn.state.sendable.items()))
        dispatch(turn)

    patch.setattr(core_machine, "dispatch", disordered)


# --- members --------------------------------------------------------------------------------------


def _changes_outlive_their_entries(patch: Patch) -> None:
    """Truncation must undo membership changes."""
    follow = Reconfiguration.follow

    def forward(self: Reconfiguration) -> None:
        now, before = self._journal.membership, self._placed
        if now is not None and (before is None or now[0] >= before[0]):
            follow(self)

    patch.setattr(Reconfiguration, "follow", forward)


def _snapshots_bring_no_members(patch: Patch) -> None:
    install = Engine.snapshot_installed

    def forget(
        self: Engine,
        index: int,
        term: int,
        previous: tuple[int, int],
        membership: Membership | None = None,
    ) -> None:
        install(self, index, term, previous)

    patch.setattr(Engine, "snapshot_installed", forget)


def _learners_count(patch: Patch) -> None:
    """Keep learners as learners: a promotion would make the mutation invisible."""
    learners_count(patch)
    patch.setattr(Engine, "caught_up", lambda self, name: False)


def _removed_leaders_count_themselves(patch: Patch) -> None:
    """A leader removes itself and counts its own vote until it knows that the removal is committed."""
    patch.setattr(Reconfiguration, "_votes_in", lambda self, membership: True)
    patch.setattr(
        Reconfigurer,
        "_hand_over",
        lambda self, request, now_s: self._change(self.in_force.without(request.name)),
    )


# --- consensus and the disk -----------------------------------------------------------------------


def _an_ack_counts_for_all(patch: Patch) -> None:
    """Treat every ack as one for the whole log: what was sent will arrive."""
    on_answer = Engine._on_answer

    def hopeful(self: Engine, peer: str, answer: Any) -> None:
        if isinstance(answer, Ack) and answer.term == self.term:
            answer = answer._replace(match=max(answer.match, self._journal.last_index))
        on_answer(self, peer, answer)

    patch.setattr(Engine, "_on_answer", hopeful)


def _past_leaders_are_trusted(patch: Patch) -> None:
    """PS-25: treat every append as one of the current leader."""
    take = following.Follower.append

    def believing(self: following.Follower, peer: str, append: Any) -> None:
        leader, term = self._library.leader, self._library.current_term
        if append.term < term and leader not in {None, self._name}:
            append, peer = append._replace(term=term), leader
        take(self, peer, append)

    patch.setattr(following.Follower, "append", believing)


def _own_copy_counts_twice(patch: Patch) -> None:
    """With three nodes, the leader alone is a majority."""
    on_durable = Engine.on_durable

    def self_assured(self: Engine) -> None:
        if self.role is Role.LEADER and self._replicator.progress_by_peer:
            self._library.acked(min(self._replicator.progress_by_peer), self._journal.durable_index)
        on_durable(self)

    patch.setattr(Engine, "on_durable", self_assured)


def _every_candidate_gets_a_vote(patch: Patch) -> None:
    """Without the comparison of logs, leader completeness is violated."""
    on_vote, on_pre_vote = Voting._on_vote_request, Voting._on_pre_vote_request
    best = {"last_index": 1 << 40, "last_term": 1 << 40}

    def vote(self: Voting, peer: str, request: Any) -> None:
        on_vote(self, peer, request._replace(**best))

    def pre_vote(self: Voting, peer: str, request: Any) -> None:
        on_pre_vote(self, peer, request._replace(**best))

    patch.setattr(Voting, "_on_vote_request", vote)
    patch.setattr(Voting, "_on_pre_vote_request", pre_vote)


def _the_log_is_cut_as_the_library_does(patch: Patch) -> None:
    """PS-1: delete all entries after ``prev``, then append the received ones."""

    def check_append(append: Any, log: Any, commit: int) -> Verdict:
        prev = append.prev
        if not log.first_index <= prev <= log.last_index:
            return Refuse(prev, log.last_index + 1)
        if log.term_at(prev) != append.prev_term:
            return Refuse(prev, prev)
        match = prev + len(append.entries)
        return Accept(match, min(append.commit, match), prev, append.entries)

    patch.setattr(following, "check_append", check_append)


def _checkpoints_outrun_the_journal(patch: Patch) -> None:
    patch.setattr(SimNode, "_may_store", lambda self, index: True)


def _a_failed_sync_is_ignored(patch: Patch) -> None:
    """PS-4: retry a failed sync. The retry succeeds although the kernel has dropped the data."""
    sync = SimulatedFile.sync

    def sync_again(self: SimulatedFile) -> None:
        with contextlib.suppress(DiskError):
            sync(self)

    patch.setattr(SimulatedFile, "sync", sync_again)


def _nothing_is_synced(patch: Patch) -> None:
    patch.setattr(SimulatedFile, "sync", lambda self: None)


def _damage_is_a_torn_end(patch: Patch) -> None:
    """Treat any damage at the end of the log as a torn write."""
    tail = Segment.tail
    patch.setattr(Segment, "tail", lambda self, at: tail(self, at)._replace(latest_flush_first=0))


def _checksums_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(records, "extend", lambda crc, data: 0)


# --- store and snapshots --------------------------------------------------------------------------


def _the_store_is_read_unverified(patch: Patch) -> None:
    def flipped(self: RottingStore, what: object, value: bytes) -> bytes:
        at = len(value) // 2
        return value[:at] + bytes([value[at] ^ 4]) + value[at + 1 :] if value else value

    patch.setattr(RottingStore, "_damaged", flipped)


def _lmdb_is_read_unverified(patch: Patch) -> None:
    """Trust values read from the database."""

    def decode(key: bytes, value: Any, value_cipher: Any = None) -> blocks.Block:
        count, contents = int.from_bytes(value[8:12], sys.byteorder), value[12:]
        offsets = array("I", (0,))
        offsets.frombytes(contents[: 4 * count])
        return blocks.Block(blocks.split_key(key)[1], offsets, bytes(contents[4 * count :]))

    patch.setattr(blocks, "decode", decode)
    patch.setattr(values, "verified", lambda path, key, stored: stored[:-4])


def _checkpoints_write_their_index_first(patch: Patch) -> None:
    """Write the index before the data instead of in one transaction: a crash leaves half of it."""
    run = MemoryMachineStore.run_checkpoint
    stop = MemoryMachineStore.stop

    def begun(self: MemoryMachineStore, job: Any) -> None:
        job._durable.applied, job._durable.previous = job._applied, job._previous

    def stopped(self: MemoryMachineStore, *, power: bool) -> None:
        patch.setattr(MemoryMachineStore, "run_checkpoint", begun)
        stop(self, power=power)
        patch.setattr(MemoryMachineStore, "run_checkpoint", run)

    patch.setattr(MemoryMachineStore, "stop", stopped)


def _parts_are_trusted(patch: Patch) -> None:
    """Don't verify parts of a snapshot again after a restart."""

    def verify(self: SnapshotReceiver, manifest: Manifest) -> None:
        self._position = min(manifest.size, sum(map(len, self._parts.chunks())))
        self._position -= self._position % manifest.chunk_bytes if self._position < manifest.size else 0

    def finish(self: SnapshotReceiver) -> Any:
        assert self._manifest is not None
        if self._position < self._manifest.size:
            return []
        self._open = False
        self.received = self._parts.finish()
        return [["done", self._manifest.snapshot_id]]

    patch.setattr(SnapshotReceiver, "_verify", verify)
    patch.setattr(SnapshotReceiver, "_finish_if_whole", finish)


def _installed_without_a_note(patch: Patch) -> None:
    """The store has the snapshot, but the journal can't learn its membership."""
    patch.setattr(MemoryMachineStore, "note", lambda self: b"")


def _only_the_store_is_recovered(patch: Patch) -> None:
    """Cut the end of the log in a recovery, because it may not have been committed."""
    claim_log = node_identity.claim_log

    def cautious(journal: Any, identity: Any) -> None:
        journal.truncate(max(journal.first_index + 1, journal.last_index - 5))
        claim_log(journal, identity)

    patch.setattr(recovery, "claim_log", cautious)


# --- sessions -------------------------------------------------------------------------------------


def _sessions_are_forgotten(patch: Patch) -> None:
    """R5: a new leader knows no session; origins open theirs again and resend their commands."""
    begin_term = new_term.begin_term

    def forgetful(turn: Any, command: Any) -> None:
        begin_term(turn, command)
        turn.state.dirty.sessions.update(dict.fromkeys(turn.state.sessions))
        turn.state.sessions.clear()

    patch.setattr(new_term, "begin_term", forgetful)


ROT = {"rot": 1.5, "crash": 1.0, "full disk": 0.0, "sync error": 0.0}
"""Damage must hit the last flush: one seed in 25 finds the violation."""

MUTATIONS = [
    Mutation("waiting acks come before new time (R9)", _time_before_waiting_acks, "kills", 20),
    Mutation("all waiting acks come before new time (R9)", _time_before_the_last_waiting_acks, "kills", 40),
    Mutation("cold starts are announced (R14)", _cold_starts_are_not_announced, "kills", 20),
    Mutation("votes and acks wait for the disk", _votes_and_acks_leave_at_once, "disks", 5),
    Mutation("a leader's copy counts when it is durable", _own_copy_counts_at_once, "disks", 5),
    Mutation("AckWait restarts at failover", _ackwait_restarts_at_failover, "kills", 20),
    Mutation("AckWait runs for unsent messages", _ackwait_runs_for_unsent_messages, "kills", 20),
    Mutation("the commit index known when elected", _known_commit_is_forgotten, "kills", 20),
    Mutation("cluster time without wall clocks", _wall_clock_is_cluster_time, "kills", 20),
    Mutation("only the current leader sets the time", _offsets_of_past_leaders_count, "partitions", 40),
    Mutation("pending requests are forwarded again (R8)", _pending_forgotten_on_leader_change, "kills", 20),
    Mutation("acked after commit", _acked_before_it_is_committed, "quiet", 5),
    Mutation("read index before serving (R4)", _a_restarted_node_serves_at_once, "kills", 20),
    Mutation(
        "earlier deliveries belong to other connections",
        _new_connections_get_earlier_deliveries,
        "partitions",
        60,
    ),
    Mutation("acknowledged messages are not delivered (R3)", _acknowledged_deliveries_go_out, "clients", 20),
    Mutation("the redelivered flag", _no_flag, "quiet", 5),
    Mutation("a message belongs to a channel", _channels_are_mixed_up, "quiet", 20),
    Mutation("max in flight", _max_in_flight_is_exceeded, "quiet", 30),
    Mutation("a leaving member leaves its messages", _leaving_members_keep_their_messages, "clients", 20),
    Mutation("only later deliveries are due (R15)", _a_move_makes_everything_due, "clients", 20),
    Mutation("unreachable clients (R15)", _moves_go_unnoticed, "clients", 20),
    Mutation("the same order everywhere (R30)", _a_set_decides_the_order, "quiet", 5),
    Mutation("an ack counts up to its index", _an_ack_counts_for_all, "storms", 5),
    Mutation("the term is checked (PS-25)", _past_leaders_are_trusted, "elections", 20, nodes=5),
    Mutation("a leader's copy counts once", _own_copy_counts_twice, "disks", 5),
    Mutation("votes go to the better log", _every_candidate_gets_a_vote, "partitions", 20),
    Mutation("members count when they are in the log", members_count_when_they_are_committed, "members", 20),
    Mutation("one membership change at a time", changes_overlap, "members", 20),
    Mutation("truncation undoes a change", _changes_outlive_their_entries, "members", 60),
    Mutation("a snapshot brings its members", _snapshots_bring_no_members, "members", 20),
    Mutation("learners don't count", _learners_count, "members", 20),
    Mutation("removed leaders don't count themselves", _removed_leaders_count_themselves, "members", 20),
    Mutation("equal entries stay (PS-1)", _the_log_is_cut_as_the_library_does, "storms", 20),
    Mutation("the store never outruns the journal", _checkpoints_outrun_the_journal, "disks", 20),
    Mutation("a failed sync is the end (PS-4)", _a_failed_sync_is_ignored, "disks", 20),
    Mutation("journal writes are synced", _nothing_is_synced, "disks", 20),
    Mutation("damage is no torn write", _damage_is_a_torn_end, "disks", 120, rates=ROT),
    Mutation("entries are verified when read", _checksums_are_not_looked_at, "disks", 20),
    Mutation("values of the store are verified", _the_store_is_read_unverified, "disks", 60),
    Mutation("values of LMDB are verified", _lmdb_is_read_unverified, "lmdb", 60),
    Mutation("a checkpoint is one transaction", _checkpoints_write_their_index_first, "kills", 20),
    Mutation("parts of snapshots are verified", _parts_are_trusted, "snapshots", 20),
    Mutation("a snapshot leaves a note", _installed_without_a_note, "snapshots", 60),
    Mutation("all of the log is recovered", _only_the_store_is_recovered, "recovery", 20),
    Mutation("sessions outlive leaders (R5)", _sessions_are_forgotten, "kills", 20),
]


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.without)
def test_is_caught(mutation: Mutation, seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> str | None:
        profile = changed(PROFILES[mutation.profile], rates=mutation.rates)
        failure = attempt(Case(seed, profile, mutation.nodes)).failure
        return None if failure is None else failure.kind

    mutation.apply(monkeypatch)
    seeds.find(mutation.seeds, broken)


def test_a_failing_case_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of leaders and one subscriber remain; and the shrunk case fails in the same way."""
    _ackwait_restarts_at_failover(monkeypatch)
    cases = (Case(seed, PROFILES["kills"], 3, clients=(0, 1, 2, 3)) for seed in range(20))
    moments = count()  # the shrinker's clock advances with each look: about twice per run
    case, failure = next((case, failure) for case in cases if (failure := attempt(case).failure))
    shrinker = Shrinker(case, failure, seconds=40, clock=lambda: next(moments))
    shrunk = shrinker.shrink()
    assert len(shrunk.schedule()) <= 2 < len(case.schedule())
    assert len(shrunk.present()) <= 3
    lines: list[str] = []
    assert attempt(shrunk, trace=lines).failure == shrinker.failure
    trace = "\n".join(lines)
    for event in (" leads term ", "gets ", "acks ", "publish "):
        assert event in trace, event
