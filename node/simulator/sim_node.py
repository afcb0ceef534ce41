"""A whole node in a simulated world: replica, engine, routing and client connections, driven as production is.

A host stands for a machine: its disk (journal tape and store) and its clocks outlive the process.
Everything plain is the real thing; journal and store are the fakes that pass the real ones' tests,
and peers' frames travel through the simulated network as values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.core.records import restore, take_changes
from node.core.state import State
from node.raft.engine import Engine
from node.raft.ports import Role, Timing
from node.server.connection import Connection
from node.server.context import Context, ServerInfo
from node.server.host import Host
from node.server.replica import Replica
from node.server.routing import Routing
from node.server.streaming import Subjects
from node.simulator.journal import MemoryFlush, MemoryJournal, Tape
from node.simulator.network import Network
from node.store.memory import MemoryStore

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster

TIMING = Timing(election_min_s=0.3, election_max_s=0.6, heartbeat_s=0.075)
FLUSH_S = (0.0005, 0.002, 0.002, 0.01, 0.04)
CHECKPOINT_S = 0.3
TRAILING_ENTRIES = 30
"""Few, so that a node that was down for a while needs a snapshot."""


class SimNode:
    """One machine and, while it is up, the node's process on it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.up = False
        self.paused = False
        self.replica: Replica
        self.engine: Engine
        self.connections: list[Connection] = []
        self._cluster = cluster
        self._world = cluster.world
        self._tape = Tape()
        self._store = MemoryStore()
        self._life = 0
        self._inbox: list[Callable[[], None]] = []
        self._paused_at = 0.0
        self._woken_at = float("inf")
        self._working = False
        self._wall_skew_ns = int(self._world.rng.uniform(-2, 2) * 1e9)
        self._epoch = 0
        self._checkpointing = False

    # --- life and death ---------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        return self._cluster.network

    @property
    def state(self) -> State:
        return self.replica.state

    @property
    def store(self) -> MemoryStore:
        return self._store

    @property
    def leads(self) -> bool:
        return self.up and self.engine.role is Role.LEADER

    @property
    def serves(self) -> bool:
        """Clients can connect."""
        return self.up and not self.paused

    def start(self) -> None:
        if self.up:
            return
        world = self._world
        self.up, self.paused = True, False
        self._life += 1
        self._inbox.clear()
        self._woken_at = float("inf")
        self._checkpointing = False
        self.journal = MemoryJournal(self._tape)
        index, term = self._store.applied
        if index and self.journal.term_at(index) != term:
            self.journal.reset((index, term), self._store.previous)
        self.routing = Routing(self.name, send=lambda peer, value: self._send(peer, ("route", value)))
        self.replica = Replica(
            self.name,
            Subjects.of("test-cluster"),
            restore(self._store.records()),
            self._store,
            routing=self.routing,
            host=Host(
                lambda: int(world.now * 1e9),
                lambda: int(world.now * 1e9) + 1_700_000_000_000_000_000 + self._wall_skew_ns,
                world.rng.randbytes,
            ),
            send=lambda peer, value: self._send(peer, ("server", value)),
            kick=self._kick,
            founded=lambda state: None,
            caught_up=self._release,
            changed=lambda: None,
            election_min_s=TIMING.election_min_s,
        )
        self.engine = Engine(
            node=self.name,
            members=self._cluster.names,
            journal=self.journal,
            applied=index,
            timing=TIMING,
            clock=world.clock,
            rng=world.rng,
            send=lambda peer, message: self._send(peer, ("engine", message)),
            apply=self._apply,
            listener=self.replica,
        )
        self.replica.attach(self.engine)
        self.replica.needs_snapshot_from = self._send_snapshot
        self.context = Context(
            routing=self.routing,
            service=self.replica,
            info=ServerInfo(server_id=self.name, server_name=self.name, host=self.name, port=1),
            clock=world.clock,
            node_ready=lambda: self.replica.caught_up,
        )
        self.connections = []
        world.note(f"{self.name} starts at entry {index} of {self.journal.last_index}")
        self.network.connect_all(self.name)
        self._work()
        self._later(CHECKPOINT_S, self._checkpoint)

    def crash(self, *, power: bool = False) -> None:
        """Kill the process; with ``power`` the disk also loses what no flush has made durable."""
        if not self.up:
            return
        self._world.counts["crashes"] += 1
        self._world.note(f"{self.name} dies{' with its power' if power else ''}")
        self.up = False
        self._life += 1
        self.network.cut_all(self.name)
        self._store = self._store.after_crash()
        if power:
            self._world.counts["operations lost"] += self._tape.lose(self._world.rng)
        for connection in self.connections:
            connection.abort("the node died")

    def pause(self, seconds: float) -> None:
        """Stop the process for a while; what arrives waits in its sockets."""
        if self.up and not self.paused:
            self._world.counts["pauses"] += 1
            self._world.note(f"{self.name} pauses for {seconds:.2f} s")
            self.paused, self._paused_at = True, self._world.now
            self._later(seconds, self.resume)

    def resume(self) -> None:
        if not self.paused:
            return
        self._world.note(f"{self.name} resumes")
        self.paused = False
        gap_s = self._world.now - self._paused_at
        if gap_s > TIMING.election_min_s / 2:
            self.engine.paused(gap_s)
            self.replica.paused(gap_s)
        inbox, self._inbox = self._inbox, []
        for call in inbox:
            call()
        self._work()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it later, unless the process has died by then."""
        life = self._life
        self._world.after(delay_s, lambda: call() if self._life == life else None)

    def now_or_when_resumed(self, call: Callable[[], None]) -> None:
        """Something arrived: a process that is paused sees it when it goes on."""
        if self.paused:
            self._inbox.append(call)
        elif self.up:
            call()
            self._work()

    # --- network ----------------------------------------------------------------------------------

    def _send(self, peer: str, value: Any) -> bool:
        self.network.send(self.name, peer, value)
        return self.network.linked(self.name, peer)

    def link_up(self, peer: str) -> None:
        self.now_or_when_resumed(lambda: self._linked(peer))

    def _linked(self, peer: str) -> None:
        self.engine.connected(peer)
        self.replica.peer_up(peer, {})
        self.routing.peer_up(peer)

    def link_down(self, peer: str) -> None:
        self.now_or_when_resumed(lambda: self._unlinked(peer))

    def _unlinked(self, peer: str) -> None:
        self.engine.disconnected(peer)
        self.replica.peer_down(peer)
        self.routing.peer_down(peer)

    def deliver(self, peer: str, message: Any) -> None:
        self.now_or_when_resumed(lambda: self._take(peer, message))

    def _take(self, peer: str, message: Any) -> None:
        kind, value = message
        if kind == "engine":
            self.engine.receive(peer, value)
        elif kind == "server":
            self.replica.frame(peer, value)
        elif kind == "route":
            self.routing.peer_frame(peer, value)
        else:
            self._install(value)

    # --- driving: as node.raft.driver does --------------------------------------------------------

    def _kick(self) -> None:
        if not self._working:
            self._later(0.0, self._iterate)

    def _iterate(self) -> None:
        if self.paused:
            return
        self._work()

    def _work(self) -> None:
        if not self.up or self.paused or self._working:
            return
        self._working = True
        try:
            self.engine.tick()
            wanted = self.replica.pump()
            self.engine.replicate()
        finally:
            self._working = False
        self._cluster.checker.observe(self)
        if self.journal.written > self.journal.durable:
            flush = self.journal.begin_flush()
            if flush is not None:
                self._later(self._world.rng.choice(FLUSH_S), lambda: self._flushed(flush))
        deadline = min(self.engine.next_deadline(), wanted)
        if deadline < self._woken_at:
            self._woken_at = deadline
            self._later(max(0.0, deadline - self._world.now), lambda: self._wake(deadline))

    def _flushed(self, flush: MemoryFlush) -> None:
        if self.paused:
            self._later(0.01, lambda: self._flushed(flush))
            return
        flush.run()
        self.journal.end_flush(flush)
        self.engine.on_durable()
        self._work()

    def _wake(self, deadline: float) -> None:
        if deadline == self._woken_at:
            self._woken_at = float("inf")
            self._work()

    # --- state, store and snapshots ---------------------------------------------------------------

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        machine = self.replica.machine
        self._cluster.checker.applying(self, index, payload)
        self.replica.apply(index, term, payload)
        self._cluster.checker.applied(self, index, machine.state)

    def _checkpoint(self) -> None:
        self._later(CHECKPOINT_S, self._checkpoint)
        index = self.engine.applied_index
        if self.paused or self._checkpointing or index <= self._store.applied[0]:
            return
        term, before = self.journal.term_at(index), self.journal.term_at(index - 1)
        assert term is not None
        self._checkpointing = True
        store = self._store
        job = store.begin_checkpoint((index, term), (index - 1, before or 0), take_changes(self.state))

        def finish() -> None:
            if store is not self._store:
                return
            if self.journal.durable_index < index:
                self._later(0.01, finish)
                return
            job.run()
            store.end_checkpoint(job)
            self._checkpointing = False
            self._world.counts["checkpoints"] += 1
            self.journal.drop_before(index - TRAILING_ENTRIES)

        self._later(0.005, finish)

    def _send_snapshot(self, peer: str) -> None:
        if self._store.applied[0]:
            self._world.counts["snapshots sent"] += 1
            self._send(peer, ("snapshot", self._store.after_crash()))

    def _install(self, store: MemoryStore) -> None:
        (index, term), previous = store.applied, store.previous
        if not self.engine.offered_snapshot(index, term):
            return
        self._world.counts["snapshots installed"] += 1
        self._world.note(f"{self.name} installs a snapshot of entry {index}")
        since = self.engine.applied_index
        self.engine.suspend_applying()
        self.replica.suspend()
        self._store = store.after_crash()
        self._checkpointing = False
        self.replica.installed(restore(self._store.records()), self._store, since)
        self.engine.snapshot_installed(index, term, previous)

    # --- clients ----------------------------------------------------------------------------------

    def accept(self, driver: Any) -> Connection:
        """A client has connected."""
        self._epoch = max(self._epoch + 1, int(self._world.now * 1e6))
        connection = Connection(
            self.context, cid=len(self.connections) + 1, epoch=self._epoch, address=("client", 1)
        )
        connection.attach(driver)
        self.connections.append(connection)
        return connection

    def _release(self) -> None:
        for connection in self.connections:
            connection.release()
