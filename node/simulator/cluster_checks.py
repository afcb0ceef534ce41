"""The invariants of a simulated cluster, checked after every step. The first violation ends the run.

There are three sets of checks. The decisions in the log are compared with an independent `ReferenceModel`.
The behaviour of nodes is compared with the log: equal entries give equal effects, and a node never delivers
a message that it knows to be acknowledged. What clients receive is compared with both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from node.core import refusals
from node.core.commands import (
    ColdStart,
    NewTerm,
)
from node.core.effects import Effects
from node.core.entries import (
    decode_entry,
    decode_leader_command,
)
from node.core.records import digest
from node.core.state import State
from node.protocol.streaming import Message, decode_message
from node.raft.ports import EntryType
from node.server.proposer import OPENING_WAIT_S
from node.simulator.delivery_checks import DeliveryChecker
from node.simulator.log_checks import LogChecker
from node.simulator.member_checks import MemberChecker
from node.simulator.profiles import LEADER_WITHIN_S
from node.simulator.raft_checks import ViolationError
from node.simulator.raft_model import RaftModel
from node.simulator.reference_model import ReferenceModel

if TYPE_CHECKING:
    from node.server.connection import Connection
    from node.simulator.cluster import Cluster
    from node.simulator.sim_client import Seen, SimClient
    from node.simulator.sim_node import SimNode

DIGEST_EVERY = 32
"""Number of entries between two comparisons of whole states."""

AHEAD_S = 0.02
"""How far cluster time may get ahead of real time, in seconds: clocks drift."""

BEHIND_S = 0.4
"""How much cluster time a new leader may lose if it received frames from its predecessor."""

LATE_S = 0.45
"""How late a redelivery may be while there are no faults: a leader may be busy for a while."""

LOST_S = 0.8
"""How long a decided delivery may take to reach a connected client while there are no faults."""

ANSWERED_S = 1.5
"""How long a publish may wait for its reply while there are no faults."""

UNREACHABLE_WITHIN_S = 5.0
"""An unreachable client must be marked as unreachable within this time; the grace period is 3 s."""

ACK_WAITED_S = 0.25
"""An ack that arrived this long before a new leader's first entry must be in that entry at the latest."""


class ReceivedAck(NamedTuple):
    """An acknowledgement that a node has received."""

    at_s: float
    node: SimNode
    life: int
    has_session: bool
    """Whether the node's process had a session to forward it with."""


class ClusterChecker:
    """Checks safety during faults, and liveness after they ended."""

    def __init__(self, cluster: Cluster) -> None:
        self.reference = ReferenceModel()
        self.log = LogChecker()
        self.model = RaftModel()
        self._members = MemberChecker(self.log) if cluster.profile.spares else None
        self._cluster = cluster
        self._world = cluster.world
        self.deliveries = DeliveryChecker(cluster)
        self._entries: dict[int, bytes] = {}
        self._effects: dict[int, Effects] = {}
        self._digests: dict[int, bytes] = {}
        self._leaders: dict[int, str] = {}
        self._commits: dict[str, int] = {}
        self._elected_with: dict[int, int] = {}
        """By term: the commit index that its leader knew just before it was elected."""
        self._proposed: dict[tuple[int, bytes], tuple[float, SimNode, int, bool]] = {}
        self._offset_s: float | None = None
        self._all_down_since_s: float | None = None
        self._term_opened_s = 0.0
        """When the first entry of the current term was proposed."""
        self._received_acks: dict[tuple[str, int], ReceivedAck] = {}

    # --- the log and the state --------------------------------------------------------------------

    def observe(self, node: SimNode) -> None:
        """Check the engine of ``node``: one leader per term; a leader has every committed entry."""
        self.model.stepped(node.name, node.engine, node.journal)
        if node.leads:
            term = node.engine.term
            if term not in self._leaders:
                self._world.counts["elections"] += 1
                self._world.record(f"{node.name} leads term {term}")
                self._elected_with[term] = self._commits.get(node.name, 0)
                self.log.elected(node.name, term, node.journal)
            other = self._leaders.setdefault(term, node.name)
            if other != node.name:
                raise ViolationError("election safety", f"term {term} is led by {other} and by {node.name}")
        commit = node.engine.commit_index
        previous = self._commits.get(node.name, 0)
        if commit > previous:
            self.log.committed(node.name, node.engine.term, node.journal, previous, commit)
            if node.leads:
                self._check_majority(node, commit)
        self._commits[node.name] = commit
        if self._members is not None:
            self._members.observe(node.name, node.engine, node.journal)

    def _check_majority(self, leader: SimNode, index: int) -> None:
        """Check that a committed entry is on the disks of a majority, whatever peers reported (PS-4, PS-5).

        Entry 1 is exempt: every log begins with it.
        """
        term, engine = leader.journal.term_at(index), leader.engine
        having = {
            node.name
            for node in self._cluster.nodes
            if (journal := node.storage.last_journal) is not None
            and journal.durable_index >= index
            and (index < journal.first_index or journal.term_at(index) == term)
        }
        # The entry may have been committed before the current membership took effect.
        electorates = [engine.membership.voters]
        if leader.journal.first_index <= index < engine.membership_index:
            electorates.append(engine.membership_at(index).voters)
        if index > 1 and not any(2 * len(having & {*voters}) > len(voters) for voters in electorates):
            raise ViolationError(
                "commitment",
                f"{leader.name} commits entry {index}: of {electorates} only {sorted(having)} have it",
            )

    def stopped(self, node: SimNode) -> None:
        """Record the log of a process that ends: it may have promised whatever it knew to be durable."""
        self.log.stopped(node.name, node.journal)

    def emptied(self, node: SimNode) -> None:
        """Forget the log of a machine whose directory was emptied on purpose."""
        self.log.emptied(node.name)
        self.model.emptied(node.name)

    def checkpointed(self, node: SimNode, index: int) -> None:
        """Check that the journal is durable up to ``index``, the position of the store's new checkpoint."""
        if node.journal.durable_index < index:
            raise ViolationError(
                "store",
                f"{node.name} stores entry {index}, its journal is durable to {node.journal.durable_index}",
            )

    def appended(self, node: SimNode, index: int, term: int, payload: bytes, before: int | None) -> None:
        """Check an entry that was appended to a journal."""
        self.log.appended(node.name, index, term, payload, before)
        if self._members is not None and payload[0] == EntryType.MEMBERSHIP:
            self._members.appended(index, term, payload[1:])

    def started(self, node: SimNode) -> None:
        """Start observing a new process: its commit index may be lower, but its log must be unchanged."""
        self._commits.pop(node.name, None)
        self.log.reopened(node.name, node.journal)

    def proposed(self, node: SimNode, index: int, payload: bytes) -> None:
        """Record an entry that a leader has stamped."""
        self._proposed[index, payload] = (self._world.now, node, node.life, node.knows_time)
        for fields in decode_entry(payload).leader_commands:
            command = decode_leader_command(fields)
            if isinstance(command, NewTerm):
                expected_commit = self._elected_with.get(command.term, 0)
                if command.known_commit < expected_commit:
                    raise ViolationError(
                        "new term", f"{node.name} names a lower commit index than {expected_commit}"
                    )

    def applying(self, node: SimNode, index: int, payload: bytes) -> None:
        """Check that every node applies the same entry at the same index."""
        if self._entries.setdefault(index, payload) != payload:
            raise ViolationError("state machine safety", f"{node.name} applies another entry at {index}")

    def applied(self, node: SimNode, payload: bytes, effects: Effects, state: State) -> None:
        """Check that equal entries give equal effects and equal states."""
        index = effects.index
        expected = self._effects.get(index)
        if expected is None:
            if index <= self.reference.applied:
                raise ViolationError("state machine safety", f"entry {index} was skipped before")
            self._effects[index] = effects
            self.deliveries.decided(index)
            self._check_time(index, payload)
            self.reference.entry(index, payload, effects, state)
            self._check_lateness()
            self._check_acks_that_waited(index, payload)
            self._check_cold_start(index, payload)
            self._check_unreachable(effects)
            if self._world.trace is not None:
                self._world.record(
                    f"entry {index}, first applied by {node.name}: {self.reference.summary(payload, effects)}"
                )
        elif expected != effects:
            raise ViolationError("state machine safety", f"{node.name} has other effects of entry {index}")
        if index % DIGEST_EVERY == 0:
            self._same_state(node, index, state)

    def installing(self, node: SimNode, index: int, state: State) -> None:
        """Check that a snapshot equals the state that other nodes had after that entry."""
        self._world.counts["states compared"] += 1
        if state.applied in self._digests:
            self._same_state(node, state.applied, state)

    def _same_state(self, node: SimNode, index: int, state: State) -> None:
        found = digest(state)
        if self._digests.setdefault(index, found) != found:
            raise ViolationError("state machine safety", f"{node.name} has another state after entry {index}")

    def _check_time(self, index: int, payload: bytes) -> None:
        """Check that cluster time follows real time, and loses little at leader changes (R11, R12)."""
        stamped = self._proposed.get((index, payload))
        if stamped is None:
            raise ViolationError("log", f"no leader proposed entry {index}")
        at_s, leader, life, reachable = stamped
        if leader.life == life:
            leader.knows_time = True
        offset_s = decode_entry(payload).time_ns / 1e9 - at_s
        if self._offset_s is not None:
            if offset_s > self._offset_s + AHEAD_S:
                ahead_s = offset_s - self._offset_s
                raise ViolationError("cluster time", f"entry {index} runs {ahead_s:.3f} s ahead")
            if reachable and offset_s < self._offset_s - BEHIND_S:
                behind_s = self._offset_s - offset_s
                raise ViolationError("cluster time", f"entry {index} has lost {behind_s:.3f} s")
        self._offset_s = offset_s if self._offset_s is None else min(self._offset_s, offset_s)

    def _check_lateness(self) -> None:
        """Check that redeliveries happen when they are due, unless there are faults (R20)."""
        for index, seq, late_ns, inbox in self.reference.redeliveries:
            if late_ns > LATE_S * 1e9 and not self._cluster.had_faults_since(self._world.now - late_ns / 1e9):
                raise ViolationError(
                    "AckWait", f"entry {index} sends {seq} to {inbox} again {late_ns / 1e9:.3f} s late"
                )

    def _check_acks_that_waited(self, index: int, payload: bytes) -> None:
        """Check that a new term redelivers no message that was acknowledged while there was no leader (R9).

        This holds however large the backlog is: an ack may follow many other entries of the same term.
        """
        if any(
            isinstance(decode_leader_command(fields), NewTerm)
            for fields in decode_entry(payload).leader_commands
        ):
            self._term_opened_s = self._proposed[index, payload][0]
        if self._cluster.profile.cuts_links or not self.reference.redeliveries:
            return
        at_s = self._term_opened_s
        waited_s = self._proposed[index, payload][0] - at_s
        for _, seq, _, inbox in self.reference.redeliveries:
            received = self._received_acks.get((inbox, seq))
            if received is None or (waited_s >= OPENING_WAIT_S and not received.has_session):
                continue
            node = received.node
            awake = (
                node.up and node.life == received.life and not node.paused and node.resumed_s < received.at_s
            )
            if awake and received.at_s < at_s - ACK_WAITED_S:
                raise ViolationError(
                    "new term",
                    f"entry {index} sends {seq} to {inbox}: {node.name} got the ack at {received.at_s:.3f}",
                )

    def died(self) -> None:
        """Record the end of a process. After the last one, no node knows which messages were sent (R14)."""
        if not any(node.up for node in self._cluster.nodes):
            self._all_down_since_s = self._world.now

    def _check_cold_start(self, index: int, payload: bytes) -> None:
        at_s = self._proposed[index, payload][0]
        if self._all_down_since_s is None or at_s < self._all_down_since_s:
            return
        leader_commands = [decode_leader_command(fields) for fields in decode_entry(payload).leader_commands]
        if any(isinstance(command, NewTerm) for command in leader_commands):
            self._all_down_since_s = None
            if not any(isinstance(command, ColdStart) for command in leader_commands):
                raise ViolationError("cold start", f"entry {index} begins a term after all nodes were down")

    def _check_unreachable(self, effects: Effects) -> None:
        """Check that nothing is sent to a client that disconnected for good a while ago (R15)."""
        if self._cluster.adversary.node_faults_until_s > self._world.now - UNREACHABLE_WITHIN_S:
            return
        for deliver in effects.deliveries:
            client = self._cluster.client(self.reference.members[deliver.subscription].client)
            if (
                client is not None
                and client.dead
                and client.noticed_s < self._world.now - UNREACHABLE_WITHIN_S
            ):
                raise ViolationError(
                    "unreachable", f"entry {effects.index} sends messages to {client.name}, which is dead"
                )

    # --- what nodes do ----------------------------------------------------------------------------

    def delivering(self, node: SimNode, connection: Connection, subject: bytes, payload: bytes) -> None:
        """Check a message that is encoded for a client: it must not be acknowledged yet (R3)."""
        found = self.reference.by_inbox.get(subject.decode())
        if found is None:
            return
        self.deliveries.handed(connection, subject, payload)
        message = decode_message(payload)
        seq = message.seq
        if self._world.trace is not None:
            count = f" again ({message.redelivery_count})" if message.redelivered else ""
            inbox = subject.decode().removeprefix("_INBOX.")
            self._world.record(f"{node.name} at entry {node.state.applied} sends {inbox} {seq}{count}")
        acked_in = self.reference.groups[found[1]].acked.get(seq)
        if acked_in is not None and acked_in <= node.state.applied:
            raise ViolationError(
                "acks", f"{node.name} delivers {seq} to {subject.decode()}, acknowledged in entry {acked_in}"
            )

    def wrote(self, connection: Connection) -> None:
        """Record that a connection's whole outbox was written to its socket."""
        self.deliveries.wrote(connection)

    def ack_received(self, node: SimNode, inbox: str, seq: int) -> None:
        """Record an ack that has reached the client's node.

        A process without a session (no leader since its start) can forward the ack only after its session is
        in the log. R9 waits for that too, but no longer than `OPENING_WAIT_S`.
        """
        has_session = node.replica.origin.session is not None
        if not has_session:
            self._world.counts["acks before the first session"] += 1
        self._received_acks[inbox, seq] = ReceivedAck(self._world.now, node, node.life, has_session)

    # --- what clients see -------------------------------------------------------------------------

    def stored(self, client: SimClient, guid: str, error: str) -> None:
        """Check the reply to a publish: one, in time, and the message is in the log or the client was closed.

        The time limit holds even if a hostile client causes load meanwhile.
        """
        if guid in client.stored or guid in client.refused or guid not in client.published:
            raise ViolationError("one answer", f"{client.name} got another reply for {guid}")
        sent_s = client.published_s[guid]
        if self._world.now - sent_s > ANSWERED_S and not self._cluster.had_faults_since(sent_s):
            raise ViolationError(
                "answers", f"{client.name}: {guid} was answered {self._world.now - sent_s:.3f} s late"
            )
        if not error and self.reference.stored.get(guid.encode()) != client.published[guid]:
            raise ViolationError("durability", f"{guid} was acknowledged but is not in the log")
        if error == refusals.NO_LEADER:
            self._world.counts["publishes refused without a leader"] += 1
            self.reference.refused.add(guid.encode())
            if guid.encode() in self.reference.stored:
                raise ViolationError("refused", f"{guid} was refused without a leader, but is stored")
        elif error and not client.closings:
            raise ViolationError("publish", f"{client.name}: {guid} was refused: {error}")

    def refused(self, client: SimClient, what: str, error: str) -> None:
        """Record that a registration or subscription was refused."""
        self._world.counts["refusals"] += 1
        self._world.record(f"{client.name}: {what} refused: {error}")

    def received(self, client: SimClient, seen: Seen, message: Message) -> None:
        """Check a delivery: decided in the log, flagged if not the first, with a count that never falls."""
        seq, reference = message.seq, self.reference
        where = f"{client.name}: message {seq}"
        log = reference.log(client.habits.channel)
        if seq >= len(log) or log[seq] != message.data:
            raise ViolationError("content", f"{where} is not what the log has")
        before = seen.messages.get(seq)
        if not message.redelivered:
            if before is not None:
                raise ViolationError("redelivered flag", f"{where} was redelivered without the flag")
            if seq <= seen.highest_new:
                raise ViolationError("order", f"{where} came as new after {seen.highest_new}")
        if bool(message.redelivery_count) != message.redelivered:
            raise ViolationError("redelivery count", f"{where} with count {message.redelivery_count}")
        if before is not None and message.redelivery_count <= before.redeliveries:
            raise ViolationError("redelivery count", f"{where} was redelivered with the same count")
        since_s = self._world.now - client.habits.ack_wait_s - LOST_S
        if (
            message.redelivered
            and before is None
            and not client.habits.queue
            and message.redelivery_count == 1
        ):
            alone = client.connected_s < since_s and not client.habits.durable
            if alone and not self._cluster.had_faults_since(since_s):
                raise ViolationError("delivery", f"{where} came only as a redelivery")

    # --- the end ----------------------------------------------------------------------------------

    def expect_leader(self) -> None:
        """Check that there is a ready leader, some time after all faults have ended."""
        if not any(node.ready for node in self._cluster.nodes):
            raise ViolationError("liveness", f"no leader {LEADER_WITHIN_S} s after everything has healed")

    @property
    def converged(self) -> bool:
        """Whether all nodes have applied the same index, and clients have got and acknowledged everything."""
        nodes = self._cluster.usable_nodes
        if not all(node.up for node in nodes) or len({node.engine.applied_index for node in nodes}) > 1:
            return False
        return not self._complaints()

    def _complaints(self) -> list[tuple[str, str]]:
        return [*self._undelivered(), *self._unacked(), *self._unanswered()]

    def finish(self) -> None:
        """Check liveness and convergence after all faults have ended and the load has stopped."""
        nodes = self._cluster.usable_nodes
        if not all(node.up for node in nodes):
            raise ViolationError("liveness", "not all nodes are up again")
        applied = [node.engine.applied_index for node in nodes]
        if len(set(applied)) > 1:
            raise ViolationError("convergence", f"the nodes have applied {applied}")
        for complaint in self._complaints():
            raise ViolationError(*complaint)
        if len({digest(node.state) for node in nodes}) > 1:
            raise ViolationError("convergence", f"the nodes end in different states at entry {applied}")
        for node in nodes:
            self._check_store(node)
        self.reference.compare(nodes[0].state)

    def _check_store(self, node: SimNode) -> None:
        if node.storage.rotten:
            return  # the node may detect the damage at any moment
        found = {name: channel.log.last for name, channel in node.state.channels.items() if channel.log.last}
        if found != {name: len(log) - 1 for name, log in self.reference.logs.items()}:
            raise ViolationError("durability", f"{node.name} has messages {found}")
        for name, last in found.items():
            channel, log = node.state.channels[name], self.reference.logs[name]
            for seq in range(1, last + 1):
                payload = node.store.get(channel.id, seq)
                if payload is None or decode_message(payload).data != log[seq]:
                    raise ViolationError("store", f"{node.name} has no message {seq} of {name} stored")
        for client in self._cluster.clients:
            missing = [guid for guid in client.stored if guid.encode() not in self.reference.stored]
            if missing:
                raise ViolationError("durability", f"acknowledged and lost: {missing[:5]}")

    def _undelivered(self) -> list[tuple[str, str]]:
        groups: dict[Any, set[int]] = {}
        for client in self._cluster.clients:
            habits = client.habits
            if not habits.subscribes or (client.dead and not habits.queue):
                continue
            if habits.queue:
                name: Any = (habits.channel, habits.queue, habits.durable)
            else:
                name = (habits.channel, client.name)
            got = client.received if habits.queue or habits.durable else set(client.seen.messages)
            groups.setdefault(name, set()).update(got)
        return [
            ("delivery", f"{name} never got {sorted(set(range(1, last + 1)) - got)[:10]} of {last}")
            for name, got in groups.items()
            if len(got) < (last := len(self.reference.log(name[0])) - 1)
        ]

    def _unacked(self) -> list[tuple[str, str]]:
        living = {client.seen.inbox: client for client in self._cluster.clients if not client.dead}
        return [
            ("acks", f"{living[sub.inbox].name}: never acknowledged: {sorted(sub.unacked)[:5]}")
            for sub in self._cluster.usable_nodes[0].state.subscriptions.values()
            if sub.unacked and sub.inbox in living
        ]

    def _unanswered(self) -> list[tuple[str, str]]:
        return [
            ("liveness", f"{client.name} is not {'subscribed' if client.registered else 'registered'}")
            for client in self._cluster.clients
            if not client.dead
            and not (client.registered and (client.subscribed or not client.habits.subscribes))
        ]
