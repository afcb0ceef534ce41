"""The part of a node that does no I/O: it applies entries, executes effects and forwards requests.

`Replica` connects the parts. The consensus engine calls it with committed entries, changes of role and the
heartbeat payloads of its messages. The streaming service gives it the requests of clients. Frames of peers
arrive as values. ``pump`` does what is due and returns when to call it again. The driver in ``server.node``
and the simulator run the same object.

Rules kept here: R9 and R14 (a leader's first entry), R8 (refusals without a leader).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from node.core import refusals
from node.core.commands import ClientReachable, InitCluster, LeaderCommand, RecoverCluster, Tick
from node.core.effects import ClientOpened, Effects, Refused, Replies, SubscriptionOpened
from node.core.machine import Machine
from node.core.state import State
from node.core.versions import too_new
from node.errors import CorruptionError, RemoteProtocolError, UnavailableError
from node.protocol.peer import shown
from node.raft.membership import Membership
from node.server import proposer, read_index
from node.server.administration.asking import Asking
from node.server.backpressure import Backpressure
from node.server.clock import ClusterClock, WallClock
from node.server.clock_duty import ClockDuty
from node.server.divergence import DivergenceCheck
from node.server.effect_executor import TIME_UNKNOWN_NS, EffectExecutor, Messages
from node.server.leader_duties import LeaderDuties
from node.server.losses import Losses
from node.server.low_space import LowSpace
from node.server.maintenance import Maintenance
from node.server.membership import reconfiguration as membership
from node.server.membership.reconfiguration import Neighbours, NoNeighbours, Reconfigurer
from node.server.origin import Origin
from node.server.presence import Presence
from node.server.proposer import Proposer
from node.server.read_index import ReadIndex
from node.server.requests import Requests
from node.server.routing_interface import NodeRouting
from node.server.steps import ends
from node.server.streaming import Streaming, Subjects
from node.server.system import System
from node.units import SECOND, Index

log = logging.getLogger("stanchion.node")

NEVER = float("inf")

HOLD_S = 5.0
"""How long requests are kept while no leader is reachable, before they are refused (R8). Below the 30 s after
which clients give up on a publish, and above the time of an election on a busy machine."""

HOLD_ALONE_S = 0.75
"""Like ``HOLD_S``, while this node has no links to a majority: then no leader can be elected. Below 1 s, the
shortest time after which clients publish again."""


class Engine(read_index.Engine, proposer.Engine, membership.Engine, Protocol):
    """The consensus engine, as the replica and its parts need it."""

    @property
    def is_changing(self) -> bool: ...


class Serving(Protocol):
    """The agreement on which node serves clients of an external NATS server."""

    def told(self, term: int, group: int, *, is_subscribed: bool) -> None: ...
    def peer_up(self) -> None: ...


class Replica:
    """The part of a node without I/O.

    Args:
        node: this node's name.
        subjects: the subjects of the streaming service.
        state: the state restored from the store.
        messages: payloads by channel and sequence.
        routing: cluster-wide routing of subjects.
        host: the clocks and random numbers of this machine.
        send: sends a value to a member over the raft link; False if the link is down.
        kick: requests a ``pump`` soon.
        bootstrapped: called when the cluster has its identity.
        caught_up: called when clients may be served.
        changed: called after a change of role, term or leader.
        election_min_s: the minimum election timeout; a gap of half of it or more counts (R4).
        max_clock_offset_ns: maximum distance of this machine's wall clock from the cluster's median (R13).
        neighbours: is notified of the members.
        recovered: the new and the old cluster UUID, if the data of a cluster is recovered here.
    """

    def __init__(
        self,
        node: str,
        subjects: Subjects,
        state: State,
        messages: Messages,
        *,
        routing: NodeRouting,
        host: System,
        send: Callable[[str, Any], bool],
        kick: Callable[[], None],
        bootstrapped: Callable[[State], None],
        caught_up: Callable[[], None],
        changed: Callable[[], None],
        election_min_s: float,
        max_clock_offset_ns: int = 10 * SECOND,
        neighbours: Neighbours | None = None,
        recovered: tuple[str, str] | None = None,
    ) -> None:
        self.node = node
        self.machine = Machine(state)
        self.host = host
        self.clock = ClusterClock(host.monotonic_ns)
        self.wall_clock = WallClock(
            host.monotonic_ns, host.wall_clock_ns, max_clock_offset_ns, boot_ns=host.boot_ns
        )
        self.clock.seen(state.time_ns)
        self.wall_clock.seen(state.timestamp_ns, state.time_ns)
        self.routing = routing
        self._send = send
        self._kick = kick
        self._bootstrapped = bootstrapped
        self._notify_caught_up = caught_up
        self._notify_changed = changed
        self.engine: Engine
        self.origin = Origin(node, self._forward, host.random_bytes)
        self.origin.version = lambda: self.state.version
        self.requests = Requests(routing, host, kick)
        self.presence = Presence(routing, self.clock.now)
        self.executor = EffectExecutor(
            self._state,
            messages,
            receivers=routing.local_receivers,
            reply=self.origin.applied,
            clock=host.monotonic_s,
        )
        self.losses = Losses(
            node,
            host.wall_clock_ns() // 1000,  # as epochs of connections begin
            take=self.executor.report,
            is_busy=lambda: self.executor.progress.is_busy,
            links_up=lambda: self.links_up,
            send=send,
        )
        self.streaming = Streaming(
            subjects,
            state=self._state,
            origin=self.origin,
            routing=routing,
            requests=self.requests,
            clock=self.clock,
            leader_known=lambda: self.leader_known,
            client_pinged=self._client_pinged,
            nuid=host.nuid,
        )
        self.streaming.answer_behind = self.executor.answer_behind
        self.executor.send_answer = self.streaming.send_now
        self.proposer: Proposer
        self.duties: LeaderDuties | None = None
        self.role = "follower"
        self.term = 0
        self.leader: str | None = None
        self.links_up: set[str] = set()
        self.low_space = LowSpace(
            node,
            lambda: self.membership.voters if self.membership is not None else (),
            send=send,
            refuse=self._refuse_publishes,
        )
        self.read_index = ReadIndex(
            links_up=self.links_up,
            send=send,
            monotonic_s=host.monotonic_s,
            gap_s=election_min_s / 2,
            lag_s=election_min_s,
            bootstrapped=lambda: bool(self.state.cluster_tag),
            held=self._held,
            caught_up=self._now_caught_up,
        )
        self.neighbours: Neighbours = neighbours or NoNeighbours()
        self.membership: Membership | None = None
        self._membership_index = 0
        self.divergence = DivergenceCheck(
            node,
            voters=lambda: self.membership.voters if self.membership is not None else (),
            peers=lambda: self.links_up,
            send=send,
        )
        self.divergence.applied(state)
        self.asking = Asking(node, send, int.from_bytes(host.random_bytes(6)))
        self.reconfiguration: Reconfigurer
        self._attached = False
        self._recovered = recovered
        self._members_that_served: dict[str, bool] = {}
        self._opened_ready = False
        self._scan_begun_s = 0.0
        self._scanned_all_s = 0.0
        self._scan_job: Iterator[None] | None = None
        self._neighbours_checked_s = 0.0
        self.leaderless_since_s: float | None = host.monotonic_s()
        self._has_caught_up = False
        self._unreached_since_s: float | None = host.monotonic_s()  # since when no leader takes requests
        self._bootstrap = ""
        self.needs_snapshot_from: Callable[[str], None] | None = None
        self.serving: Serving | None = None
        """Set if clients connect to an external NATS server: decides which node serves them."""
        self.backpressure = Backpressure(
            self.origin,
            stuck=self.executor.stuck,
            set_stuck=routing.set_stuck,
            kick=kick,
            is_held_up=routing.is_held_up,
        )
        self._ticked_s = 0.0
        routing.on_interest_change = self._interest_changed

    def attach(self, engine: Engine) -> None:
        """Set the engine. It is created after the replica, because it calls the replica."""
        self.engine = engine
        self.read_index.attach(engine)
        self.proposer = Proposer(
            engine,
            self._state,
            self.clock,
            self.wall_clock,
            bootstrap_commands=self._bootstrap_commands,
            answer=self._to_origin,
        )
        self.maintenance = Maintenance(
            self.node,
            self.machine.version,
            self._state,
            self.wall_clock,
            members=lambda: self.membership.names if self.membership is not None else (),
            propose=self.proposer.propose_command,
        )
        self.reconfiguration = Reconfigurer(
            self.node,
            engine,
            self.proposer,
            directory=self.neighbours.directory_of,
            check_address=self.neighbours.check_address,
            kick=self._kick,
        )
        self.asking.register("cluster.add", self.reconfiguration.add)
        self.asking.register("cluster.join", self.reconfiguration.join)
        self.asking.register("cluster.remove", self.reconfiguration.remove)
        self.asking.register("cluster.members", self.reconfiguration.view)
        self.clock_duty = ClockDuty(
            self.node, engine, self.proposer, self._state, self.clock, self.wall_clock
        )
        self.asking.register("cluster.clock", self.clock_duty.show)
        if self.membership is not None:
            self.reconfiguration.in_force = self.membership
            if not engine.is_changing:
                self.reconfiguration.committed, self.reconfiguration.committed_index = (
                    self.membership,
                    self._membership_index,
                )
                self.neighbours.membership_settled(self.membership, Index(self._membership_index))
        self._attached = True
        self._check_bootstrapped()

    def _state(self) -> State:
        return self.machine.state

    @property
    def state(self) -> State:
        """The replicated state, for reading only. It is another object after a snapshot."""
        state: State = self.machine.state
        return state

    @property
    def caught_up(self) -> bool:
        """True if clients may be served and effects are executed (R4)."""
        return self.read_index.done

    @property
    def has_majority_linked(self) -> bool:
        """True if this node is linked to a majority of the voters, itself included, or has no voters yet.

        Without a majority nothing can be committed.
        """
        voters = self.membership.voters if self.membership is not None else ()
        up = sum(name == self.node or name in self.links_up for name in voters)
        return not voters or 2 * up > len(voters)

    @property
    def is_serving(self) -> bool:
        """Whether this node leads and has applied the first entry of its term."""
        return self.duties is not None

    @property
    def leader_known(self) -> bool:
        """Whether a leader is known and this node has caught up with it."""
        return self.leader is not None and self.caught_up

    # --- called by the engine ---------------------------------------------------------------------

    def apply(self, index: int, term: int, payload: bytes) -> None:
        """Apply one committed entry and execute the effects that concern this node."""
        effects = self.machine.apply(Index(index), payload)
        state = self.machine.state
        self.clock.seen(state.time_ns)
        self.wall_clock.seen(state.timestamp_ns, state.time_ns)
        for warning in effects.warnings:
            log.warning("%s", warning.text)
        if effects.sessions:
            self.executor.order.flush()  # outcomes of a session that may end here
        for opened in effects.sessions:
            self.origin.opened(opened)
        self.executor.execute(effects)
        self._applied_own()
        self._notice_clients(effects)
        if effects.began_term is not None:
            self.losses.began_term(state.time_ns, effects.began_term, index)
        if effects.opened and self.streaming.unknown_acks:
            for ack_inbox in _subscriptions_opened(effects.opened):
                self.streaming.opened(ack_inbox)
        if effects.returned:
            self.presence.acted(effects.returned, state.time_ns)
        if state.cluster_uuid != self._bootstrap:
            self._check_bootstrapped()
        self.read_index.applied_batch(index)
        self.applied_to(index, term)
        self.divergence.applied(state)

    def membership_changed(self, membership: Membership, index: Index) -> None:
        """Note the membership in force; it may not be committed. First called before `attach`."""
        self.membership, self._membership_index = membership, index
        self.wall_clock.voters_are(membership.voters)
        for peer in self._members_that_served.keys() - {*membership.names}:
            del self._members_that_served[peer]
        self.divergence.forget(membership.names)
        self.losses.forget(membership.names)
        self.neighbours.membership_changed(membership, index)
        if self._attached:
            self.reconfiguration.changed(membership)

    def membership_committed(self, membership: Membership, index: Index) -> None:
        """Note that a membership is committed."""
        self.reconfiguration.is_committed(membership, index)
        self.neighbours.membership_committed(membership, index)

    def member_left(self, name: str) -> None:
        """Close the links to a removed member."""
        self.neighbours.member_left(name)

    def applied_to(self, index: int, term: int) -> None:
        """Note that everything up to ``index`` is applied, the engine's own entries included."""
        self.proposer.applied(index)
        if self.duties is not None:
            self.duties.applied()
        self.read_index.applied_to(index, term)

    def needs_snapshot(self, peer: str) -> None:
        """Offer a snapshot to ``peer``: the log no longer has the entries it needs (``snapshots``)."""
        if self.needs_snapshot_from is not None:
            self.needs_snapshot_from(peer)

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        """Log that a member lacks entries it acknowledged, and send it that."""
        log.critical(
            "node %s acknowledged entry %d, but its log ends at %d: its disk loses data; replace the node",
            peer, acknowledged, last,
        )  # fmt: skip
        self._send(peer, ("lost", acknowledged, last))

    def role_changed(self, role: str, term: int, leader: str | None, cause: str) -> None:
        """Handle a change of the engine's role, term or leader."""
        log.info("role %s term %d leader %s: %s", role, term, leader or "none", cause)
        led_before = self.role == "leader" and self.term == term
        leads = role == "leader"
        self.role, self.term, self.leader = role, term, leader
        if not (leads and led_before):
            self._stop_leading()
            if leads:
                self.clock.lead(term)
                self.proposer.lead(term)
                self._opened_ready = False
            else:
                self.clock.follow()
        self.read_index.role_changed(term, leader, still_leads=leads and led_before)
        self.leaderless_since_s = None if leader else self.host.monotonic_s()
        self._notify_origin()
        self._notify_changed()

    def leader_payload(self) -> Any:
        """Return the heartbeat payload that this node, as leader, attaches to every append (R12, R13)."""
        return (self.clock.now(), self.wall_clock.median())

    def follower_payload(self) -> Any:
        """Return the payload of every answer to a leader or candidate (R12, R13, R14)."""
        return (self.wall_clock.reading(), self.read_index.has_served, self.clock.time_and_term())

    def leader_payload_received(self, peer: str, payload: Any) -> None:
        """Handle the heartbeat payload of a live frame of the current leader."""
        match payload:
            case (int(time_ns), int(median_ns)):
                before_ns = self.clock.now()
                self.clock.received(time_ns, self.engine.term)
                if (by_ns := before_ns - self.clock.now()) > 0:
                    self.executor.time_went_back(by_ns, self.engine.term)
                self.wall_clock.received(median_ns)
            case _:
                log.warning("%s: malformed heartbeat payload: %s", peer, shown(payload))
        self.read_index.leader_frame()

    def follower_payload_received(self, peer: str, payload: Any) -> None:
        """Handle the payload of a member's answer: its wall clock, whether it has served, its last cluster
        time.
        """
        match payload:
            case (int(wall_clock_ns), bool(has_served), None | (int(), int()) as time_and_term):
                self.wall_clock.report(peer, wall_clock_ns)
                if time_and_term is not None and time_and_term[1] < self.engine.term:
                    self.clock.offered(*time_and_term)
                if self.membership is None or self.membership.get(peer) is not None:
                    self._members_that_served[peer] = has_served
            case _:
                log.warning("%s: malformed heartbeat payload: %s", peer, shown(payload))

    def commit_learned(self, commit: int, _term: int) -> None:
        """Note the commit index of the leader of the current term."""
        self.read_index.commit_learned(commit)

    # --- called by the shell ----------------------------------------------------------------------

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """Note that the raft link to a member is up."""
        self.links_up.add(peer)
        self.low_space.peer_up(peer, hello)
        self.maintenance.peer_up(peer, hello)
        self.divergence.peer_up(peer)
        if self._sends_progress:
            self.losses.peer_up(peer)
        if self.serving is not None:
            self.serving.peer_up()
        if peer == self.leader:
            self._notify_origin()
            self.read_index.ask()
        elif self._unreached_since_s is not None and self.leader == self.node:
            self._notify_origin()

    def peer_down(self, peer: str) -> None:
        """Note that the raft link to a member broke. Lost frames are sent again when it is back."""
        self.links_up.discard(peer)
        self.low_space.peer_down(peer)
        if peer == self.leader or (self.leader == self.node and not self.has_majority_linked):
            self._notify_origin()

    def frame(self, peer: str, value: Any) -> None:
        """Handle a frame of another member that is not the engine's (``origin`` lists some of them).

        Raises:
            RemoteProtocolError: the frame is unknown or malformed.
            CorruptionError: this node's disk has lost entries, so it must stop.
        """
        match value:
            case ("batch", int(), (int(), int()), int(first), int(last), int(), bytes()) if first <= last:
                self.proposer.frame(peer, value)
            case ("open", int(), bytes()) | ("held", int(), None | (int(), int()), int()):
                self.proposer.frame(peer, value)
            case ("again", int(term), int(serial)):
                self.origin.resend(term, serial)
            case ("serving", int(term), int(group), bool(is_subscribed)):
                if self.serving is not None:  # else this node's clients connect to it
                    self.serving.told(term, group, is_subscribed=is_subscribed)
            case ("pinged", str(client_id)):
                if self.duties is not None:
                    self.duties.heartbeats.pinged(client_id)
            case ("where", int(question)):
                self.read_index.asked(peer, question)
            case ("here", int(question), int(term), int(commit)):
                self.read_index.answered(peer, question, term, commit)
            case ("ask" | "told", *_):
                self.asking.frame(peer, value)
            case ("state", list(milestones) | tuple(milestones)):
                self.divergence.frame(peer, milestones)
            case ("space", bool(is_low)):
                self.low_space.received(peer, is_low=is_low)
            case ("written", *report):
                self.losses.received(peer, report)
            case ("lost", int(), int()) if peer != self.leader:
                log.warning("%s reports that this node lost entries, but is not the leader: ignored", peer)
            case ("lost", int(acknowledged), int(last)) if acknowledged <= self.engine.last_index:
                # Nothing was resent before this frame, so the log was never that short: an old refusal.
                log.warning("%s reports that this node's log ends at %d, which is wrong: ignored", peer, last)
            case ("lost", int(acknowledged), int(last)):
                raise CorruptionError(
                    f"this node acknowledged entry {acknowledged} to the leader {peer}, but its log ends at "
                    f"{last}: the disk has lost entries, so the node must not vote or serve. Check the disk, "
                    "and replace the node: "
                    f"stanchion cluster replace {self.node} NEW"
                )
            case _:
                raise RemoteProtocolError(f"{peer}: unknown or malformed frame: {shown(value)}")

    def _refuse_publishes(self, why: str) -> None:
        self.streaming.publishes_refused = why

    def paused(self, gap_s: float) -> None:
        """Deliver nothing before this node has caught up: its process was suspended for ``gap_s`` (R4)."""
        self.requests.paused(gap_s)
        self.read_index.hold()
        self.proposer.hold_redelivery(self.host.monotonic_s())
        if self.role == "leader" and self._opened_ready:
            # It may not lead any more without knowing it. If a new entry is committed, it still leads.
            self.read_index.prove()
            self.proposer.propose_command(Tick(self.term))

    def read_done(self, connection: Any) -> None:
        """Forward the requests of one read. Stop reading if too much is unapplied (R8, R21)."""
        if self._has_caught_up:
            self.executor.accepted(connection, self.clock.now())
        else:  # this node serves core NATS without a leader (R25), and doesn't have the cluster's time yet
            self.executor.accepted(connection, TIME_UNKNOWN_NS)
        self.routing.flush()
        self.streaming.read_done()
        self.backpressure.read_done(connection)
        if self.routing.works:
            self._kick()

    @property
    def takes_requests(self) -> bool:
        """Whether a leader is reachable for requests of clients."""
        return self._unreached_since_s is None

    def asked(self) -> int:
        """Return the serial of the newest request that was read, for `is_answered`."""
        self.streaming.read_done()
        return self.origin.last_serial

    def is_answered(self, serial: int) -> bool:
        """Return True if the answers to all requests up to ``serial`` were given to their connections."""
        return (
            self.origin.lowest_waited > serial
            and not self.executor.order.waits
            and not self.streaming.holds_answers
        )

    def stop_requests(self, *, others_take_over: bool) -> None:
        """Prepare requests for the end of this node: later answers go to clients at other nodes, if there are
        any; otherwise later requests are refused.

        Args:
            others_take_over: clients can move to other nodes, and there is a leader.
        """
        if others_take_over:
            self.streaming.expect_moves()
        else:
            self.origin.refuse(Refused(refusals.STOPPING))
            self.origin.refuse_new(Refused(refusals.STOPPING))

    def streaming_connections(self) -> list[Any]:
        """Return the connections of this node on which registered clients receive heartbeats."""
        found: dict[Any, None] = {}
        for client in self.state.clients.values():
            inbox = client.heartbeat_inbox.encode()
            for subscription in self.routing.matching(inbox):
                if subscription.subject == inbox:
                    found[subscription.connection] = None
        return list(found)

    def drained(self, connection: Any) -> None:
        """Continue deliveries to a client's connection: it is writable again."""
        self.executor.drained(connection)

    def wrote(self, connection: Any) -> None:
        """Check waiting answers: bytes were written to a client that they wait for."""
        self.executor.order.check()

    def closed(self, connection: Any) -> None:
        """Forget a client's connection: it has ended."""
        self.executor.forget(connection)
        self.streaming.closed(connection)
        self.backpressure.closed(connection)
        if self.routing.works:
            self._kick()

    def suspend(self) -> None:
        """Stop reading from the store: a snapshot is about to replace it."""
        self.read_index.suspend()

    def installed(self, state: State, messages: Messages, since: int) -> None:
        """Continue with the state of a snapshot. Before it, entries up to ``since`` were executed here."""
        self.executor.order.flush()
        self.machine = Machine(state)
        self.divergence.replaced()
        self.executor.replace(messages)
        self.clock.seen(state.time_ns)
        self.wall_clock.seen(state.timestamp_ns, state.time_ns)
        self._check_bootstrapped()
        session = state.sessions.get(self.node)
        if session is not None:
            self.origin.restored(session.id, session.nonce, session.applied, session.outcomes)
        self._notify_origin()
        self.streaming.replaced()
        self.read_index.resume()
        self.executor.redeliver_skipped(since)

    def pump(self) -> float:
        """Do what is due. Returns the latest time of the next call, on the driver's clock in seconds."""
        now_s = self.host.monotonic_s()
        self.requests.tick()
        self.executor.order.tick()
        self.backpressure.pump(now_s)
        self.routing.flush()
        work_s = self.routing.work() if self.routing.works else None
        if now_s - self._ticked_s >= 1.0:
            self._ticked_s = now_s
            self.routing.tick()
        asking_s = self.asking.pump(now_s)
        duties_s = self._pump_leader(now_s)
        if now_s - self._neighbours_checked_s >= 0.5:
            self._neighbours_checked_s = now_s
            self.neighbours.look()
        if self.duties is not None:
            self._scan_job = None  # leader duties scan the inboxes
        elif self._scan_job is None and now_s - self._scan_begun_s >= 0.5:
            self._scan_begun_s = now_s
            self._scan_inboxes(now_s)
        if self._scan_job is not None and ends(self._scan_job):
            self._scan_job = None
        self.backpressure.go_on()
        return min(
            now_s + (0.5 if self._scan_job is None else 0.0),
            self.requests.next_deadline() or NEVER,
            NEVER if work_s is None else now_s + work_s,
            now_s + self.backpressure.next_s,
            duties_s,
            asking_s,
            self.losses.pump(now_s) if self._sends_progress else NEVER,
            self.read_index.pump(now_s),
            self._pump_refusal(now_s),
            self.executor.order.next_deadline() or NEVER,
            self.proposer.next_deadline() or NEVER,
        )

    @property
    def _sends_progress(self) -> bool:
        """True if every member supports the frame: it came with the commands that need it (R24)."""
        return not too_new(ClientReachable, self.state.version)

    def _pump_leader(self, now_s: float) -> float:
        """Do the work of a leader. Returns when to call this again."""
        if self.role != "leader" or not self.engine.is_ready:
            return NEVER
        if not self._opened_ready:
            self._opened_ready = True
            log.info("ready to lead term %d", self.term)
            self.clock.adopt(self.state.term)
            cold = not self.read_index.has_served and not any(self._members_that_served.values())
            self.proposer.ready(now_s, {self.node, *self.links_up}, cold=cold)
        duties_s = self.duties.pump() if self.duties is not None else NEVER
        try:
            self.proposer.pump(now_s)
        except UnavailableError:
            log.info("no longer the leader: queued requests will be forwarded to the next leader")
            return NEVER
        if self.duties is None and self.proposer.serving:
            self._start_duties()
            return now_s
        if self.duties is None:
            return duties_s
        self.maintenance.pump(now_s, self.term)
        self.clock_duty.pump(now_s, self.term)
        return min(duties_s, self.reconfiguration.pump(now_s))

    def _start_duties(self) -> None:
        """Start the leader duties: the first entry of this term is applied."""
        self.duties = LeaderDuties(
            self._state,
            propose=self.proposer.propose_command,
            presence=self.presence,
            complete=lambda: all(self.routing.complete(peer) for peer in self.links_up),
            requests=self.requests,
            clock=self.clock,
            wall_clock=self.wall_clock,
            monotonic_s=self.host.monotonic_s,
            term=self.term,
            sees_connections=self.routing.sees_connections,
            is_member=lambda node: node in self.reconfiguration.names,
            losses=self.losses,
            linked=self.links_up,
            node=self.node,
        )
        if self._recovered is not None and self.state.cluster_uuid == self._recovered[1]:
            self.proposer.propose_command(RecoverCluster(self.term, *self._recovered))
        self._notify_asking()
        self.read_index.first_entry_applied()
        self._notify_changed()

    def _stop_leading(self) -> None:
        self.proposer.follow()
        if self.duties is not None:
            self.duties.stop()
            self.duties = None
            self.reconfiguration.stop()

    # --- inside -----------------------------------------------------------------------------------

    def _scan_inboxes(self, now_s: float) -> None:
        """Keep the presence of inboxes current on a follower: it may be the next leader."""
        if now_s - self._scanned_all_s < self.presence.pause_s(0.5):
            self._scan_job = self._scan_each(self.presence.take_changed())
            return
        self._scanned_all_s = now_s
        state = self.state
        self._scan_job = self.presence.scan_in_steps(
            [client.heartbeat_inbox for client in state.clients.values()]
            + [sub.inbox for sub in state.subscriptions.values() if sub.online]
        )

    def _scan_each(self, inboxes: Iterable[str]) -> Iterator[None]:
        for inbox in inboxes:
            self.presence.scan_one(inbox)
            yield

    def _held(self) -> None:
        self.executor.held = True
        self.streaming.hold()

    def _now_caught_up(self) -> None:
        if not self._has_caught_up:
            self._has_caught_up = True
            self.executor.learn_time(self.clock.now())
            self.presence.learn_time(self.clock.now())
        self.executor.resume(self._resume_answers)
        self._notify_caught_up()

    def _resume_answers(self) -> None:
        if not self.executor.held:  # else this node has begun to catch up once more
            self.streaming.resume()

    @property
    def _is_member(self) -> bool:
        return self.membership is None or self.membership.get(self.node) is not None

    def _applied_own(self) -> None:
        session = self.machine.state.sessions.get(self.node)
        if session is not None and session.id == self.origin.session:
            self.origin.applied_to(session.applied)
        elif session is None and self.origin.session is not None and self._is_member:
            self.executor.order.flush()
            self.origin.ended()  # the leader ended it: this node was removed, and is a member again

    def _notice_clients(self, effects: Effects) -> None:
        if not effects.opened:
            return
        self.presence.dirty = True
        if self.duties is not None:
            for client_id in _clients_opened(effects.opened):
                self.duties.opened(client_id)

    def _interest_changed(self, node: str, changes: Iterable[Any]) -> None:
        self.presence.changed(node, changes)
        if self.streaming.moving is not None:
            self.streaming.moving.interest_changed()

    def _bootstrap_commands(self, term: int) -> list[LeaderCommand]:
        """Return the first commands in the log of a new cluster."""
        init = InitCluster(term, self.host.nuid(), self.host.nuid())
        return [init, *self.maintenance.raise_version(term)]

    def _check_bootstrapped(self) -> None:
        state = self.machine.state
        if state.cluster_uuid == self._bootstrap:
            return
        self._bootstrap = state.cluster_uuid
        if self._recovered is not None and state.cluster_uuid == self._recovered[0]:
            self._recovered = None  # the recovery is in the log now
        self.streaming.bootstrapped()
        self._bootstrapped(state)

    def _notify_origin(self) -> None:
        # Without a majority a leader keeps leading for a moment. Requests stay out of its log meanwhile.
        reached = self.has_majority_linked if self.leader == self.node else self.leader in self.links_up
        if not reached:
            self._unreached_since_s = self._unreached_since_s or self.host.monotonic_s()
        else:
            self._unreached_since_s = None
        self.origin.leader_changed(self.term if reached else None)
        self._notify_asking()

    def _pump_refusal(self, now_s: float) -> float:
        """Refuse requests if no leader was reachable for too long. Returns when to call this again."""
        if self._unreached_since_s is None or self.origin.refusal is not None:
            return NEVER
        due_s = self._unreached_since_s + (HOLD_S if self.has_majority_linked else HOLD_ALONE_S)
        if now_s < due_s:
            return due_s
        refused = self.origin.refuse(Refused(refusals.NO_LEADER))
        log.warning(
            "no leader for %.2f s: refusing streaming requests until there is one (%d were waiting)",
            now_s - self._unreached_since_s, refused,
        )  # fmt: skip
        return NEVER

    def _notify_asking(self) -> None:
        """Set the node that handles requests to the leader: this node only once it has leader duties."""
        leads = self.leader == self.node and self.duties is not None
        self.asking.leader_is(self.leader if leads or self.leader in self.links_up else None, self.term)

    def _forward(self, frame: tuple[Any, ...]) -> None:
        if self.leader == self.node:
            self.proposer.frame(self.node, frame)
            self._kick()
        elif self.leader is not None:
            self._send(self.leader, frame)

    def _to_origin(self, node: str, frame: tuple[Any, ...]) -> None:
        if node == self.node:
            self.origin.resend(frame[1], frame[2])
        else:
            self._send(node, frame)

    def _client_pinged(self, client_id: str) -> None:
        if self.duties is not None:
            self.duties.heartbeats.pinged(client_id)
            self._kick()  # the ping came over a client's connection, which doesn't wake the driver
        elif self.leader is not None and self.leader != self.node:
            self._send(self.leader, ("pinged", client_id))


def _clients_opened(opened: Iterable[Replies]) -> Iterable[str]:
    for replies in opened:
        for outcome in replies.others.values():
            if isinstance(outcome, ClientOpened):
                yield outcome.client_id


def _subscriptions_opened(opened: Iterable[Replies]) -> Iterable[str]:
    for replies in opened:
        for outcome in replies.others.values():
            if isinstance(outcome, SubscriptionOpened):
                yield outcome.ack_inbox
