"""What must hold in a simulated cluster, looked at after every step; the first breach ends the run.

Three points of view. What the log decides is held against an `ReferenceModel` of its own. What nodes do is
held against what the log decided: equal entries, equal effects, nothing delivered that this node
knows to be acknowledged. What clients see is held against both.
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
"""Entries between two comparisons of whole states."""

AHEAD_S = 0.02
"""How much faster than real time cluster time may have run: clocks drift."""

BEHIND_S = 0.4
"""How much a leader that heard the one before it may lose of cluster time."""

LATE_S = 0.45
"""How late a redelivery may be while nothing is broken: a leader may be busy for a while."""

LOST_S = 0.8
"""How long a decided delivery may take to reach a client whose connection stands, with nothing broken."""

ANSWERED_S = 1.5
"""How long a publish may wait for its answer while nothing is broken."""

UNREACHABLE_WITHIN_S = 5.0
"""A client that nobody hears any more is absent by then; the grace is 3 s."""

ACK_WAITED_S = 0.25
"""An ack that came to a node so long before a new leader's first entry is in that entry at the latest."""


class AckCame(NamedTuple):
    """An acknowledgement that has reached a node."""

    at_s: float
    node: SimNode
    life: int
    has_session: bool
    """The node's process could forward it."""


class ClusterChecker:
    """Safety while things break, liveness after they healed."""

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
        """By term: what its leader knew to be committed just before it was elected."""
        self._proposed: dict[tuple[int, bytes], tuple[float, SimNode, int, bool]] = {}
        self._offset_s: float | None = None
        self._nobody_left_s: float | None = None
        self._term_opened_s = 0.0
        """When the first entry of the present term was proposed."""
        self._acks_came: dict[tuple[str, int], AckCame] = {}

    # --- the log and the state --------------------------------------------------------------------

    def observe(self, node: SimNode) -> None:
        """At most one leader a term; it knows all that it had known to be committed."""
        self.model.stepped(node.name, node.engine, node.journal)
        if node.leads:
            term = node.engine.term
            if term not in self._leaders:
                self._world.counts["elections"] += 1
                self._world.note(f"{node.name} leads term {term}")
                self._elected_with[term] = self._commits.get(node.name, 0)
                self.log.elected(node.name, term, node.journal)
            other = self._leaders.setdefault(term, node.name)
            if other != node.name:
                raise ViolationError("election safety", f"term {term} is led by {other} and by {node.name}")
        commit = node.engine.commit_index
        known = self._commits.get(node.name, 0)
        if commit > known:
            self.log.committed(node.name, node.engine.term, node.journal, known, commit)
            if node.leads:
                self._check_majority(node, commit)
        self._commits[node.name] = commit
        if self._members is not None:
            self._members.observe(node.name, node.engine, node.journal)

    def _check_majority(self, leader: SimNode, index: int) -> None:
        """What a leader commits is on the disks of a majority, whatever they told it (PS-4, PS-5).

        But for entry 1, which every log begins with.
        """
        term, engine = leader.journal.term_at(index), leader.engine
        having = {
            node.name
            for node in self._cluster.nodes
            if (journal := node.storage.last_journal) is not None
            and journal.durable_index >= index
            and (index < journal.first_index or journal.term_at(index) == term)
        }
        # It may have been committed before the members in force came to be.
        electorates = [engine.membership.voters]
        if leader.journal.first_index <= index < engine.membership_index:
            electorates.append(engine.membership_at(index).voters)
        if index > 1 and not any(2 * len(having & {*voters}) > len(voters) for voters in electorates):
            raise ViolationError(
                "commitment",
                f"{leader.name} commits entry {index}: of {electorates} only {sorted(having)} have it",
            )

    def stopped(self, node: SimNode) -> None:
        """A process ends; what it knew to be durable it may have promised."""
        self.log.stopped(node.name, node.journal)

    def emptied(self, node: SimNode) -> None:
        """A machine has lost its directory, on purpose."""
        self.log.emptied(node.name)
        self.model.emptied(node.name)

    def checkpointed(self, node: SimNode, index: int) -> None:
        """A store is at ``index``: its journal can't lose that any more."""
        if node.journal.durable_index < index:
            raise ViolationError(
                "store",
                f"{node.name} stores entry {index}, its journal is durable to {node.journal.durable_index}",
            )

    def appended(self, node: SimNode, index: int, term: int, payload: bytes, before: int | None) -> None:
        """A journal has got an entry."""
        self.log.appended(node.name, index, term, payload, before)
        if self._members is not None and payload[0] == EntryType.MEMBERSHIP:
            self._members.appended(index, term, payload[1:])

    def started(self, node: SimNode) -> None:
        """A process knows nothing of the commit index of the one before it; its log is what it was."""
        self._commits.pop(node.name, None)
        self.log.reopened(node.name, node.journal)

    def proposed(self, node: SimNode, index: int, payload: bytes) -> None:
        """A leader has stamped an entry."""
        self._proposed[index, payload] = (self._world.now, node, node.life, node.knows_time)
        for fields in decode_entry(payload).leader_commands:
            command = decode_leader_command(fields)
            if isinstance(command, NewTerm):
                known = self._elected_with.get(command.term, 0)
                if command.known_commit < known:
                    raise ViolationError("take-over", f"{node.name} knew entry {known} to be committed")

    def applying(self, node: SimNode, index: int, payload: bytes) -> None:
        """Every node applies the same entry at the same index."""
        if self._entries.setdefault(index, payload) != payload:
            raise ViolationError("state machine safety", f"{node.name} applies another entry at {index}")

    def applied(self, node: SimNode, payload: bytes, effects: Effects, state: State) -> None:
        """Who applies the same entry does the same, and comes to the same state."""
        index = effects.index
        known = self._effects.get(index)
        if known is None:
            if index <= self.reference.applied:
                raise ViolationError("state machine safety", f"entry {index} was never applied in its place")
            self._effects[index] = effects
            self.deliveries.decided(index)
            self._check_time(index, payload)
            self.reference.entry(index, payload, effects, state)
            self._check_lateness()
            self._check_acks_that_waited(index, payload)
            self._check_cold_start(index, payload)
            self._check_unreachable(effects)
            if self._world.trace is not None:
                self._world.note(
                    f"entry {index}, first applied by {node.name}: {self.reference.summary(payload, effects)}"
                )
        elif known != effects:
            raise ViolationError("state machine safety", f"{node.name} decides otherwise in entry {index}")
        if index % DIGEST_EVERY == 0:
            self._same_state(node, index, state)

    def installing(self, node: SimNode, index: int, state: State) -> None:
        """A snapshot holds what everybody had after that entry."""
        self._world.counts["states compared"] += 1
        if state.applied in self._digests:
            self._same_state(node, state.applied, state)

    def _same_state(self, node: SimNode, index: int, state: State) -> None:
        found = digest(state)
        if self._digests.setdefault(index, found) != found:
            raise ViolationError("state machine safety", f"{node.name} has another state after entry {index}")

    def _check_time(self, index: int, payload: bytes) -> None:
        """Cluster time elapses as real time does; what it loses when leaders change is little (R11, R12)."""
        stamped = self._proposed.get((index, payload))
        if stamped is None:
            raise ViolationError("log", f"nobody proposed entry {index}")
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
        """While nothing is broken a redelivery happens when it is due (R20)."""
        for index, seq, late_ns, inbox in self.reference.redeliveries:
            if late_ns > LATE_S * 1e9 and not self._cluster.troubled_since(self._world.now - late_ns / 1e9):
                raise ViolationError(
                    "AckWait", f"entry {index} sends {seq} to {inbox} again {late_ns / 1e9:.3f} s late"
                )

    def _check_acks_that_waited(self, index: int, payload: bytes) -> None:
        """What was acknowledged while nobody led is not sent again by its term (R9).

        However much was held: entries of the term may be many before the one that has the ack.
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
            came = self._acks_came.get((inbox, seq))
            if came is None or (waited_s >= OPENING_WAIT_S and not came.has_session):
                continue
            node = came.node
            awake = node.up and node.life == came.life and not node.paused and node.resumed_s < came.at_s
            if awake and came.at_s < at_s - ACK_WAITED_S:
                raise ViolationError(
                    "take-over",
                    f"entry {index} sends {seq} to {inbox}, whose ack came to {node.name} at {came.at_s:.3f}",
                )

    def died(self) -> None:
        """A process has. When none is left nobody knows any more what was sent (R14)."""
        if not any(node.up for node in self._cluster.nodes):
            self._nobody_left_s = self._world.now

    def _check_cold_start(self, index: int, payload: bytes) -> None:
        at_s = self._proposed[index, payload][0]
        if self._nobody_left_s is None or at_s < self._nobody_left_s:
            return
        leader_commands = [decode_leader_command(fields) for fields in decode_entry(payload).leader_commands]
        if any(isinstance(command, NewTerm) for command in leader_commands):
            self._nobody_left_s = None
            if not any(isinstance(command, ColdStart) for command in leader_commands):
                raise ViolationError("cold start", f"entry {index} takes over where everybody was down")

    def _check_unreachable(self, effects: Effects) -> None:
        """Nothing is sent to a client that left for good a while ago (R15)."""
        if self._cluster.adversary.nodes_troubled_until_s > self._world.now - UNREACHABLE_WITHIN_S:
            return
        for deliver in effects.deliveries:
            client = self._cluster.client(self.reference.members[deliver.subscription].client)
            if (
                client is not None
                and client.dead
                and client.noticed_s < self._world.now - UNREACHABLE_WITHIN_S
            ):
                raise ViolationError(
                    "absent", f"entry {effects.index} sends something to {client.name}, who is dead"
                )

    # --- what nodes do ----------------------------------------------------------------------------

    def delivering(self, node: SimNode, connection: Connection, subject: bytes, payload: bytes) -> None:
        """A message is turned into bytes for a client: it is still to be had (R3)."""
        found = self.reference.by_inbox.get(subject.decode())
        if found is None:
            return
        self.deliveries.handed(connection, subject, payload)
        message = decode_message(payload)
        seq = message.seq
        if self._world.trace is not None:
            count = f" again ({message.redelivery_count})" if message.redelivered else ""
            inbox = subject.decode().removeprefix("_INBOX.")
            self._world.note(f"{node.name} at entry {node.state.applied} sends {inbox} {seq}{count}")
        acked_in = self.reference.groups[found[1]].acked.get(seq)
        if acked_in is not None and acked_in <= node.state.applied:
            raise ViolationError(
                "acks", f"{node.name} delivers {seq} to {subject.decode()}, acknowledged in entry {acked_in}"
            )

    def wrote(self, connection: Connection) -> None:
        """All that was put into a connection's outbox is in its socket."""
        self.deliveries.wrote(connection)

    def ack_came(self, node: SimNode, inbox: str, seq: int) -> None:
        """A client's ack has reached its node.

        A process that has no session yet, because nobody has led since it was started, can forward it only
        when its session is in the log: R9 waits for that too, but no longer than `OPENING_WAIT_S`.
        """
        has_session = node.replica.origin.session is not None
        if not has_session:
            self._world.counts["acks before the first session"] += 1
        self._acks_came[inbox, seq] = AckCame(self._world.now, node, node.life, has_session)

    # --- what clients see -------------------------------------------------------------------------

    def stored(self, client: SimClient, guid: str, error: str) -> None:
        """A publish was answered: once, and it is in the log, or its client has been closed; and soon.

        Soon, also if a hostile client does its worst meanwhile.
        """
        if guid in client.stored or guid in client.refused or guid not in client.published:
            raise ViolationError("one answer", f"{client.name} got another answer for {guid}")
        sent_s = client.published_s[guid]
        if self._world.now - sent_s > ANSWERED_S and not self._cluster.troubled_since(sent_s):
            raise ViolationError(
                "answers", f"{client.name}: {guid} was answered {self._world.now - sent_s:.3f} s late"
            )
        if not error and self.reference.stored.get(guid.encode()) != client.published[guid]:
            raise ViolationError("durability", f"{guid} was acknowledged and is not in the log")
        if error == refusals.NO_LEADER:
            self._world.counts["publishes refused without a leader"] += 1
            self.reference.refused.add(guid.encode())
            if guid.encode() in self.reference.stored:
                raise ViolationError("refused", f"{guid} was refused for lack of a leader, and is stored")
        elif error and not client.closings:
            raise ViolationError("publish", f"{client.name}: {guid} was refused: {error}")

    def refused(self, client: SimClient, what: str, error: str) -> None:
        """A registration or subscription was refused."""
        self._world.counts["refusals"] += 1
        self._world.note(f"{client.name}: {what} refused: {error}")

    def received(self, client: SimClient, seen: Seen, message: Message) -> None:
        """A delivery: it was decided; flagged if it is not the first; its count never falls."""
        seq, reference = message.seq, self.reference
        where = f"{client.name}: message {seq}"
        log = reference.log(client.habits.channel)
        if seq >= len(log) or log[seq] != message.data:
            raise ViolationError("content", f"{where} is not what the log has")
        before = seen.messages.get(seq)
        if not message.redelivered:
            if before is not None:
                raise ViolationError("redelivered flag", f"{where} came again without its flag")
            if seq <= seen.highest_new:
                raise ViolationError("order", f"{where} came as new after {seen.highest_new}")
        if bool(message.redelivery_count) != message.redelivered:
            raise ViolationError("redelivery count", f"{where} with count {message.redelivery_count}")
        if before is not None and message.redelivery_count <= before.redeliveries:
            raise ViolationError("redelivery count", f"{where} came again with the same count")
        since_s = self._world.now - client.habits.ack_wait_s - LOST_S
        if (
            message.redelivered
            and before is None
            and not client.habits.queue
            and message.redelivery_count == 1
        ):
            alone = client.connected_s < since_s and not client.habits.durable
            if alone and not self._cluster.troubled_since(since_s):
                raise ViolationError("delivery", f"{where} came only when it was sent again")

    # --- the end ----------------------------------------------------------------------------------

    def expect_leader(self) -> None:
        """Everything healed a while ago."""
        if not any(node.ready for node in self._cluster.nodes):
            raise ViolationError("liveness", f"no leader {LEADER_WITHIN_S} s after everything has healed")

    @property
    def converged(self) -> bool:
        """All nodes have applied the same; clients have, and have acknowledged, everything."""
        nodes = self._cluster.sound
        if not all(node.up for node in nodes) or len({node.engine.applied_index for node in nodes}) > 1:
            return False
        return not self._complaints()

    def _complaints(self) -> list[tuple[str, str]]:
        return [*self._undelivered(), *self._unacked(), *self._unanswered()]

    def finish(self) -> None:
        """Everything has healed and been quiet: what was promised is there, and everywhere."""
        nodes = self._cluster.sound
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
            return  # it may notice any moment
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
            for sub in self._cluster.sound[0].state.subscriptions.values()
            if sub.unacked and sub.inbox in living
        ]

    def _unanswered(self) -> list[tuple[str, str]]:
        return [
            ("liveness", f"{client.name} is not {'subscribed' if client.registered else 'registered'}")
            for client in self._cluster.clients
            if not client.dead
            and not (client.registered and (client.subscribed or not client.habits.subscribes))
        ]
