"""The interfaces of the engine: values, limits, and the protocols of what it uses and notifies.

The engine (`engine.py`) does no I/O. It receives a journal, a clock, a random generator, a function that
sends, and a listener. Production passes a journal on a disk, the monotonic clock and a transport; the
simulator passes simulated ones. Both run the same engine.
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
"""One frame between engines: plain values that msgpack can encode. `frames.py` defines the fields."""

Entry: TypeAlias = tuple[Index, Term, bytes]
"""One log entry; its first payload byte is an `EntryType`."""

Clock: TypeAlias = Callable[[], float]
"""Returns monotonic seconds."""


class Role(enum.StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class EntryType(enum.IntEnum):
    """The first byte of every entry's payload."""

    NO_OP = 0
    """The first entry of a term, and entry 1 of every log."""
    BATCH = 1
    """A proposed batch."""
    MEMBERSHIP = 2
    """The whole new membership (`node.raft.membership`), in force from its append on."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timeouts of Raft, in seconds.

    Raises:
        ConfigError: the values contradict each other.
    """

    election_min_s: float = 1.0
    """A follower without contact with a leader for this long grants pre-votes and votes. It asks for
    pre-votes itself after a random time between this and ``election_max_s``."""
    election_max_s: float = 1.5
    """Also the time after which a leader without acks of a majority steps down."""
    heartbeat_s: float = 0.075
    """Interval of a leader's heartbeats; less than a third of ``election_min_s``."""

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
    """Bounds of the work that the engine does at once."""

    frame_bytes: int = 256 * 1024
    """Payload bytes of one append; one entry is always sent, whatever its size."""
    entry_bytes_max: int = FRAME_BYTES_MAX - 1024
    """Maximum bytes of an entry in a frame. A larger one is never sent: a peer that needs it receives a
    snapshot."""
    window_bytes: int = 8 * 1024 * 1024
    """Maximum payload bytes sent to one peer and not yet acknowledged."""
    apply_s: float = 0.01
    """A tick stops applying after this long (at least one entry) and requests the next tick at once."""


class PeerState(NamedTuple):
    """The replication state of one peer, for monitoring. ``match`` and ``next`` are meaningful on a leader
    only.
    """

    name: str
    state: str
    """``probe``, ``replicate``, ``snapshot`` or ``lost`` (it misses entries that it acknowledged)."""
    match: int
    """The last entry known to be durable at the peer."""
    next: int
    """The next entry that will be sent."""
    connected: bool
    contact_age_s: float | None
    """Seconds since its last ack in this term; None on a follower."""
    inflight_bytes: int
    voter: bool = True
    """False: a learner, or a removed member that still receives the log."""


class JournalView(Protocol):
    """The part of the journal that the engine uses. Changes are durable only after a flush.

    ``written`` counts records: entries, truncations, terms and votes. A message that depends on the present
    state may be sent when ``durable`` has reached the present value of ``written``. Entries from
    ``first_index`` on have a term, those from ``first_readable`` on also a payload. A membership
    (`EntryType.MEMBERSHIP`) is in force from its append on; ``membership`` is the index and bytes of the one
    in force at the end of the log.
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
    """Receives the events of an engine. No method may raise or call the engine's methods.

    Heartbeat payloads are plain values attached to the engine's own frames: a leader's to every append and
    heartbeat, a follower's to every ack, refusal, vote and pre-vote answer.
    """

    def role_changed(self, role: Role, term: int, leader: str | None, cause: str) -> None:
        """Role, term or known leader have changed since the last call."""

    def applied_to(self, index: Index, term: Term) -> None:
        """An entry without a batch was skipped: the next batch has a higher index."""

    def leader_payload(self) -> Any:
        """Return the heartbeat payload of this leader; called when a frame is sent, so it may contain clock
        values.
        """

    def follower_payload(self) -> Any:
        """Return the heartbeat payload of this follower; called when a frame is sent, after it waited for the
        disk.
        """

    def leader_payload_received(self, peer: str, payload: Any) -> None:
        """A frame of the current term's leader carried ``payload``."""

    def follower_payload_received(self, peer: str, payload: Any) -> None:
        """An answer of ``peer`` to this node, in this node's term, carried ``payload``."""

    def needs_snapshot(self, peer: str) -> None:
        """The log no longer holds what ``peer`` needs. Repeated from time to time."""

    def lost_entries(self, peer: str, acknowledged: int, last: int) -> None:
        """``peer`` lacks entries that it acknowledged in this term: its storage is broken."""

    def commit_learned(self, commit: int, term: int) -> None:
        """The leader of the current term sent its commit index."""

    def membership_changed(self, membership: Membership, index: Index) -> None:
        """The membership in force on this node has changed to that of entry ``index``.

        Called when its entry was appended, when a later membership was removed from the log, with a snapshot,
        and at the start, from within the engine's constructor. The membership may not be committed yet, and
        may be undone.
        """

    def membership_committed(self, membership: Membership, index: Index) -> None:
        """The membership is committed: its entry was applied, or a snapshot with it was installed."""

    def member_left(self, name: str) -> None:
        """A removed member has learned of its removal, or its time for that is over: its links may be
        closed.
        """
