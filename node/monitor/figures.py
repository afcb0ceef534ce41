"""What monitoring needs to know, as plain values, and who tells it: the `Source`.

The shell implements `Source` over its real objects; tests over fakes. Everything is read in one go
or between the steps of a view, on the node's own event loop, and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from node.core.state import State


@dataclass(frozen=True, slots=True)
class Peering:
    """Where a node listens for others, and whom it was told of."""

    host: str
    port: int
    """0: it listens for nobody."""
    urls: Sequence[str]
    """``host:port`` of members and routing peers that are configured."""
    is_tls: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same while the process lives. Times are Unix nanoseconds."""

    name: str
    """The node's name."""
    cluster_id: str
    server_id: str
    """Of the NATS server; random for each process."""
    streaming_id: str
    """Of the streaming server; random for each process, and another one."""
    version: str
    start_ns: int
    is_clustered: bool
    """The cluster has more than one member."""
    host: str
    port: int
    """Where clients connect."""
    http_host: str
    http_port: int
    auth_required: bool
    auth_timeout_ns: int
    max_connections: int
    max_payload: int
    max_control_line: int
    max_pending: int
    ping_interval_ns: int
    ping_max: int
    write_deadline_ns: int
    peers: Peering | None = None
    """How other nodes are reached; None: this node has nothing to do with any."""
    durability: str = "fsync"
    """When a publish is acknowledged: see ``raft.durability``."""
    store: str = "file"
    """Where messages are kept: ``file`` or ``memory``."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of this node since the process started."""

    connections_total: int = 0
    """Client connections there have been, closed ones included."""
    slow_consumers: int = 0
    """Client connections that were cut off because they read too slowly."""
    in_msgs: int = 0
    in_bytes: int = 0
    out_msgs: int = 0
    out_bytes: int = 0
    """NATS messages from and to clients; bytes of payload."""
    streaming_in_msgs: int = 0
    streaming_in_bytes: int = 0
    """Publishes to the streaming service that came in at this node; bytes of payload."""
    streaming_out_msgs: int = 0
    streaming_out_bytes: int = 0
    """Messages this node sent to streaming subscriptions, redeliveries included; bytes of MsgProto."""


@dataclass(frozen=True, slots=True)
class Interest:
    """The routing table of this node."""

    subscriptions: int = 0
    """Of clients here, of other nodes and of the node's own services."""
    cached: int = 0
    inserts: int = 0
    removes: int = 0
    matches: int = 0
    cache_hit_rate: float = 0.0
    max_fanout: int = 0
    average_fanout: float = 0.0


@dataclass(frozen=True, slots=True)
class NatsSubscription:
    """One subscription of a client connection or of the node itself (``cid`` 0)."""

    subject: str
    queue: str
    sid: str
    cid: int
    msgs: int = 0
    """Messages delivered to it."""
    max_msgs: int = 0
    """It ends after so many; 0: never."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One client connection. Times are Unix nanoseconds."""

    cid: int
    ip: str
    port: int
    start_ns: int
    last_activity_ns: int
    subscriptions: int = 0
    pending_bytes: int = 0
    in_msgs: int = 0
    out_msgs: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    rtt_ns: int | None = None
    name: str = ""
    lang: str = ""
    version: str = ""
    user: str = ""
    """Whom it authenticated as; shown only when asked for."""
    stop_ns: int | None = None
    """When it closed; None: it is open."""
    reason: str = ""
    """Why it closed."""


@dataclass(frozen=True, slots=True)
class Route:
    """The link to one other node, of this cluster or of another."""

    rid: int
    name: str
    dialled: bool
    """This node opened it."""
    ip: str
    port: int
    start_ns: int
    last_activity_ns: int
    subscriptions: int = 0
    """Subjects the other node is interested in."""
    subjects: Callable[[], Iterable[str]] = tuple
    """Which those are."""
    is_configured: bool = True
    """Where it is, this node was told; else it came by itself, or was heard of."""
    pending_bytes: int = 0
    in_msgs: int = 0
    out_msgs: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    rtt_ns: int | None = None
    dropped_msgs: int = 0
    """Messages of clients that were not sent to it since this node started: too much waited for it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member, as this node sees it."""

    name: str
    is_connected: bool
    last_contact_ns: int | None
    """How long ago it was last heard; None: not since this process started."""
    match_index: int = 0
    """The last entry known to be on its disk; only a leader knows."""
    next_index: int = 0
    """The next entry to send it; only a leader knows."""
    state: str = ""
    """How it is being sent entries: ``probe``, ``replicate``, ``snapshot``; only a leader knows."""


@dataclass(frozen=True, slots=True)
class Raft:
    """How this node stands in its group."""

    role: Literal["leader", "follower", "candidate"]
    term: int
    leader: str | None
    is_ready: bool
    """It leads and has applied an entry of its own term."""
    first_index: int
    last_index: int
    durable_index: int
    """The last entry on this node's own disk."""
    commit_index: int
    applied_index: int
    members: Sequence[str] = ()
    peers: Sequence[Peer] = ()
    learners: Sequence[str] = ()
    """The members that don't vote yet."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What this node knows of how far it and the others agree."""

    clock_offset_ns: int | None = None
    """How far its wall clock is ahead of the median of the cluster's; None: nobody has said yet."""
    clock_is_wrong: bool = False
    """That is more than is allowed."""
    timestamps_behind_ns: int = 0
    """How far timestamps are behind the median; ahead if negative."""
    state_agreed_index: int = 0
    """The last entry after which another node is known to have had the same state; 0: none yet."""


@dataclass(frozen=True, slots=True)
class EventLoop:
    """The lengths of the event loop's rounds in the last minute: so long everybody else waits for a turn."""

    p50_ms: int = 0
    p99_ms: int = 0
    """Rounded up; 256 stands for everything longer."""
    longest_ms: float = 0.0


class Source(Protocol):
    """A running node, as monitoring sees it."""

    @property
    def identity(self) -> Identity: ...

    @property
    def state(self) -> State:
        """What this node has applied."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""

    def cluster_time_ns(self) -> int:
        """The best estimate of cluster time at this moment, for AckWaits that count down."""

    def unhealthy(self) -> str:
        """Why the node can't serve: it hears no leader, it is restoring. Empty: it can."""

    def warnings(self) -> Sequence[str]:
        """What of this node and its machine an operator should look after, although it serves."""

    def raft(self) -> Raft: ...

    def agreement(self) -> Agreement: ...

    def event_loop(self) -> EventLoop: ...

    def traffic(self) -> Traffic: ...

    def interest(self) -> Interest: ...

    def connect_urls(self) -> Sequence[str]:
        """``host:port`` of every node that takes clients."""

    @property
    def connection_count(self) -> int:
        """Open client connections."""

    def connections(self, *, closed: bool) -> Iterator[Connection]:
        """The open client connections, oldest first, or the last closed ones as far as they are remembered.

        Each is looked at when it is taken; taking one costs some microseconds.
        """

    def subscriptions(self, cid: int | None = None) -> Iterator[NatsSubscription]:
        """Those of one client connection, or all of this node's clients; made one by one when taken."""

    def subscription_count(self) -> int:
        """How many `subscriptions` there are of all connections."""

    def routes(self) -> Sequence[Route]: ...
