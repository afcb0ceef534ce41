"""What the engine needs from the world and what it tells it: names, values and protocols.

The engine (`engine.py`) is sans-IO: it is handed a journal, a clock, a random generator, a way to
send and somebody to tell. Production gives it a journal on a disk, the monotonic clock and a
transport; the simulator gives it a world of its own. Both run the same engine.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from node.errors import ConfigError
from node.protocol.peer import FRAME_BYTES_MAX
from node.raft.membership import Membership
from node.units import Index, Term

Message: TypeAlias = dict[str, Any]
"""One frame between engines: plain values that msgpack can carry. `frames.py` knows the fields."""

Entry: TypeAlias = tuple[Index, Term, bytes]
"""One log entry; its first payload byte is an `EntryType`."""

Clock: TypeAlias = Callable[[], float]
"""Seconds that only elapse."""


class Role(enum.StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class EntryType(enum.IntEnum):
    """The byte in front of every entry's payload."""

    NO_OP = 0
    """The entry that opens a term, and entry 1 of every log."""
    BATCH = 1
    """What was proposed."""
    MEMBERSHIP = 2
    """The whole new membership (`node.raft.membership`), in force from when it is appended."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The three times of Raft, in seconds.

    Raises:
        ConfigError: the times don't fit each other.
    """

    election_min_s: float = 1.0
    """A follower that heard no leader for this long may be asked for its vote; it also asks for
    votes itself after a random time between this and ``election_max_s``."""
    election_max_s: float = 1.5
    """Also how long a leader leads without acks of a majority."""
    heartbeat_s: float = 0.075
    """How often a leader makes itself heard; under a third of ``election_min_s``."""

    def __post_init__(self) -> None:
        problems = []
        if self.heartbeat_s <= 0:
            problems.append(f"heartbeat {self.heartbeat_s} s: expected more than 0")
        if self.election_min_s <= 3 * self.heartbeat_s:
            problems.append(
                f"election timeout {self.election_min_s} s: expected more than three heartbeats "
                f"of {self.heartbeat_s} s"
            )
        if self.election_max_s <= self.election_min_s:
            problems.append(
                f"longest election timeout {self.election_max_s} s: expected more than the shortest, "
                f"{self.election_min_s} s"
            )
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what the engine does at once."""

    frame_bytes: int = 256 * 1024
    """Payload bytes of one append; one entry always fits, however large."""
    entry_bytes_max: int = FRAME_BYTES_MAX - 1024
    """Bytes of an entry that a frame can hold. A larger one is never sent: who needs it is sent a
    snapshot."""
    window_bytes: int = 8 * 1024 * 1024
    """Payload bytes sent to one peer and not yet acknowledged."""
    apply_s: float = 0.01
    """A tick stops applying after this long (at least one entry), and wants the next tick at once."""


class PeerState(NamedTuple):
    """How one peer stands, for monitoring. ``match`` and ``next`` mean something on a leader only."""

    name: str
    state: str
    """``probe``, ``replicate``, ``snapshot`` or ``lost`` (it misses entries that it acknowledged)."""
    match: int
    """The last entry known to be durable there."""
    next: int
    """The next entry that will be sent."""
    connected: bool
    contact_age_s: float | None
    """Seconds since its last ack in this term; None on a follower."""
    inflight_bytes: int
    voter: bool = True
    """False: a learner, or a removed member that is still served."""


class JournalView(Protocol):
    """The part of the journal that the engine uses. What it writes is durable only after a flush.

    ``written`` counts records: entries, truncations, terms. A promise made now may leave when
    ``durable`` has reached what ``written`` is now. Entries from ``first_index`` on have a term,
    those from ``first_readable`` on a payload too. An entry of type `EntryType.MEMBERSHIP` is in
    force from its append on; ``membership`` is what is in force at the end, and the entry it came with.
    """

    @property
    def first_index(self) -> int: ...
    @property
    def first_readable(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def durable_index(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def durable(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def voted_for(self) -> str | None: ...
    @property
    def membership(self) -> tuple[int, bytes] | None: ...
    def membership_at(self, index: int) -> tuple[int, bytes] | None: ...
    def set_term(self, term: int, voted_for: str | None) -> None: ...
    def term_at(self, index: int) -> int | None: ...
    def payload_at(self, index: int) -> bytes: ...
    def length_at(self, index: int) -> int: ...
    def read(self, index: int, max_bytes: int) -> list[Entry]: ...
    def append(self, index: int, term: int, payload: bytes) -> None: ...
    def truncate(self, from_index: int) -> None: ...
    def first_index_of_term_at(self, index: int) -> int: ...
    def reset(
        self, base: tuple[int, int], previous: tuple[int, int], membership: bytes | None = None
    ) -> None: ...


class Listener(Protocol):
    """Who is told what happens. None of these may raise or call back into the engine's methods.

    Notes are plain values that ride on the engine's own frames: a leader's on every append and
    heartbeat, a follower's on every ack, refusal, vote and pre-vote answer.
    """

    def role_changed(self, role: Role, term: int, leader: str | None, cause: str) -> None:
        """Role, term or known leader are no longer what was told last."""

    def applied_to(self, index: Index, term: Term) -> None:
        """An entry that carries no batch was passed: the next batch has a higher index."""

    def leader_payload(self) -> Any:
        """Asked when a frame leaves, so it may carry clocks."""

    def follower_payload(self) -> Any:
        """Asked when a frame leaves, after it waited for the disk."""

    def leader_payload_received(self, peer: str, payload: Any) -> None:
        """A frame of the current term's leader carried this."""

    def follower_payload_received(self, peer: str, payload: Any) -> None:
        """An answer of ``peer`` to this node, in this node's term, carried this."""

    def needs_snapshot(self, peer: str) -> None:
        """The log no longer reaches back to what ``peer`` needs. Told again from time to time."""

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        """``peer`` now lacks entries that it acknowledged in this term: its storage is broken."""

    def commit_learned(self, commit: int, term: int) -> None:
        """The leader of the current term said how far it has committed."""

    def membership_changed(self, membership: Membership, index: Index) -> None:
        """Another membership is in force on this node, since entry ``index``.

        Told when its entry was appended, when the entry of the one before was removed from the log,
        with a snapshot, and at the start, then from within the engine's constructor. It may not be
        committed yet, and may be undone.
        """

    def membership_committed(self, membership: Membership, index: Index) -> None:
        """The entry of that membership is applied, or a snapshot taken with it: it stays."""

    def member_left(self, name: str) -> None:
        """A removed member has learnt that it is removed, or was given time to: its links may go."""
