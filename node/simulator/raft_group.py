"""A Raft group in a simulated world: real engines, journals in memory, a small state machine.

A host stands for a process and its disk. Its engine is driven as `node.raft.driver` drives it:
frames, tick, flush, and asleep until the engine's next deadline. The state machine is the list of
batches it was given; its store is a copy of that list, made now and then, no further than what is
durable in the journal, which then drops its prefix. A peer that needs what was dropped is sent the
copy.

With *spares* a group has more hosts than members. A spare is recruited when a leader adds it: its disk
is wiped and its directory gets a new id, which it says when a link comes up. A host that applies its
own removal is retired; one that never hears of it goes on, and must do no harm.
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
"""Small, so that short logs already need many frames."""

FLUSH_S = (0.0005, 0.002, 0.002, 0.01, 0.04)
"""How long a flush may take: one of these."""


class Snapshot(NamedTuple):
    """A state, durably stored or on its way: it contains everything up to entry ``up_to``."""

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
    """The journal that nodes have, on a simulated disk, instead of one in memory."""
    spares: int = 0
    """Hosts that found nothing and can be added later."""


class RaftServer:
    """One process that can be started, killed, paused and robbed of its power."""

    def __init__(self, group: RaftGroup, name: str, initial_voters: Membership | None) -> None:
        self.name = name
        self.initial_voters = initial_voters
        """What it was told when it was made or recruited; None: it wasn't."""
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
        self._said: dict[str, str] = {}  # the peers that are linked, and their directories
        self._life = 0
        self._inbox: list[tuple[str, Any]] = []
        self._paused_at = 0.0
        self._woken_at = float("inf")
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
        """Be somebody new, with an empty disk, invited by the entry ``index``; `start` it then."""
        self.crash(power=False)
        self._world.counts["recruited"] += 1
        self.directory = f"directory {self._world.counts['recruited']} of {self.name}"
        self._world.note(f"{self.name} begins again with {self.directory}")
        self.initial_voters, self._invited_at = membership, index
        self._medium, self._store = self._new_medium(), _EMPTY
        self._group.model.emptied(self.name)
        self._led_term = 0

    def retire(self) -> None:
        """It has learnt that it left."""
        self.crash(power=False)
        self._world.counts["retired"] += 1
        self.initial_voters = None

    def start(self) -> None:
        if self.up or self.initial_voters is None:
            return
        self.up, self.paused = True, False
        self._life += 1
        self._inbox.clear()
        self._said.clear()
        self._woken_at = float("inf")
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
        self._world.note(f"{self.name} starts at entry {stored.up_to} of {journal.last_index}")
        self._group.network.connect_all(self.name)
        self._work()

    def crash(self, *, power: bool) -> None:
        """Kill the process; with ``power`` the disk also loses what no flush has made durable."""
        if not self.up:
            return
        self._world.counts["crashes"] += 1
        self._world.note(f"{self.name} dies{' with its power' if power else ''}")
        self.up = self.paused = False
        self._inbox.clear()
        self._life += 1
        self._group.network.cut_all(self.name)
        self._medium.killed()
        if power:
            self._world.counts["operations lost"] += self._medium.lose(self._world.rng)

    def pause(self, seconds: float) -> None:
        """Stop the process for a while; what arrives waits in its sockets."""
        if self.up and not self.paused:
            self._world.note(f"{self.name} pauses for {seconds:.2f} s")
            self.paused, self._paused_at = True, self._world.now
            life = self._life
            self._world.after(seconds, lambda: self.resume() if self._life == life else None)

    def resume(self) -> None:
        if not self.paused:
            return
        self._world.note(f"{self.name} resumes")
        self.paused = False
        inbox, self._inbox = self._inbox, []
        if self._world.chance(0.5):
            self.engine.paused(self._world.now - self._paused_at)
        for peer, message in inbox:
            self._take(peer, message)
        self._tick()

    # --- network ----------------------------------------------------------------------------------

    def link_up(self, peer: str) -> None:
        directory = self._said[peer] = self._group.host(peer).directory
        self.engine.connected(peer, directory)
        self._work()

    def directory_of(self, peer: str) -> str | None:
        """What ``peer`` said on the present link."""
        return self._said.get(peer)

    def link_down(self, peer: str) -> None:
        if self._said.pop(peer, None) is None:
            return
        self._inbox = [(sender, message) for sender, message in self._inbox if sender != peer]
        self.engine.disconnected(peer)
        self._work()

    def deliver(self, peer: str, message: Any) -> None:
        if peer not in self._said:
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
        """Ask this host for another membership; None if it refuses."""
        try:
            index = self.engine.change_membership(new)
        except (RefusedError, UnavailableError) as error:
            self._world.counts["changes refused"] += 1
            self._world.note(f"{self.name} makes no change: {error}")
            return None
        self._world.counts["changes"] += 1
        self._world.note(f"{self.name} appends at {index}: {describe(new)}")
        self._work()
        return index

    def holds(self, index: int, term: int) -> bool:
        """Whether entry ``index`` of ``term`` is durable here, or in what a snapshot brought."""
        if not self.up and isinstance(self._medium, Tape):
            journal: FlushedJournal = MemoryJournal(self._medium)
        else:
            journal = self.journal
        if index < journal.first_readable:
            return True
        return journal.durable_index >= index and journal.term_at(index) == term

    def _work(self) -> None:
        """After anything that happened: look, send, flush, and sleep until the next deadline."""
        self._observe()
        self.engine.replicate()
        if self.journal.written > self.journal.durable:
            flush = self.journal.begin_flush()
            if flush is not None:
                life = self._life
                delay = self._world.rng.choice(self._group.options.flush_s)
                self._world.after(delay, lambda: self._flushed(flush, life))
        deadline = self.engine.next_deadline()
        if deadline < self._woken_at:
            self._woken_at = deadline
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
        if life == self._life and deadline == self._woken_at:
            self._woken_at = float("inf")
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
                self._world.note(f"{self.name} leads term {engine.term}")
                checker.elected(self.name, engine.term, self.journal)
            if engine.commit_index > self._seen_commit:
                checker.commits(self.name, self.journal, engine.term, self._seen_commit, engine.commit_index)
                self._group.check_majority(self)
        self._seen_commit = engine.commit_index

    def check_membership(self) -> None:
        """What this host goes by is what the end of its log says, committed or not."""
        engine = self.engine
        since, _ = self.journal.membership or (0, b"")
        if engine.membership_index != since:
            raise ViolationError(
                "membership",
                f"{self.name} goes by the one of entry {engine.membership_index}, its log by that of {since}",
            )

    # --- state, store and snapshots -----------------------------------------------------------------

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self._group.checker.applies(self.name, index, term, payload, self.state)
        self.state.append((index, payload))

    def checkpoint(self, keep: int) -> None:
        """Store the state, if the journal is as far on the disk; drop all but ``keep`` entries behind it."""
        index = self.engine.applied_index
        term, previous = self.journal.term_at(index), self.journal.term_at(index - 1)
        if index - self._store.up_to < 25 or self.journal.durable_index < index:
            return
        if index < self._invited_at:
            return  # who belonged to the group then is more than it was told
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

    # --- what else the engine tells -------------------------------------------------------------------

    def role_changed(self, role: Role, term: int, leader: str | None, cause: str) -> None:
        self._world.note(f"{self.name} is {role} in term {term} under {leader}: {cause}")

    def applied_to(self, index: int, term: int) -> None:
        pass

    def leader_note(self) -> None:
        return None

    def follower_note(self) -> None:
        return None

    def noted_leader(self, peer: str, note: Any) -> None:
        pass

    def noted_follower(self, peer: str, note: Any) -> None:
        pass

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        self._world.counts["lost entries reported"] += 1

    def commit_learned(self, commit: int, term: int) -> None:
        pass

    def membership_changed(self, membership: Membership, index: int) -> None:
        self._world.note(f"{self.name} goes by {describe(membership)}, of entry {index}")

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
    """Voters, and learners in brackets."""
    return " ".join(member.name if member.voter else f"({member.name})" for member in membership.members)


class RaftGroup:
    """The hosts, their network and the checker."""

    def __init__(self, world: World, options: GroupOptions) -> None:
        self.world = world
        self.options = options
        self.names = [f"n{number}" for number in range(1, options.nodes + options.spares + 1)]
        self.initial_voters = initial_voters = Membership.initial_voters(self.names[: options.nodes])
        self.checker = RaftChecker(initial_voters)
        self.model = RaftModel()
        self.hosts = [
            RaftServer(self, name, initial_voters if initial_voters.get(name) else None)
            for name in self.names
        ]
        self._by_name = {host.name: host for host in self.hosts}
        self.network = Network(world, self.hosts, options.weather)
        self._proposed = 0

    def host(self, name: str) -> RaftServer:
        return self._by_name[name]

    def start(self) -> None:
        for host in self.hosts:
            host.start()

    def check_majority(self, leader: RaftServer) -> None:
        """What a leader says is committed is on the disks of a majority of those who vote, by its log."""
        index = leader.engine.commit_index
        term = leader.journal.term_at(index) or 0
        placed = leader.journal.membership
        membership = self.initial_voters if placed is None else Membership.decode(placed[1])
        voters = [member for member in membership.members if member.voter]
        hosts = [self.host(member.name) for member in voters]
        holders = [
            host.name
            for host, member in zip(hosts, voters, strict=True)
            if host.directory == member.directory and host.holds(index, term)
        ]
        if 2 * len(holders) <= len(voters):
            raise ViolationError(
                "durability",
                f"{leader.name} commits entry {index} of term {term}, which of "
                f"{describe(membership)} only {' '.join(holders)} have",
            )

    def members(self) -> list[RaftServer]:
        """The hosts of those that belong to the group, by a ready leader's log; all if there is none."""
        leader = max(
            (host for host in self.hosts if host.is_ready), key=lambda host: host.engine.term, default=None
        )
        return self.hosts if leader is None else [self.host(name) for name in leader.engine.membership.names]

    def propose(self, count: int) -> None:
        """Every host that believes to lead proposes so many batches of its own."""
        for host in self.hosts:
            if host.leads and not host.paused:
                for _ in range(count):
                    self._proposed += 1
                    self.world.counts["proposed"] += 1
                    size = self.world.rng.choice((5, 20, 120))
                    host.propose(b"%06d" % self._proposed + b"." * size)

    def heal(self) -> None:
        """Nothing fails any more, and what did comes back."""
        self.world.note("heal")
        self.network.calm()
        for host in self.hosts:
            host.resume()
            host.start()
