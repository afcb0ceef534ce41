"""A whole node in a simulated world: replica, engine, routing, client connections, driven as production is.

A host stands for a machine: its disk (`sim_storage`) and its clocks outlive the process. Everything
plain is the real thing, and peers' frames travel through the simulated network as bytes. As in
production each pair of nodes has two links, one for consensus and forwarded batches, one for routes;
and one for snapshots, which is always there (`sim_snapshots`).

A process ends when its disk fails or what it reads is damaged, but only if something was done to the
disk: whatever else it raises ends the run. A supervisor starts it again soon; a machine whose disk
has rotted stays off.
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
"""How long a turn of the loop takes: what comes meanwhile is handled together."""
TIMER_LATE_S = 20e-6
"""A timer is always a little late; clocks in whole nanoseconds would else never get there."""
CHECKPOINT_S = 0.3
STORE_S = (0.0005, 0.01)
"""How long it takes to write one."""
TRAILING_ENTRIES = (15, 15, 80)
"""One of these. Few, so that a node that was down for a while needs a snapshot; or enough to go on behind
one that was cut off."""
ALONE_S = 5.0
"""Without a leader for so long a node sends its streaming clients away, again and again (R25)."""
HAND_OVER_S = 1.0
WAIT_S = 2.0
"""A process that waits to be added and is not, is started anew after so long."""
CPUS = (1.0, 1.0, 2.0, 5.0)
"""How slow a machine is: one of these."""
LATE_S = 0.02
"""A frame that has waited so long for its turn says nothing of the present."""
RESTART_S = (0.3, 1.0)
"""A supervisor starts a process that ended by itself again, after so long."""


class SimNode:
    """One machine and, while it is up, the node's process on it."""

    def __init__(self, cluster: Cluster, name: str, initial_voters: Sequence[str] | None = None) -> None:
        """A machine that is off.

        Args:
            cluster: where it is.
            name: its own.
            initial_voters: who founds the cluster; None: all, and nobody else ever joins.
        """
        self.name = name
        self.up = False
        self.waiting = False
        """Its process has an empty directory, and waits to be added to the cluster."""
        self.outside = initial_voters is not None and name not in initial_voters
        """It is not in the cluster: not yet, or no more."""
        self.paused = False
        self.shutdown = False
        self.knows_time = False
        """This process has stamped an entry that was applied, or heard one who had, without much delay."""
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
        """Its disk has rotted: this machine never comes back."""
        self.expected_membership = (
            None if initial_voters is None else ExpectedMembership(self, cluster, initial_voters)
        )
        self._life = 0
        self._stood_before_s = 0.0
        self.steps = Steps(
            cluster.world, cluster.world.stream(f"{name} cpu").choice(CPUS) if cluster.scaled else 0.0
        )
        self.bound_counts = BoundCounts(self)
        self._due_s = 0.0
        """When the driver wanted to go on last, by the machine's clock."""
        self.resumed_s = float("-inf")
        self._woken_at = float("inf")
        self._kicked = False
        self._epoch = 0
        self.checkpointing = False

    # --- life and death ---------------------------------------------------------------------------

    @property
    def raft(self) -> Network:
        return self._cluster.networks["raft"]

    @property
    def state(self) -> State:
        return self.replica.state

    @property
    def store(self) -> StoreInterface:
        return self.storage.kept.store

    @property
    def life(self) -> int:
        """Changes with every start and every death of the process."""
        return self._life

    @property
    def leads(self) -> bool:
        return self.up and self.engine.role is Role.LEADER

    @property
    def ready(self) -> bool:
        """It leads, and its term has begun for clients too."""
        return self.leads and not self.paused and self.engine.is_ready and self.replica.proposer.open

    @property
    def serves(self) -> bool:
        """Clients can connect."""
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
        """Start the process, unless it runs; if its disk doesn't let it, again later."""
        if self.up or self.waiting or self.broken:
            return
        if not self.outside:
            self._guarded(self._start)
        elif self.expected_membership is not None and self._rng.random() < 0.5:
            self.wait()  # nobody told its supervisor that it isn't wanted

    def wait(self) -> None:
        """Start the process with an empty directory: it says hello, and waits to be added."""
        assert self.expected_membership is not None
        self._life += 1
        self.waiting = True
        self.expected_membership.begin()
        self._world.note(f"{self.name} waits to be added")
        for network in self._cluster.networks.values():
            network.connect_all(self.name)
        self._later(WAIT_S, self._wait_again)

    def _wait_again(self) -> None:
        """Who was refused ends, and is started again."""
        if self.waiting:
            self.wait()

    def admitted(self) -> None:
        """The cluster has added this machine. Not to be gone on with in the middle of a hello."""
        self._later(0.0, self._join)

    def _join(self) -> None:
        assert self.expected_membership is not None
        if self.waiting:
            self._world.note(f"{self.name} is let in")
            self.expected_membership.admit()
            self.waiting = self.outside = False
            self._start()

    def removed(self, index: int) -> None:
        """Entry ``index``, which is committed, removes this node."""
        self._world.note(f"{self.name} was removed by entry {index}: it ends")
        self._later(0.0, self.retire)

    def retire(self) -> None:
        """The machine is taken out of service, and its directory emptied."""
        assert self.expected_membership is not None
        self.crash()
        self.waiting = False
        self._life += 1
        if not self.outside:
            self._world.counts["retired"] += 1
        self.outside = True
        self.expected_membership.forget()
        self.storage.kept.close()
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
        store, note = self.storage.kept.open(), self.storage.kept.note
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
        world.note(f"{self.name} starts at entry {index} of {self.journal.last_index}")
        for network in self._cluster.networks.values():
            network.connect_all(self.name)
        self._work()
        self._later(CHECKPOINT_S, self._checkpoint)
        self._later(ALONE_S, self._watch_leader)

    def crash(self, *, power: bool = False) -> None:
        """Kill the process; with ``power`` the disk also loses what no flush has made durable."""
        if not self.up:
            return
        self._world.counts["crashes"] += 1
        self._world.note(f"{self.name} dies{' with its power' if power else ''}")
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
        """SIGTERM: hand leadership over, send the clients away, end."""
        if not self.up or self.paused or self.shutdown:
            return
        self._world.counts["leaves"] += 1
        self._world.note(f"{self.name} is told to stop")
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
        """Stop the process for a while; what arrives waits in its sockets."""
        if self.up and not self.paused:
            self._world.counts["pauses"] += 1
            self._world.note(f"{self.name} pauses for {seconds:.2f} s")
            self.paused = True
            self.steps.stop()
            self._later(seconds, self.resume)

    def resume(self) -> None:
        if self.paused:
            self._guarded(self._resume)

    def _resume(self) -> None:
        self._world.note(f"{self.name} resumes")
        self.paused = False
        self.resumed_s = self._world.now
        self.steps.go_on()
        self._step(self._work)

    def _guarded(self, call: Callable[[], None]) -> None:
        """A disk that something was done to may end the process."""
        try:
            call()
        except DiskError as error:
            if not self.storage.troubled:
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
        self._world.note(f"{self.name} {why}")
        self.crash()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it later, unless the process has died by then. A kernel or a supervisor does: not its loop."""
        life = self._life
        self._world.after(delay_s, lambda: self._guarded(call) if self._life == life else None)

    def now_or_when_resumed(self, call: Callable[[], None]) -> None:
        """Something arrived: a process that is paused or busy sees it when it goes on."""
        if self.up:
            self.steps.take(lambda: self._arrived(call))

    def _arrived(self, call: Callable[[], None]) -> None:
        self._guarded(call)
        self._kick()

    def in_next_step(self, call: Callable[[], None]) -> None:
        """Something that the process itself goes on with when others have had their turn."""
        self._later(0.0, lambda: self.now_or_when_resumed(call))

    def _step(self, call: Callable[[], None]) -> None:
        """Call it in the loop of the process: at once, or when that has done what came before."""
        self.steps.take(lambda: self._guarded(call))

    # --- network ----------------------------------------------------------------------------------

    def port(self, kind: str) -> Endpoint:
        """This node's end of its links of one kind."""
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
        """Which one ``peer`` has now."""
        expected_membership = self._cluster.node(peer).expected_membership
        return expected_membership.directory if expected_membership is not None else ""

    def term_of(self, peer: str) -> int | None:
        """Return the term that ``peer`` is in now; None if it is in none."""
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
                self.raft.cut(self.name, peer)  # no member, as this log knows it
                return
            if self.engine.leader == peer:
                prompt = self._cluster.network_is_fine and self.steps.late_s < LATE_S
                self.knows_time = self._cluster.node(peer).knows_time and (prompt or self.knows_time)
        else:
            self.replica.frame(peer, value[1])

    # --- driving: as node.raft.driver does --------------------------------------------------------

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
        self._stood_before_s = self.steps.stood_s
        if deadline < self._woken_at:
            self._woken_at = deadline
            self._later(self.clock.until_s(deadline) + TIMER_LATE_S, lambda: self._wake(deadline))

    def _wake(self, deadline: float) -> None:
        if deadline == self._woken_at:
            self._woken_at = float("inf")
            self._step(self._work)

    def busy(self, seconds: float) -> None:
        """Something takes the process long, but it is on it: garbage is collected, many clients at once."""
        if self.up:
            self.note(f"is busy for {seconds:.2f} s")
            self.steps.take(lambda: self.steps.take_time(seconds))

    def _notice_gap(self) -> None:
        late_s = self.clock.monotonic_s() - self._due_s
        if late_s > TIMING.election_min_s / 2:
            self._due_s = self.clock.monotonic_s()
            self.engine.paused(late_s)
            stood_s = self.steps.stood_s - self._stood_before_s
            if stood_s > TIMING.election_min_s / 2:
                self.count("gaps")
                self.replica.paused(min(stood_s, late_s))
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
        kept = self.storage.kept
        kept.begin_checkpoint(lambda: kept.run_checkpoint(job))
        self._later(self._rng.uniform(*STORE_S), lambda: self._end_checkpoint(index, job))

    def _end_checkpoint(self, index: int, job: CheckpointJob) -> None:
        kept = self.storage.kept
        kept.end_checkpoint()
        kept.run_checkpoint(job)
        self.store.end_checkpoint(job)
        self.checker.checkpointed(self, index)
        self.checkpointing = False
        self._world.counts["checkpoints"] += 1
        self.journal.drop_before(index - self._trailing)
        self.storage.sweep()

    def _may_store(self, index: int) -> bool:
        """The store never holds what this node's own journal might lose."""
        return self.journal.durable_index >= index

    def members_at(self, index: int) -> Membership:
        """Who belonged to the cluster at an entry. Raises UnavailableError if the log is past it."""
        return node_identity.members_at(self.engine, self.journal, index)

    def installed(
        self, store: StoreInterface, at: tuple[int, int], previous: tuple[int, int], members: Membership
    ) -> None:
        """A snapshot has taken the store's place: state, log and engine follow."""
        self.count("snapshots installed")
        self.note(f"installs a snapshot of entry {at[0]}")
        since = self.engine.applied_index
        state = restore(store.records())
        self.checker.installing(self, at[0], state)
        self.replica.installed(state, store, since)
        self.replica.machine = ProbedMachine(state, self, self.checker)
        self.engine.snapshot_installed(*at, previous, members)
        self._kick()

    def half_way(self, peer: str, progress: tuple[int, int]) -> None:
        """So many bytes, of so many, of a snapshot from ``peer`` are here."""
        self._cluster.adversary.snapshot_at(self, peer, progress[0] / max(1, progress[1]))

    def note(self, text: str) -> None:
        """For the trace."""
        self._world.note(f"{self.name} {text}")

    def count(self, what: str) -> None:
        """For the report."""
        self._world.counts[what] += 1

    def in_thread(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it when a worker thread is done, which stands still when the process does."""
        self._later(seconds, lambda: self._step(call))

    # --- clients ----------------------------------------------------------------------------------

    def accept(self, driver: Any) -> Connection:
        """A client has connected."""
        self._epoch = max(self._epoch + 1, self.clock.wall_clock_ns() // 1000)
        connection = ProbedConnection(self.context, self, cid=self._epoch, epoch=self._epoch)
        connection.attach(driver)
        self.connections = [before for before in self.connections if not before.closed]
        self.connections.append(connection)
        return connection

    def _release(self) -> None:
        for connection in list(self.connections):
            connection.release()
