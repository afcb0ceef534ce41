"""A group of engines on one table: every frame, flush and tick is moved by hand."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pysyncobj import syncobj
from pysyncobj.journal import FileJournal
from stock_library import Clock, Stock

from node.raft.engine import Engine
from node.raft.membership import Membership
from node.raft.ports import Limits, Message, Role, Timing
from node.simulator.journal import MemoryJournal, Tape

TIMING = Timing(election_min_s=0.3, election_max_s=0.6, heartbeat_s=0.05)


class Recorder:
    """A listener that records all events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.roles: list[tuple[Role, int, str | None, str]] = []
        self.passed: list[tuple[int, int]] = []
        self.leader_payloads: list[tuple[str, Any]] = []
        self.follower_payloads: list[tuple[str, Any]] = []
        self.snapshots: list[str] = []
        self.lost: list[tuple[str, int, int]] = []
        self.commits: list[tuple[int, int]] = []
        self.memberships: list[tuple[Membership, int]] = []
        self.kept: list[tuple[Membership, int]] = []
        self.left: list[str] = []

    def role_changed(self, role: Role, term: int, leader: str | None, cause: str) -> None:
        self.roles.append((role, term, leader, cause))

    def applied_to(self, index: int, term: int) -> None:
        self.passed.append((index, term))

    def leader_payload(self) -> Any:
        return f"from leader {self.name}"

    def follower_payload(self) -> Any:
        return f"from follower {self.name}"

    def leader_payload_received(self, peer: str, payload: Any) -> None:
        self.leader_payloads.append((peer, payload))

    def follower_payload_received(self, peer: str, payload: Any) -> None:
        self.follower_payloads.append((peer, payload))

    def needs_snapshot(self, peer: str) -> None:
        self.snapshots.append(peer)

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        self.lost.append((peer, acknowledged, last))

    def commit_learned(self, commit: int, term: int) -> None:
        self.commits.append((commit, term))

    def membership_changed(self, membership: Membership, index: int) -> None:
        self.memberships.append((membership, index))

    def membership_committed(self, membership: Membership, index: int) -> None:
        self.kept.append((membership, index))

    def member_left(self, name: str) -> None:
        self.left.append(name)


class Member:
    """One engine with its journal, clock and state. `start` it again after a crash."""

    def __init__(self, group: Group, name: str, initial_voters: Membership) -> None:
        self.group, self.name, self.tape = group, name, Tape()
        self.initial_voters = initial_voters
        self.directory: str | None = None
        self.applied: list[tuple[int, int, bytes]] = []
        self.on_apply: Callable[[int, int, bytes], None] = lambda index, term, payload: None
        self.stored = 0
        self.start()

    def start(self) -> None:
        self.received = Recorder(self.name)
        self.journal = MemoryJournal(self.tape)
        self.engine = Engine(
            node=self.name,
            members=self.initial_voters,
            journal=self.journal,
            applied=self.stored,
            timing=TIMING,
            clock=lambda: self.group.now,
            rng=random.Random(self.name),
            send=lambda to, message: self.group.wire.append((self.name, to, message)),
            apply=self._apply,
            listener=self.received,
            limits=self.group.limits,
            directory=self.directory,
        )

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self.on_apply(index, term, payload)
        self.applied.append((index, term, payload))

    def flush(self) -> None:
        self.journal.flush()
        self.engine.on_durable()
        self.engine.replicate()

    def write(self, *payloads: bytes) -> int:
        for payload in payloads:
            last = self.engine.propose(payload)
        self.engine.replicate()
        return last

    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.applied]

    def log(self) -> list[tuple[int, int]]:
        first, last = self.journal.first_index, self.journal.last_index
        return [(index, self.journal.term_at(index) or 0) for index in range(first, last + 1)]


class Group:
    def __init__(self, names: str, limits: Limits | None = None) -> None:
        self.names = list(names)
        self.limits = limits
        self.now = 100.0
        self.wire: deque[tuple[str, str, Message]] = deque()
        self.cut: set[tuple[str, str]] = set()
        self.members = {
            name: Member(self, name, Membership.initial_voters(self.names)) for name in self.names
        }
        for a in self.names:
            for b in self.names:
                if a != b:
                    self.members[a].engine.connected(b)

    def join(self, name: str, directory: str | None = None) -> Member:
        """Start an empty, connected node that is not a member; it regards itself as a learner.

        With a directory, its hellos contain the directory's id.
        """
        initial_voters = Membership.initial_voters(self.names).with_learner(name, f"{name}:1")
        member = self.members[name] = Member(self, name, initial_voters)
        self.names.append(name)
        for other in self.names[:-1]:
            self.members[other].engine.connected(name, directory)
            member.engine.connected(other)
        return member

    def leave(self, name: str) -> None:
        """Stop a node for good."""
        self.names.remove(name)
        del self.members[name]
        self.wire = deque(item for item in self.wire if name not in item[:2])
        for member in self.members.values():
            member.engine.disconnected(name)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def deliver(self, count: int | None = None, *, to: str | None = None) -> int:
        """Deliver frames in order, encoded with msgpack as on the wire; cut links lose them."""
        moved = 0
        kept = deque[tuple[str, str, Message]]()
        while self.wire and (count is None or moved < count):
            sender, receiver, message = self.wire.popleft()
            if to is not None and receiver != to:
                kept.append((sender, receiver, message))
                continue
            moved += 1
            if (sender, receiver) not in self.cut:
                packed = msgpack.packb(message)
                self.members[receiver].engine.receive(sender, msgpack.unpackb(packed))
        self.wire.extendleft(reversed(kept))
        return moved

    def settle(self) -> None:
        """Flush, tick and deliver until no more frames are sent."""
        for _ in range(100):
            for member in self.members.values():
                member.flush()
            if not self.deliver():
                return
        raise AssertionError("frames without end")

    def advance(self, seconds: float, *, step_s: float = 0.01) -> None:
        """Advance the clock in steps, and settle at every step."""
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            for member in self.members.values():
                if member.engine.next_deadline() <= self.now:
                    member.engine.tick()
                    member.engine.replicate()
            self.settle()

    def isolate(self, name: str) -> None:
        self.cut |= {(name, other) for other in self.names} | {(other, name) for other in self.names}

    def heal(self) -> None:
        self.cut.clear()

    def elect(self, name: str) -> Member:
        """Let the election timer of ``name`` expire first."""
        member = self.members[name]
        deadline = max(m.engine._election.deadline for m in self.members.values())
        for other in self.members.values():
            other.engine._election.deadline = deadline + 1
        member.engine._election.deadline = self.now
        self.now += TIMING.election_min_s
        member.engine.tick()
        self.settle()
        assert member.engine.is_ready, member.received.roles
        return member

    def restart(self, name: str) -> Member:
        member = self.members[name]
        self.wire = deque(item for item in self.wire if name not in item[:2])
        for other in self.names:
            if other != name:
                self.members[other].engine.disconnected(name)
        member.start()
        for other in self.names:
            if other != name:
                self.members[other].engine.connected(name)
                member.engine.connected(other)
        return member


@pytest.fixture
def group() -> Callable[..., Group]:
    return Group


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stock]]:
    """The unmodified library: each call creates a node."""
    clock = Clock()
    nodes: list[Stock] = []

    def start(names: str = "abc", **conf: Any) -> Stock:
        nodes.append(Stock(clock, names, **conf))
        return nodes[-1]

    monkeypatch.setattr(syncobj, "monotonicTime", lambda: clock.now)
    logging.disable(logging.CRITICAL)
    yield start
    logging.disable(logging.NOTSET)
    for node in nodes:
        node.destroy()


@pytest.fixture
def stock_journal(tmp_path: Path) -> Iterator[Callable[[], FileJournal]]:
    """The unmodified library's log in a file, opened at each call."""
    journals: list[FileJournal] = []

    def start() -> FileJournal:
        journals.append(FileJournal(str(tmp_path / "journal")))
        return journals[-1]

    yield start
    for journal in journals:
        journal._destroy()
