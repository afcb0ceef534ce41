"""One node's share of the cluster, without I/O: entries in, effects out, requests on their way.

Here the parts meet. The consensus engine calls in with committed entries, changes of role and the
notes that travel on its messages; the streaming service hands over what clients ask; peers' frames
come in by value. ``pump`` does what is due and says when it wants to be called again. The driver in
``server.node`` and the simulator run the same object.

Rules held here: R9 and R14 (a leader's first entry), R8 (what is refused without a leader).
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
"""How long requests are kept while no leader is reached, before they are refused (R8). Below the 30 s after
which clients give up on a publish, and above what an election takes on a busy machine."""

HOLD_ALONE_S = 0.75
"""The same while this node is linked to fewer than a majority: then no leader can be elected. Below a second,
the shortest time after which clients are known to publish again."""


class Engine(read_index.Engine, proposer.Engine, membership.Engine, Protocol):
    """What is needed of the consensus engine: what the parts here need, each of which says so itself."""

    @property
    def is_changing(self) -> bool: ...


class Serving(Protocol):
    """What is needed to know of who serves behind an external NATS server."""

    def told(self, term: int, group: int, *, is_subscribed: bool) -> None: ...
    def peer_up(self) -> None: ...


class Replica:
    """The plain part of a node.

    Args:
        node: this node's name.
        subjects: of the streaming service.
        state: restored from the store.
        messages: payloads by channel and sequence.
        routing: subjects, cluster-wide.
        host: clocks and chance of this machine.
        send: sends a value to a member over the raft link; False if the link is down.
        kick: asks for a ``pump`` soon.
        bootstrapped: told once the cluster has its identity.
        caught_up: told when clients may be served.
        changed: told of another role, term or leader.
        election_min_s: the minimum election timeout; half of it is a gap that matters (R4).
        max_clock_offset_ns: how far this machine's wall clock may be from the cluster's median (R13).
        neighbours: told of the members.
        recovered: the founding id of a cluster whose data is recovered here, and that of the one it was.
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
        self.catch_up = ReadIndex(
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
        self._look_s = 0.0
        self._looked_at_all_s = 0.0
        self._look_job: Iterator[None] | None = None
        self._looked_around_s = 0.0
        self.leaderless_since_s: float | None = host.monotonic_s()
        self._has_caught_up = False
        self._unreached_since_s: float | None = host.monotonic_s()  # no leader that requests could go to
        self._bootstrap = ""
        self.needs_snapshot_from: Callable[[str], None] | None = None
        self.serving: Serving | None = None
        """Where clients connect to an external NATS server: which node serves them."""
        self.backpressure = Backpressure(
            self.origin,
            stuck=self.executor.stuck,
            set_stuck=routing.set_stuck,
            kick=kick,
            is_held_up=routing.is_held_up,
        )
        self._marked_s = 0.0
        routing.on_interest_change = self._interest_changed

    def attach(self, engine: Engine) -> None:
        """The engine is made after the replica, which it calls."""
        self.engine = engine
        self.catch_up.attach(engine)
        self.proposer = Proposer(
            engine,
            self._state,
            self.clock,
            self.wall_clock,
            found=self._found,
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
        """The replicated state, to read; it may be another object after a snapshot."""
        state: State = self.machine.state
        return state

    @property
    def caught_up(self) -> bool:
        """Clients may be served, and effects are performed (R4)."""
        return self.catch_up.done

    @property
    def has_majority_linked(self) -> bool:
        """Whether the links to a majority of the voters, this node included, are up."""
        voters = self.membership.voters if self.membership is not None else ()
        up = sum(name == self.node or name in self.links_up for name in voters)
        return 2 * up > len(voters)

    @property
    def is_serving(self) -> bool:
        """Whether this node leads and has applied the first entry of its term."""
        return self.duties is not None

    @property
    def leader_known(self) -> bool:
        """Whether this node leads, or hears one who does."""
        return self.leader is not None and self.caught_up

    # --- called by the engine ---------------------------------------------------------------------

    def apply(self, index: int, term: int, payload: bytes) -> None:
        """Apply one committed entry and perform what it asks of this node."""
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
        self.catch_up.applied_batch(index)
        self.applied_to(index, term)
        self.divergence.applied(state)

    def membership_changed(self, membership: Membership, index: Index) -> None:
        """Another membership is in force, perhaps not committed. Told of the first before `attach`."""
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
        """A membership stays."""
        self.reconfiguration.is_committed(membership, index)
        self.neighbours.membership_committed(membership, index)

    def member_left(self, name: str) -> None:
        """A removed member needs its links no more."""
        self.neighbours.member_left(name)

    def applied_to(self, index: int, term: int) -> None:
        """Everything up to ``index`` is applied, the engine's own entries included."""
        self.proposer.applied(index)
        if self.duties is not None:
            self.duties.applied()
        self.catch_up.applied_to(index, term)

    def needs_snapshot(self, peer: str) -> None:
        """The log no longer reaches back to what ``peer`` needs: it fetches one (``snapshots``)."""
        if self.needs_snapshot_from is not None:
            self.needs_snapshot_from(peer)

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        """A member lacks what it acknowledged."""
        log.critical(
            "node %s acknowledged entry %d and has only %d: its disk loses data; replace it",
            peer, acknowledged, last,
        )  # fmt: skip
        self._send(peer, ("lost", acknowledged, last))

    def role_changed(self, role: str, term: int, leader: str | None, cause: str) -> None:
        """The engine's role, term or known leader is another."""
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
        self.catch_up.role_changed(term, leader, goes_on_leading=leads and led_before)
        self.leaderless_since_s = None if leader else self.host.monotonic_s()
        self._notify_origin()
        self._notify_changed()

    def leader_payload(self) -> Any:
        """What this node, as leader, attaches to every append (R12, R13)."""
        return (self.clock.now(), self.wall_clock.median())

    def follower_payload(self) -> Any:
        """What this node attaches to every answer to a leader or candidate (R12, R13, R14)."""
        return (self.wall_clock.reading(), self.catch_up.has_served, self.clock.time_and_term())

    def leader_payload_received(self, peer: str, note: Any) -> None:
        """A live frame of the current leader came in."""
        match note:
            case (int(time_ns), int(median_ns)):
                before_ns = self.clock.now()
                self.clock.received(time_ns, self.engine.term)
                if (by_ns := before_ns - self.clock.now()) > 0:
                    self.executor.time_went_back(by_ns, self.engine.term)
                self.wall_clock.received(median_ns)
            case _:
                log.warning("%s: a note that says nothing: %s", peer, shown(note))
        self.catch_up.leader_known()

    def follower_payload_received(self, peer: str, note: Any) -> None:
        """An answer of a member says what its clock shows, whether it is warm, and what time it has heard."""
        match note:
            case (int(wall_clock_ns), bool(has_served), None | (int(), int()) as word):
                self.wall_clock.report(peer, wall_clock_ns)
                if word is not None and word[1] < self.engine.term:
                    self.clock.offered(*word)
                if self.membership is None or self.membership.get(peer) is not None:
                    self._members_that_served[peer] = has_served
            case _:
                log.warning("%s: a note that says nothing: %s", peer, shown(note))

    def commit_learned(self, commit: int, _term: int) -> None:
        """The leader of the current term has told its commit index."""
        self.catch_up.commit_learned(commit)

    # --- called by the shell ----------------------------------------------------------------------

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """The raft link to a member stands."""
        self.links_up.add(peer)
        self.low_space.peer_up(peer, hello)
        self.maintenance.peer_up(peer, hello)
        self.divergence.peer_up(peer)
        if self._tells_progress:
            self.losses.peer_up(peer)
        if self.serving is not None:
            self.serving.peer_up()
        if peer == self.leader:
            self._notify_origin()
            self.catch_up.ask()
        elif self._unreached_since_s is not None and self.leader == self.node:
            self._notify_origin()

    def peer_down(self, peer: str) -> None:
        """The raft link to a member broke: what it lost is sent again when it is back."""
        self.links_up.discard(peer)
        self.low_space.peer_down(peer)
        if peer == self.leader or (self.leader == self.node and not self.majority_linked):
            self._notify_origin()

    def frame(self, peer: str, value: Any) -> None:
        """Take a frame of another member that is not the engine's (``origin`` lists them).

        Raises:
            RemoteProtocolError: no such frame.
            CorruptionError: this node must not go on; it says why.
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
                self.catch_up.asked(peer, question)
            case ("here", int(question), int(term), int(commit)):
                self.catch_up.answered(peer, question, term, commit)
            case ("ask" | "told", *_):
                self.asking.frame(peer, value)
            case ("state", list(milestones) | tuple(milestones)):
                self.divergence.frame(peer, milestones)
            case ("space", bool(is_low)):
                self.low_space.told(peer, is_low=is_low)
            case ("written", *report):
                self.losses.received(peer, report)
            case ("lost", int(), int()) if peer != self.leader:
                log.warning("%s says that this node lost entries, and doesn't lead: ignored", peer)
            case ("lost", int(acknowledged), int(last)) if acknowledged <= self.engine.last_index:
                # Nothing was sent again before this frame, so the log was never that short: an old refusal.
                log.warning("%s takes this node's log to end at %d, and is wrong: ignored", peer, last)
            case ("lost", int(acknowledged), int(last)):
                raise CorruptionError(
                    f"node {peer} leads, and has this node's word for entry {acknowledged}, but its log ends "
                    f"at {last}: its disk has lost what was promised, so it must not vote or serve. Look "
                    "after the disk, and give the cluster another node in its place: "
                    f"stanchion cluster replace {self.node} NEW"
                )
            case _:
                raise RemoteProtocolError(f"{peer}: no frame of a server: {shown(value)}")

    def _refuse_publishes(self, why: str) -> None:
        self.streaming.publishes_refused = why

    def paused(self, gap_s: float) -> None:
        """This process did not run for a while: nothing is delivered before it has caught up (R4)."""
        self.requests.paused(gap_s)
        self.catch_up.hold()
        self.proposer.hold_redelivery(self.host.monotonic_s())
        if self.role == "leader" and self._opened_ready:
            # Still leading, for all this node knows: an entry that commits from now on proves it.
            self.catch_up.prove()
            self.proposer.propose_command(Tick(self.term))

    def read_done(self, connection: Any) -> None:
        """A client's read was handled: forward it; too much unapplied stops the reading (R8, R21)."""
        if self._has_caught_up:
            self.executor.accepted(connection, self.clock.now())
        else:  # it serves core NATS without a leader (R25), and can't know the cluster's time yet
            self.executor.accepted(connection, TIME_UNKNOWN_NS)
        self.routing.flush()
        self.streaming.read_done()
        self.backpressure.read_done(connection)
        if self.routing.works:
            self._kick()

    @property
    def takes_requests(self) -> bool:
        """Whether requests of clients go to a leader at present."""
        return self._unreached_since_s is None

    def asked(self) -> int:
        """The serial of the newest request that was read, for `is_answered`."""
        self.streaming.read_done()
        return self.origin.last_serial

    def is_answered(self, serial: int) -> bool:
        """Whether all requests up to ``serial`` were answered: their answers are with their connections."""
        return (
            self.origin.lowest_waited > serial
            and not self.executor.order.waits
            and not self.streaming.holds_answers
        )

    def stop_requests(self, *, others_take_over: bool) -> None:
        """This node stops: what is read from now on is answered at other nodes, or refused where there are
        none.

        Args:
            others_take_over: clients can go to other nodes, and there is a leader.
        """
        if others_take_over:
            self.streaming.expect_moves()
        else:
            self.origin.refuse(Refused(refusals.STOPPING))
            self.origin.refuse_new(Refused(refusals.STOPPING))

    def streaming_connections(self) -> list[Any]:
        """The connections here on which registered clients listen for their heartbeats."""
        found: dict[Any, None] = {}
        for client in self.state.clients.values():
            inbox = client.heartbeat_inbox.encode()
            for subscription in self.routing.matching(inbox):
                if subscription.subject == inbox:
                    found[subscription.connection] = None
        return list(found)

    def drained(self, connection: Any) -> None:
        """A client's connection has room again."""
        self.executor.drained(connection)

    def wrote(self, connection: Any) -> None:
        """Something was written to a client that answers wait for."""
        self.executor.order.check()

    def closed(self, connection: Any) -> None:
        """A client's connection has ended."""
        self.executor.forget(connection)
        self.streaming.closed(connection)
        self.backpressure.closed(connection)
        if self.routing.works:
            self._kick()

    def suspend(self) -> None:
        """A snapshot is about to replace the store: nothing is read from it meanwhile."""
        self.catch_up.suspend()

    def installed(self, state: State, messages: Messages, since: int) -> None:
        """A snapshot replaced everything; the last entry performed here was ``since``."""
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
        self.catch_up.resume()
        self.executor.redeliver_skipped(since)

    def pump(self) -> float:
        """Do what is due. Returns when to be called again at the latest, in driver seconds."""
        now_s = self.host.monotonic_s()
        self.requests.tick()
        self.executor.order.tick()
        self.backpressure.pump(now_s)
        self.routing.flush()
        work_s = self.routing.work() if self.routing.works else None
        if now_s - self._marked_s >= 1.0:
            self._marked_s = now_s
            self.routing.tick()
        asking_s = self.asking.pump(now_s)
        duties_s = self._pump_leader(now_s)
        if now_s - self._looked_around_s >= 0.5:
            self._looked_around_s = now_s
            self.neighbours.look()
        if self.duties is not None:
            self._look_job = None  # it looks by itself
        elif self._look_job is None and now_s - self._look_s >= 0.5:
            self._look_s = now_s
            self._look_around(now_s)
        if self._look_job is not None and ends(self._look_job):
            self._look_job = None
        self.backpressure.go_on()
        return min(
            now_s + (0.5 if self._look_job is None else 0.0),
            self.requests.next_deadline() or NEVER,
            NEVER if work_s is None else now_s + work_s,
            now_s + self.backpressure.next_s,
            duties_s,
            asking_s,
            self.losses.pump(now_s) if self._tells_progress else NEVER,
            self.catch_up.pump(now_s),
            self._pump_refusal(now_s),
            self.executor.order.next_deadline() or NEVER,
            self.proposer.next_deadline() or NEVER,
        )

    @property
    def _tells_progress(self) -> bool:
        """Every member knows the frame: it came with the commands that need it (R24)."""
        return not too_new(ClientReachable, self.state.version)

    def _pump_leader(self, now_s: float) -> float:
        """What a leader does. Returns when its keeper wants to be called again."""
        if self.role != "leader" or not self.engine.is_ready:
            return NEVER
        if not self._opened_ready:
            self._opened_ready = True
            log.info("ready to lead term %d", self.term)
            self.clock.adopt(self.state.term)
            cold = not self.catch_up.has_served and not any(self._members_that_served.values())
            self.proposer.ready(now_s, {self.node, *self.links_up}, cold=cold)
        duties_s = self.duties.pump() if self.duties is not None else NEVER
        try:
            self.proposer.pump(now_s)
        except UnavailableError:
            log.info("not the leader any more: what was to be proposed is forwarded again")
            return NEVER
        if self.duties is None and self.proposer.serving:
            self._start_keeping()
            return now_s
        if self.duties is None:
            return duties_s
        self.maintenance.pump(now_s, self.term)
        self.clock_duty.pump(now_s, self.term)
        return min(duties_s, self.reconfiguration.pump(now_s))

    def _start_keeping(self) -> None:
        """The first entry of this term is applied: this node serves, and keeps time for all."""
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
        self.catch_up.first_entry_applied()
        self._notify_changed()

    def _stop_leading(self) -> None:
        self.proposer.follow()
        if self.duties is not None:
            self.duties.stop()
            self.duties = None
            self.reconfiguration.stop()

    # --- inside -----------------------------------------------------------------------------------

    def _look_around(self, now_s: float) -> None:
        """A follower keeps its sights fresh: it may lead next."""
        if now_s - self._looked_at_all_s < self.presence.pause_s(0.5):
            self._look_job = self._see(self.presence.take_changed())
            return
        self._looked_at_all_s = now_s
        state = self.state
        self._look_job = self.presence.looking(
            [client.heartbeat_inbox for client in state.clients.values()]
            + [sub.inbox for sub in state.subscriptions.values() if sub.online]
        )

    def _see(self, inboxes: Iterable[str]) -> Iterator[None]:
        for inbox in inboxes:
            self.presence.see(inbox)
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
        if not self.executor.held:  # else it has begun to catch up once more
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
            self.origin.ended()  # the leader ended it: this node was no member, and is one again

    def _notice_clients(self, effects: Effects) -> None:
        if not effects.opened:
            return
        self.presence.dirty = True
        if self.duties is not None:
            for client_id in _clients_opened(effects.opened):
                self.duties.opened(client_id)

    def _interest_changed(self, node: str, reconfiguration: Iterable[Any]) -> None:
        self.presence.changed(node, reconfiguration)
        if self.streaming.moving is not None:
            self.streaming.moving.interest_changed()

    def _found(self, term: int) -> list[LeaderCommand]:
        """Return the commands with which the first leader of a new cluster begins its log."""
        found = InitCluster(term, self.host.nuid(), self.host.nuid())
        return [found, *self.maintenance.raise_version(term)]

    def _check_bootstrapped(self) -> None:
        state = self.machine.state
        if state.cluster_uuid == self._bootstrap:
            return
        self._bootstrap = state.cluster_uuid
        if self._recovered is not None and state.cluster_uuid == self._recovered[0]:
            self._recovered = None  # the log says it now, too
        self.streaming.bootstrapped()
        self._bootstrapped(state)

    @property
    def majority_linked(self) -> bool:
        """Whether this node and those it is linked to are a majority: else nothing can be committed here."""
        voters = self.membership.voters if self.membership is not None else ()
        linked = sum(voter == self.node or voter in self.links_up for voter in voters)
        return not voters or 2 * linked > len(voters)

    def _notify_origin(self) -> None:
        # Without a majority a leader may lead on for a moment. What it gets meanwhile stays out of its log.
        reached = self.majority_linked if self.leader == self.node else self.leader in self.links_up
        if not reached:
            self._unreached_since_s = self._unreached_since_s or self.host.monotonic_s()
        else:
            self._unreached_since_s = None
        self.origin.leader_changed(self.term if reached else None)
        self._notify_asking()

    def _pump_refusal(self, now_s: float) -> float:
        """Refuse requests when no leader was reached for too long. Returns when to be called again."""
        if self._unreached_since_s is None or self.origin.refusal is not None:
            return NEVER
        due_s = self._unreached_since_s + (HOLD_S if self.majority_linked else HOLD_ALONE_S)
        if now_s < due_s:
            return due_s
        refused = self.origin.refuse(Refused(refusals.NO_LEADER))
        log.warning(
            "no leader for %.2f s: refusing streaming requests until there is one (%d that waited)",
            now_s - self._unreached_since_s, refused,
        )  # fmt: skip
        return NEVER

    def _notify_asking(self) -> None:
        """Who can be asked for what only a leader does: this node only once it serves as one."""
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
            self._kick()  # it came with a client's bytes, of which the driver knows nothing
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
