"""A whole node in a simulated world: replica, engine, routing, client connections, driven as in production.

A `SimNode` stands for a machine: its disk (`sim_storage`) and its clocks outlive the process. All
deterministic parts are the real ones, and frames between nodes pass through the simulated network as bytes.
As in production, each pair of nodes has two links, one for consensus and forwarded batches, and one for
routes. A third one for snapshots is always up (`sim_snapshots`).

A process ends when its disk fails or when it reads damaged data, but only if the adversary caused it: any
other exception ends the run. A supervisor restarts the process soon; a machine with damaged data stays off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from node.core.records import restore, take_changes
from node.core.state import State
from node.errors import CorruptionError, DiskError, IdentityError, RemoteProtocolError
from node.protocol import peer as wire
from node.protocol.peer import HEADER_BYTES, decode_body, encode_frame
from node.raft.links import SNAPSHOT
from node.raft.membership import Membership
from node.raft.ports import Role, Timing
from node.server.connection import Connection
from node.server.context import Context, ServerInfo
from node.server.disk.continuity import contradiction, follow
from node.server.membership import node_identity
from node.server.replica import Replica
from node.server.routing import Routing
from node.server.streaming import Subjects
from node.server.system import System
from node.simulator.bound_counts import LATE, BoundCounts
from node.simulator.expected_membership import ExpectedMembership
from node.simulator.machine_clock import MachineClock
from node.simulator.network import Endpoint, Network
from node.simulator.probes import Port, ProbedConnection, ProbedEngine, ProbedMachine
from node.simulator.scaled_bounds import CLIENT_LIMITS, ENGINE_LIMITS
from node.simulator.sim_snapshots import SimSnapshots
from node.simulator.sim_steps import ENTRY_BYTE_S, ENTRY_S, INPUT_S, PEER_BYTE_S, WORK_S, Steps
from node.simulator.sim_storage import ProbedJournal, SimStorage
from node.store.interface import CheckpointJob, StoreInterface

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster

TIMING = Timing(election_min_s=0.3, election_max_s=0.6, heartbeat_s=0.075)
STEP_S = 0.0004
"""Duration of an iteration of the loop: everything that arrives meanwhile is handled together."""
TIMER_LATE_S = 20e-6
"""Timers fire slightly late; otherwise clocks in whole nanoseconds might never reach the deadline."""
CHECKPOINT_S = 0.3
STORE_S = (0.0005, 0.01)
"""Duration of a checkpoint."""
TRAILING_ENTRIES = (15, 15, 80)
"""The number of entries kept behind a checkpoint is drawn from these. Few: a node that was down for a while
needs a snapshot. Many: a receiver can continue after the snapshot that another node was sending."""
ALONE_S = 5.0
"""A node without a leader disconnects its streaming clients each time this long (R25)."""
HAND_OVER_S = 1.0
WAIT_S = 2.0
"""A process that waits to be added is restarted after this time."""
CPUS = (1.0, 1.0, 2.0, 5.0)
"""The slowness of a machine is drawn from these."""
LATE_S = 0.02
"""A frame that waited this long for its turn is no longer current."""
RESTART_S = (0.3, 1.0)
"""Time after which the supervisor restarts a process that ended by itself."""


class SimNode:
    """One machine and the node's process on it, while it is up."""

    def __init__(self, cluster: Cluster, name: str, initial_voters: Sequence[str] | None = None) -> None:
        """Create a machine that is off.

        Args:
            cluster: the simulated cluster.
            name: the name of the node.
            initial_voters: the nodes that bootstrap the cluster; None: all nodes, and none ever joins.
        """
        self.name = name
        self.up = False
        self.waiting = False
        """Whether the process has an empty directory and waits to be added to the cluster."""
        self.outside = initial_voters is not None and name not in initial_voters
        """Whether the machine is not in the cluster: not yet, or no longer."""
        self.paused = False
        self.shutdown = False
        self.knows_time = False
        """This process stamped an entry that was applied, or got a frame soon enough from one that did."""
        self.replica: Replica
        self.engine: ProbedEngine
        self.journal: ProbedJournal
        self.connections: list[ProbedConnection] = []
        self.clock = MachineClock(cluster.world, skew_s=2.0)
        self.checker = cluster.checker
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream(name)
        self._trailing = cluster.world.stream("trailing").choice(TRAILING_ENTRIES)
        self.snapshot_rng = cluster.world.stream(f"{name} snapshots")
        self.storage = self._new_storage()
        self.broken = False
        """Whether stored data is damaged: this machine never comes back."""
        self.expected_membership = (
            None if initial_voters is None else ExpectedMembership(self, cluster, initial_voters)
        )
        self._life = 0
        self._paused_before_s = 0.0
        self.steps = Steps(
            cluster.world, cluster.world.stream(f"{name} cpu").choice(CPUS) if cluster.scaled else 0.0
        )
        self.bound_counts = BoundCounts(self)
        self._due_s = 0.0
        """The driver's next deadline, by the machine's clock."""
        self.resumed_s = float("-inf")
        self._woken_at = float("inf")
        self._kicked = False
        self._epoch = 0
        self.checkpointing = False

    # --- start and stop ---------------------------------------------------------------------------

    @property
    def raft(self) -> Network:
        return self._cluster.networks["raft"]

    @property
    def state(self) -> State:
        return self.replica.state

    @property
    def store(self) -> StoreInterface:
        return self.storage.machine_store.store

    @property
    def life(self) -> int:
        """A number that changes with every start and every end of the process."""
        return self._life

    @property
    def leads(self) -> bool:
        return self.up and self.engine.role is Role.LEADER

    @property
    def ready(self) -> bool:
        """Whether it is the leader, and its term is open for clients."""
        return self.leads and not self.paused and self.engine.is_ready and self.replica.proposer.open

    @property
    def serves(self) -> bool:
        """Whether clients can connect."""
        return self.up and not self.paused and not self.shutdown

    @property
    def _alone(self) -> bool:
        since = self.replica.leaderless_since_s
        return (
            len(self.engine.membership.names) > 1
            and since is not None
            and self.clock.monotonic_s() - since >= ALONE_S
        )

    def start(self) -> None:
        """Start the process unless it runs. If its disk prevents it, retry later."""
        if self.up or self.waiting or self.broken:
            return
        if not self.outside:
            self._guarded(self._start)
        elif self.expected_membership is not None and self._rng.random() < 0.5:
            self.wait()  # its supervisor doesn't know that it was removed

    def wait(self) -> None:
        """Start the process with an empty directory: it sends hellos and waits to be added."""
        assert self.expected_membership is not None
        self._life += 1
        self.waiting = True
        self.expected_membership.begin()
        self._world.record(f"{self.name} waits to be added")
        for network in self._cluster.networks.values():
            network.connect_all(self.name)
        self._later(WAIT_S, self._wait_again)

    def _wait_again(self) -> None:
        """Restart a process that was refused."""
        if self.waiting:
            self.wait()

    def admitted(self) -> None:
        """Join the cluster, which has added this machine. Deferred, because a hello is being handled."""
        self._later(0.0, self._join)

    def _join(self) -> None:
        assert self.expected_membership is not None
        if self.waiting:
            self._world.record(f"{self.name} joins the cluster")
            self.expected_membership.admit()
            self.waiting = self.outside = False
            self._start()

    def removed(self, index: int) -> None:
        """Retire this node: the committed entry ``index`` removes it."""
        self._world.record(f"{self.name} was removed by entry {index}: the process ends")
        self._later(0.0, self.retire)

    def retire(self) -> None:
        """Take the machine out of service and empty its directory."""
        assert self.expected_membership is not None
        self.crash()
        self.waiting = False
        self._life += 1
        if not self.outside:
            self._world.counts["retired"] += 1
        self.outside = True
        self.expected_membership.forget()
        self.storage.machine_store.close()
        self.storage = self._new_storage()
        self.checker.emptied(self)

    def _new_storage(self) -> SimStorage:
        return SimStorage(self._world, self.name, files=self._cluster.profile.files)

    def _start(self) -> None:
        world = self._world
        self._life += 1
        self.journal = self.storage.open_journal()
        self.journal.watcher = lambda *entry: self.checker.appended(self, *entry)
        self.journal.truncated = self.bound_counts.truncated
        store, note = self.storage.machine_store.open(), self.storage.machine_store.note
        problem = contradiction(self.journal, store, note)
        if problem is not None:
            raise CorruptionError(f"{self.name}: {problem}")
        if follow(self.journal, store, note):
            self.count("snapshots gone on behind")
        index = store.applied[0]
        state = restore(self.store.records())
        since, members = (
            (0, Membership.initial_voters(self._cluster.names))
            if self.expected_membership is None
            else (self.expected_membership.begin())
        )
        recovered = None if self.expected_membership is None else self.expected_membership.claim(self.journal)
        self.up, self.paused, self.shutdown = True, False, False
        self._send_away_s = 0.0
        self.steps.clear()
        self._woken_at = float("inf")
        self.checkpointing = self._kicked = False
        self._due_s = self.clock.monotonic_s()
        self.routing = Routing(self.name, send=self._send_route, clock=self.clock.monotonic_s)
        self.replica = Replica(
            self.name,
            Subjects.of(self._cluster.cluster_id),
            state,
            self.store,
            routing=self.routing,
            host=System(self.clock.monotonic_ns, self.clock.wall_clock_ns, self._rng.randbytes),
            send=self._send_member,
            kick=self._kick,
            bootstrapped=(lambda state: None)
            if self.expected_membership is None
            else self.expected_membership.bootstrapped,
            caught_up=self._release,
            changed=lambda: None,
            election_min_s=TIMING.election_min_s,
            neighbours=None if self.expected_membership is None else self.expected_membership.members,
            recovered=recovered,
        )
        self.engine = ProbedEngine(
            node=self.name,
            members=members,
            directory="" if self.expected_membership is None else self.expected_membership.directory,
            journal=self.journal,
            applied=index,
            timing=TIMING,
            clock=self.clock.monotonic_s,
            rng=world.stream(f"{self.name} engine {self._life}"),
            send=self._send_engine,
            apply=self._apply,
            listener=self.replica,
            limits=ENGINE_LIMITS,
        )
        self.engine.watcher = self._proposed
        self.engine.model = self.checker.model
        if self.expected_membership is not None:
            node_identity.refuse_removed(self.engine, self.name, since)
        self.replica.machine = ProbedMachine(self.replica.state, self, self.checker)
        self.replica.attach(self.engine)
        self.snapshots = SimSnapshots(self, self._cluster.networks[SNAPSHOT])
        self.replica.needs_snapshot_from = self.snapshots.wanted
        self.context = Context(
            routing=self.routing,
            service=self.replica,
            info=ServerInfo(server_id=self.name, server_name=self.name, host=self.name, port=1),
            clock=self.clock.monotonic_s,
            limits=CLIENT_LIMITS,
            node_ready=lambda: self.replica.caught_up,
        )
        self.connections = []
        self.knows_time = False
        self.checker.started(self)
        self.checker.model.started(self.name, self.engine.commit_index)
        world.record(f"{self.name} starts at entry {index} of {self.journal.last_index}")
        for network in self._cluster.networks.values():
            network.connect_all(self.name)
        self._work()
        self._later(CHECKPOINT_S, self._checkpoint)
        self._later(ALONE_S, self._watch_leader)

    def crash(self, *, power: bool = False) -> None:
        """Kill the process; with ``power``, the disk also loses data that no flush has made durable."""
        if not self.up:
            return
        self._world.counts["crashes"] += 1
        self._world.record(f"{self.name} dies{' with its power' if power else ''}")
        self.up = self.paused = False
        self.steps.clear()
        self._life += 1
        for network in self._cluster.networks.values():
            network.cut_all(self.name)
        self.checker.stopped(self)
        self.storage.stop(power=power)
        if power:
            self.clock.reboot()
        for connection in self.connections:
            connection.abort("the node died")
        self.checker.died()

    def leave(self) -> None:
        """Handle SIGTERM: transfer leadership, disconnect the clients, end the process."""
        if not self.up or self.paused or self.shutdown:
            return
        self._world.counts["leaves"] += 1
        self._world.record(f"{self.name} gets SIGTERM")
        self.shutdown = True
        until_s = self._world.now + HAND_OVER_S

        def go() -> None:
            for connection in list(self.connections):
                connection.close("this node stops")
            self._later(0.05, self.crash)

        def hand_over() -> None:
            if not self.leads or self.engine.transfer_leadership() or self._world.now > until_s:
                self._step(self._work)
                self._later(0.1, go)
            else:
                self._later(0.002, hand_over)

        if self.leads and len(self.engine.membership.voters) > 1:
            self.replica.proposer.stop()
            hand_over()
        else:
            go()

    def pause(self, seconds: float) -> None:
        """Stop the process for a while; data that arrives waits in its sockets."""
        if self.up and not self.paused:
            self._world.counts["pauses"] += 1
            self._world.record(f"{self.name} pauses for {seconds:.2f} s")
            self.paused = True
            self.steps.stop()
            self._later(seconds, self.resume)

    def resume(self) -> None:
        if self.paused:
            self._guarded(self._resume)

    def _resume(self) -> None:
        self._world.record(f"{self.name} resumes")
        self.paused = False
        self.resumed_s = self._world.now
        self.steps.go_on()
        self._step(self._work)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call it. An injected disk error or damage may end the process."""
        try:
            call()
        except DiskError as error:
            if not self.storage.has_faults:
                raise
            self._failed(f"can't go on: {error}", "disk errors")
            self._world.after(self._rng.uniform(*RESTART_S), self.start)
        except IdentityError as error:
            if self.expected_membership is None:
                raise
            self._failed(f"must not run: {error}", "identities refused")
            self.retire()
        except CorruptionError as error:
            if not self.storage.rotten:
                raise
            self._failed(f"finds damage: {error}", "damage found")
            self.broken = True

    def _failed(self, why: str, count: str) -> None:
        self._world.counts[count] += 1
        self._world.record(f"{self.name} {why}")
        self.crash()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it later unless the process has ended. The call is not a step of the process's loop."""
        life = self._life
        self._world.after(delay_s, lambda: self._guarded(call) if self._life == life else None)

    def now_or_when_resumed(self, call: Callable[[], None]) -> None:
        """Handle an arrival: at once, or when the process is no longer paused or busy."""
        if self.up:
            self.steps.take(lambda: self._arrived(call))

    def _arrived(self, call: Callable[[], None]) -> None:
        self._guarded(call)
        self._kick()

    def in_next_step(self, call: Callable[[], None]) -> None:
        """Continue in a later step, after the other work that waits."""
        self._later(0.0, lambda: self.now_or_when_resumed(call))

    def _step(self, call: Callable[[], None]) -> None:
        """Call it in the loop of the process: at once, or after the earlier steps are done."""
        self.steps.take(lambda: self._guarded(call))

    # --- network ----------------------------------------------------------------------------------

    def port(self, kind: str) -> Endpoint:
        """Return this node's end of its links of one kind."""
        return Port(self, kind)

    def _send_engine(self, peer: str, message: Any) -> None:
        self.checker.model.sent(self.name, peer, message, self.journal)
        frame = encode_frame((0, message))
        self.bound_counts.consensus_frame(len(frame))
        self.raft.send(self.name, peer, frame)

    def _send_member(self, peer: str, value: Any) -> bool:
        self.bound_counts.server_frame(value)
        self.raft.send(self.name, peer, encode_frame((1, value)), loose=False)
        return self.raft.linked(self.name, peer)

    def _send_route(self, peer: str, value: Any) -> None:
        self._cluster.networks["route"].send(self.name, peer, encode_frame(value), loose=False)

    def directory_of(self, peer: str) -> str:
        """Return the current directory of ``peer``."""
        expected_membership = self._cluster.node(peer).expected_membership
        return expected_membership.directory if expected_membership is not None else ""

    def term_of(self, peer: str) -> int | None:
        """Return the term of ``peer``; None if it is not up."""
        node = self._cluster.node(peer)
        return node.engine.term if node.up else None

    def linked(self, kind: str, peer: str, directory: str, term: int | None) -> None:
        if kind == "route":
            self.routing.peer_up(peer)
        elif kind == "raft":
            self.engine.connected(peer, directory, term)
            self.replica.peer_up(peer, {"machine": self._cluster.node(peer).replica.machine.version})

    def unlinked(self, kind: str, peer: str) -> None:
        if kind == "route":
            self.routing.peer_down(peer)
        elif kind == SNAPSHOT:
            self.snapshots.unlinked(peer)
        else:
            self.engine.disconnected(peer)
            self.replica.peer_down(peer)

    def take(self, kind: str, peer: str, message: Any) -> None:
        self._notice_gap()
        self.steps.spend(INPUT_S + len(message) * PEER_BYTE_S)
        value = decode_body(message[HEADER_BYTES:], wire.ITEMS_MAX)
        if kind == SNAPSHOT:
            self.snapshots.take(peer, value)
        elif kind == "route":
            self.routing.peer_frame(peer, value)
        elif value[0] == 0:
            self.checker.model.received(self.name, peer, value[1], self.journal)
            try:
                self.engine.receive(peer, value[1])
            except RemoteProtocolError:
                if self.expected_membership is None:
                    raise
                self.raft.cut(self.name, peer)  # the peer is no member by this node's log
                return
            if self.engine.leader == peer:
                prompt = self._cluster.network_is_fine and self.steps.late_s < LATE_S
                self.knows_time = self._cluster.node(peer).knows_time and (prompt or self.knows_time)
        else:
            self.replica.frame(peer, value[1])

    # --- driving, as in node.raft.driver ----------------------------------------------------------

    def _kick(self) -> None:
        if not self._kicked:
            self._kicked = True
            self._later(STEP_S, lambda: self._step(self._work))

    def _work(self) -> None:
        if not self.up:
            return
        self._kicked = False
        self._notice_gap()
        self.steps.spend(WORK_S)
        self.engine.tick()
        wanted = self.replica.pump()
        self.engine.replicate()
        self.checker.observe(self)
        self.bound_counts.worked()
        self._flush()
        self._due_s = deadline = min(self.engine.next_deadline(), wanted)
        self._paused_before_s = self.steps.paused_s
        if deadline < self._woken_at:
            self._woken_at = deadline
            self._later(self.clock.until_s(deadline) + TIMER_LATE_S, lambda: self._wake(deadline))

    def _wake(self, deadline: float) -> None:
        if deadline == self._woken_at:
            self._woken_at = float("inf")
            self._step(self._work)

    def busy(self, seconds: float) -> None:
        """Delay the process with a long step: a garbage collection, or many clients at once."""
        if self.up:
            self.record(f"is busy for {seconds:.2f} s")
            self.steps.take(lambda: self.steps.take_time(seconds))

    def _notice_gap(self) -> None:
        late_s = self.clock.monotonic_s() - self._due_s
        if late_s > TIMING.election_min_s / 2:
            self._due_s = self.clock.monotonic_s()
            self.engine.paused(late_s)
            paused_s = self.steps.paused_s - self._paused_before_s
            if paused_s > TIMING.election_min_s / 2:
                self.count("gaps")
                self.replica.paused(min(paused_s, late_s))
            else:
                self.count(LATE)

    def _flush(self) -> None:
        flush = self.storage.begin_flush()
        if flush is not None:
            self._later(self.storage.flush_s(), lambda: self._flushed(flush))

    def _flushed(self, flush: Any) -> None:
        self.storage.run_flush(flush)

        def done() -> None:
            self.journal.end_flush(flush)
            self._notice_gap()
            self.engine.on_durable()
            self._work()

        self._step(done)

    def _watch_leader(self) -> None:
        self._later(0.25, self._watch_leader)
        if not self.paused and self._alone and self.clock.monotonic_s() >= self._send_away_s:
            self._send_away_s = self.clock.monotonic_s() + ALONE_S
            for connection in list(self.connections):
                connection.close("this node has no leader")

    # --- state, store and snapshots ---------------------------------------------------------------

    def _proposed(self, index: int, payload: bytes) -> None:
        self.bound_counts.proposed(index, len(payload))
        self.checker.proposed(self, index, payload)

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self.steps.spend(ENTRY_S + len(payload) * ENTRY_BYTE_S)
        self.replica.apply(index, term, payload)

    def _checkpoint(self) -> None:
        self._later(CHECKPOINT_S, self._checkpoint)
        index = self.engine.applied_index
        if self.paused or self.checkpointing or self.snapshots.installing or index <= self.store.applied[0]:
            return
        term, before = self.journal.term_at(index), self.journal.term_at(index - 1)
        assert term is not None
        self.checkpointing = True
        job = self.store.begin_checkpoint((index, term), (index - 1, before or 0), take_changes(self.state))
        self._later(0.005, lambda: self._begin_checkpoint(index, job))

    def _begin_checkpoint(self, index: int, job: CheckpointJob) -> None:
        if not self._may_store(index):
            self._later(0.01, lambda: self._begin_checkpoint(index, job))
            return
        machine_store = self.storage.machine_store
        machine_store.begin_checkpoint(lambda: machine_store.run_checkpoint(job))
        self._later(self._rng.uniform(*STORE_S), lambda: self._end_checkpoint(index, job))

    def _end_checkpoint(self, index: int, job: CheckpointJob) -> None:
        machine_store = self.storage.machine_store
        machine_store.end_checkpoint()
        machine_store.run_checkpoint(job)
        self.store.end_checkpoint(job)
        self.checker.checkpointed(self, index)
        self.checkpointing = False
        self._world.counts["checkpoints"] += 1
        self.journal.drop_before(index - self._trailing)
        self.storage.sweep()

    def _may_store(self, index: int) -> bool:
        """Return True if the journal is durable up to ``index``: the store must never be ahead of it."""
        return self.journal.durable_index >= index

    def members_at(self, index: int) -> Membership:
        """Return the membership at an entry. Raises UnavailableError if the log no longer contains it."""
        return node_identity.members_at(self.engine, self.journal, index)

    def installed(
        self, store: StoreInterface, at: tuple[int, int], previous: tuple[int, int], members: Membership
    ) -> None:
        """Adopt an installed snapshot in state, log and engine."""
        self.count("snapshots installed")
        self.record(f"installs a snapshot of entry {at[0]}")
        since = self.engine.applied_index
        state = restore(store.records())
        self.checker.installing(self, at[0], state)
        self.replica.installed(state, store, since)
        self.replica.machine = ProbedMachine(state, self, self.checker)
        self.engine.snapshot_installed(*at, previous, members)
        self._kick()

    def snapshot_progressed(self, peer: str, progress: tuple[int, int]) -> None:
        """Report the progress of a snapshot from ``peer``: received bytes and total bytes."""
        self._cluster.adversary.snapshot_at(self, peer, progress[0] / max(1, progress[1]))

    def record(self, text: str) -> None:
        """Add a line to the trace."""
        self._world.record(f"{self.name} {text}")

    def count(self, what: str) -> None:
        """Count an event for the report."""
        self._world.counts[what] += 1

    def in_thread(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it when a worker thread is done. The thread is paused together with the process."""
        self._later(seconds, lambda: self._step(call))

    # --- clients ----------------------------------------------------------------------------------

    def accept(self, driver: Any) -> Connection:
        """Accept a client connection."""
        self._epoch = max(self._epoch + 1, self.clock.wall_clock_ns() // 1000)
        connection = ProbedConnection(self.context, self, cid=self._epoch, epoch=self._epoch)
        connection.attach(driver)
        self.connections = [before for before in self.connections if not before.closed]
        self.connections.append(connection)
        return connection

    def _release(self) -> None:
        for connection in list(self.connections):
            connection.release()
