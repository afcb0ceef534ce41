"""A Raft group in a simulated world: real engines, journals in memory, a small state machine.

A `RaftServer` stands for a process and its disk. Its engine is driven as `node.raft.driver` drives it:
frames, tick, flush, then sleep until the engine's next deadline. The state machine is the list of applied
batches. Its store is a copy of that list, saved now and then, and never ahead of what is durable in the
journal, which then drops its prefix. A peer that needs dropped entries is sent the copy.

With *spares*, a group has more servers than members. A spare is recruited when a leader adds it: its disk is
wiped, and its directory gets a new ID, which it sends when a link comes up. A server that applies its own
removal is retired. A removed server that never learns of it keeps running, and must do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from node.errors import RefusedError, UnavailableError
from node.raft.engine import Engine
from node.raft.membership import Membership
from node.raft.ports import Limits, Role, Timing
from node.simulator.journal import FlushedJournal, JournalDisk, Medium, MemoryJournal, Tape
from node.simulator.network import CALM, Network, Weather
from node.simulator.raft_checks import RaftChecker, State, ViolationError
from node.simulator.raft_model import RaftModel
from node.simulator.world import World

TIMING = Timing(election_min_s=0.3, election_max_s=0.6, heartbeat_s=0.05)
LIMITS = Limits(frame_bytes=300, window_bytes=2000)
"""So small that short logs already need many frames."""

FLUSH_S = (0.0005, 0.002, 0.002, 0.01, 0.04)
"""The duration of a flush is drawn from these."""


class Snapshot(NamedTuple):
    """A state, stored or in transit: it contains everything up to entry ``up_to``."""

    up_to: int
    term: int
    previous: tuple[int, int]
    state: State
    membership: Membership | None


_EMPTY = Snapshot(0, 0, (0, 0), [], None)


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """Options of a group."""

    nodes: int = 3
    weather: Weather = field(default=CALM)
    timing: Timing = field(default=TIMING)
    limits: Limits = field(default=LIMITS)
    flush_s: tuple[float, ...] = FLUSH_S
    real_journal: bool = False
    """Use the real journal on a simulated disk instead of one in memory."""
    spares: int = 0
    """Number of servers that are not initial voters and can be added later."""


class RaftServer:
    """One process that can be started, killed, paused, and cut off from power."""

    def __init__(self, group: RaftGroup, name: str, initial_voters: Membership | None) -> None:
        self.name = name
        self.initial_voters = initial_voters
        """The membership it got when it was created or recruited; None: it is not recruited."""
        self.directory = ""
        self.up = False
        self.paused = False
        self.journal: FlushedJournal
        self.engine: Engine
        self.state: State = []
        self._group = group
        self._world = group.world
        self._medium = self._new_medium()
        self._store = _EMPTY
        self._invited_at = 0
        self._linked_directories: dict[str, str] = {}  # the linked peers and their directories
        self._life = 0
        self._inbox: list[tuple[str, Any]] = []
        self._paused_at = 0.0
        self._wake_up_at = float("inf")
        self._led_term = 0
        self._seen_commit = 0

    def _new_medium(self) -> Medium:
        return JournalDisk(self._world.rng, self.name) if self._group.options.real_journal else Tape()

    @property
    def log(self) -> FlushedJournal:
        return self.journal

    @property
    def is_ready(self) -> bool:
        return self.up and self.engine.is_ready

    @property
    def leads(self) -> bool:
        return self.up and self.engine.role is Role.LEADER

    @property
    def applied(self) -> int:
        return self.engine.applied_index

    # --- life and death ---------------------------------------------------------------------------

    def recruit(self, index: int, membership: Membership) -> None:
        """Wipe the disk and become a new member, added by the entry ``index``. Call `start` afterwards."""
        self.crash(power=False)
        self._world.counts["recruited"] += 1
        self.directory = f"directory {self._world.counts['recruited']} of {self.name}"
        self._world.record(f"{self.name} begins again with {self.directory}")
        self.initial_voters, self._invited_at = membership, index
        self._medium, self._store = self._new_medium(), _EMPTY
        self._group.model.emptied(self.name)
        self._led_term = 0

    def retire(self) -> None:
        """Stop for good: the server has applied its own removal."""
        self.crash(power=False)
        self._world.counts["retired"] += 1
        self.initial_voters = None

    def start(self) -> None:
        if self.up or self.initial_voters is None:
            return
        self.up, self.paused = True, False
        self._life += 1
        self._inbox.clear()
        self._linked_directories.clear()
        self._wake_up_at = float("inf")
        self.journal = journal = self._medium.open()
        stored = self._store
        self.state = list(stored.state)
        if stored.up_to and not journal.first_index <= stored.up_to <= journal.last_index:
            # The store was in place before the journal's new base was durable.
            assert stored.membership is not None
            journal.reset((stored.up_to, stored.term), stored.previous, stored.membership.encode())
        self.engine = Engine(
            node=self.name,
            members=self.initial_voters,
            journal=journal,
            applied=stored.up_to,
            timing=self._group.options.timing,
            clock=self._world.clock,
            rng=self._world.rng,
            send=self._send,
            apply=self._apply,
            listener=self,
            limits=self._group.options.limits,
            directory=self.directory,
        )
        self._seen_commit = self.engine.commit_index
        self._group.model.started(self.name, self.engine.commit_index)
        self._world.record(f"{self.name} starts at entry {stored.up_to} of {journal.last_index}")
        self._group.network.connect_all(self.name)
        self._work()

    def crash(self, *, power: bool) -> None:
        """Kill the process; with ``power``, the disk also loses data that no flush has made durable."""
        if not self.up:
            return
        self._world.counts["crashes"] += 1
        self._world.record(f"{self.name} dies{' with its power' if power else ''}")
        self.up = self.paused = False
        self._inbox.clear()
        self._life += 1
        self._group.network.cut_all(self.name)
        self._medium.killed()
        if power:
            self._world.counts["operations lost"] += self._medium.lose(self._world.rng)

    def pause(self, seconds: float) -> None:
        """Stop the process for a while; messages that arrive wait in its sockets."""
        if self.up and not self.paused:
            self._world.record(f"{self.name} pauses for {seconds:.2f} s")
            self.paused, self._paused_at = True, self._world.now
            life = self._life
            self._world.after(seconds, lambda: self.resume() if self._life == life else None)

    def resume(self) -> None:
        if not self.paused:
            return
        self._world.record(f"{self.name} resumes")
        self.paused = False
        inbox, self._inbox = self._inbox, []
        if self._world.happens(0.5):
            self.engine.paused(self._world.now - self._paused_at)
        for peer, message in inbox:
            self._take(peer, message)
        self._tick()

    # --- network ----------------------------------------------------------------------------------

    def link_up(self, peer: str) -> None:
        directory = self._linked_directories[peer] = self._group.server(peer).directory
        self.engine.connected(peer, directory)
        self._work()

    def directory_of(self, peer: str) -> str | None:
        """Return the directory that ``peer`` sent on the current link."""
        return self._linked_directories.get(peer)

    def link_down(self, peer: str) -> None:
        if self._linked_directories.pop(peer, None) is None:
            return
        self._inbox = [(sender, message) for sender, message in self._inbox if sender != peer]
        self.engine.disconnected(peer)
        self._work()

    def deliver(self, peer: str, message: Any) -> None:
        if peer not in self._linked_directories:
            return
        if self.paused:
            self._inbox.append((peer, message))
        else:
            self._take(peer, message)

    def _send(self, peer: str, message: Any) -> None:
        self._group.model.sent(self.name, peer, message, self.journal)
        self._group.network.send(self.name, peer, message)

    def _take(self, peer: str, message: Any) -> None:
        if isinstance(message, Snapshot):
            self._install(message)
        else:
            self._group.model.received(self.name, peer, message, self.journal)
            self.engine.receive(peer, message)
        self._tick()

    # --- driving ----------------------------------------------------------------------------------

    def propose(self, payload: bytes) -> None:
        self.engine.propose(payload)
        self._work()

    def change_members(self, new: Membership) -> int | None:
        """Propose a membership to this server. Returns None if it refuses."""
        try:
            index = self.engine.change_membership(new)
        except (RefusedError, UnavailableError) as error:
            self._world.counts["changes refused"] += 1
            self._world.record(f"{self.name} makes no change: {error}")
            return None
        self._world.counts["changes"] += 1
        self._world.record(f"{self.name} appends at {index}: {describe(new)}")
        self._work()
        return index

    def holds(self, index: int, term: int) -> bool:
        """Return True if entry ``index`` of ``term`` is durable here, or covered by an installed snapshot."""
        if not self.up and isinstance(self._medium, Tape):
            journal: FlushedJournal = MemoryJournal(self._medium)
        else:
            journal = self.journal
        if index < journal.first_readable:
            return True
        return journal.durable_index >= index and journal.term_at(index) == term

    def _work(self) -> None:
        """Check, send, flush, and sleep until the next deadline. Called after each event."""
        self._observe()
        self.engine.replicate()
        if self.journal.written > self.journal.durable:
            flush = self.journal.begin_flush()
            if flush is not None:
                life = self._life
                delay = self._world.rng.choice(self._group.options.flush_s)
                self._world.after(delay, lambda: self._flushed(flush, life))
        deadline = self.engine.next_deadline()
        if deadline < self._wake_up_at:
            self._wake_up_at = deadline
            life = self._life
            self._world.after(max(0.0, deadline - self._world.now), lambda: self._wake(deadline, life))

    def _flushed(self, flush: Any, life: int) -> None:
        if life != self._life:
            return
        if self.paused:
            self._world.after(0.01, lambda: self._flushed(flush, life))
            return
        flush.run()
        self.journal.end_flush(flush)
        self.engine.on_durable()
        self._work()

    def _wake(self, deadline: float, life: int) -> None:
        if life == self._life and deadline == self._wake_up_at:
            self._wake_up_at = float("inf")
            if not self.paused:
                self._tick()

    def _tick(self) -> None:
        self.engine.tick()
        self._work()

    def _observe(self) -> None:
        engine, checker = self.engine, self._group.checker
        self.check_membership()
        self._group.model.stepped(self.name, engine, self.journal)
        if engine.role is Role.LEADER:
            if engine.term > self._led_term:
                self._led_term = engine.term
                self._world.counts["elections"] += 1
                self._world.record(f"{self.name} leads term {engine.term}")
                checker.elected(self.name, engine.term, self.journal)
            if engine.commit_index > self._seen_commit:
                checker.commits(self.name, self.journal, engine.term, self._seen_commit, engine.commit_index)
                self._group.check_majority(self)
        self._seen_commit = engine.commit_index

    def check_membership(self) -> None:
        """Check that this server uses the last membership in its log, committed or not."""
        engine = self.engine
        since, _ = self.journal.membership or (0, b"")
        if engine.membership_index != since:
            raise ViolationError(
                "membership",
                f"{self.name} uses the one of entry {engine.membership_index}, its log has that of {since}",
            )

    # --- state, store and snapshots -----------------------------------------------------------------

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self._group.checker.applies(self.name, index, term, payload, self.state)
        self.state.append((index, payload))

    def checkpoint(self, keep: int) -> None:
        """Store the state if the journal is durable that far; drop all but ``keep`` earlier entries."""
        index = self.engine.applied_index
        term, previous = self.journal.term_at(index), self.journal.term_at(index - 1)
        if index - self._store.up_to < 25 or self.journal.durable_index < index:
            return
        if index < self._invited_at:
            return  # the membership at that index is not the one it was recruited with
        assert term is not None
        assert previous is not None
        self._world.counts["checkpoints"] += 1
        members = self.engine.membership_at(index)
        self._store = Snapshot(index, term, (index - 1, previous), list(self.state), members)
        self.journal.drop_before(index - keep)
        self._work()

    def _install(self, snapshot: Snapshot) -> None:
        self._group.model.installed(self.name, snapshot.up_to)
        if not self.engine.offered_snapshot(snapshot.up_to, snapshot.term):
            return
        self._world.counts["snapshots installed"] += 1
        self.engine.suspend_applying()
        self._store = snapshot
        self.state = list(snapshot.state)
        self.engine.snapshot_installed(snapshot.up_to, snapshot.term, snapshot.previous, snapshot.membership)

    def needs_snapshot(self, peer: str) -> None:
        self._world.counts["snapshots sent"] += 1
        self._group.network.send(self.name, peer, self._store)

    # --- other callbacks of the engine ----------------------------------------------------------------

    def role_changed(self, role: Role, term: int, leader: str | None, cause: str) -> None:
        self._world.record(f"{self.name} is {role} in term {term} under {leader}: {cause}")

    def applied_to(self, index: int, term: int) -> None:
        pass

    def leader_payload(self) -> None:
        return None

    def follower_payload(self) -> None:
        return None

    def leader_payload_received(self, peer: str, payload: Any) -> None:
        pass

    def follower_payload_received(self, peer: str, payload: Any) -> None:
        pass

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        self._world.counts["lost entries reported"] += 1

    def commit_learned(self, commit: int, term: int) -> None:
        pass

    def membership_changed(self, membership: Membership, index: int) -> None:
        self._world.record(f"{self.name} uses {describe(membership)}, of entry {index}")

    def membership_committed(self, membership: Membership, index: int) -> None:
        checker, journal = self._group.checker, self.journal
        if index >= journal.first_readable:
            checker.passes(self.name, index, journal.term_at(index) or 0, journal.payload_at(index))
        checker.members_applied(self.name, index, membership)
        member = membership.get(self.name)
        gone = member is None or member.directory not in {"", self.directory}
        if gone and index >= self._invited_at:
            life = self._life
            self._world.after(0.0, lambda: self.retire() if life == self._life else None)

    def member_left(self, name: str) -> None:
        self._world.counts["left"] += 1


def describe(membership: Membership) -> str:
    """Return the names of the members, learners in brackets."""
    return " ".join(member.name if member.voter else f"({member.name})" for member in membership.members)


class RaftGroup:
    """The servers, their network and the checker."""

    def __init__(self, world: World, options: GroupOptions) -> None:
        self.world = world
        self.options = options
        self.names = [f"n{number}" for number in range(1, options.nodes + options.spares + 1)]
        self.initial_voters = initial_voters = Membership.initial_voters(self.names[: options.nodes])
        self.checker = RaftChecker(initial_voters)
        self.model = RaftModel()
        self.servers = [
            RaftServer(self, name, initial_voters if initial_voters.get(name) else None)
            for name in self.names
        ]
        self._by_name = {server.name: server for server in self.servers}
        self.network = Network(world, self.servers, options.weather)
        self._proposed = 0

    def server(self, name: str) -> RaftServer:
        return self._by_name[name]

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def check_majority(self, leader: RaftServer) -> None:
        """Check that a leader's last committed entry is on the disks of a majority of the voters."""
        index = leader.engine.commit_index
        term = leader.journal.term_at(index) or 0
        placed = leader.journal.membership
        membership = self.initial_voters if placed is None else Membership.decode(placed[1])
        voters = [member for member in membership.members if member.voter]
        servers = [self.server(member.name) for member in voters]
        holders = [
            server.name
            for server, member in zip(servers, voters, strict=True)
            if server.directory == member.directory and server.holds(index, term)
        ]
        if 2 * len(holders) <= len(voters):
            raise ViolationError(
                "durability",
                f"{leader.name} commits entry {index} of term {term}, which of "
                f"{describe(membership)} only {' '.join(holders)} have",
            )

    def members(self) -> list[RaftServer]:
        """Return the servers that are members by the log of a ready leader; all if there is no leader."""
        leader = max(
            (server for server in self.servers if server.is_ready),
            key=lambda server: server.engine.term,
            default=None,
        )
        return (
            self.servers if leader is None else [self.server(name) for name in leader.engine.membership.names]
        )

    def propose(self, count: int) -> None:
        """Propose ``count`` batches on every server that believes it is the leader."""
        for server in self.servers:
            if server.leads and not server.paused:
                for _ in range(count):
                    self._proposed += 1
                    self.world.counts["proposed"] += 1
                    size = self.world.rng.choice((5, 20, 120))
                    server.propose(b"%06d" % self._proposed + b"." * size)

    def heal(self) -> None:
        """End all faults and restart the servers."""
        self.world.record("heal")
        self.network.calm()
        for server in self.servers:
            server.resume()
            server.start()
