"""The data that monitoring shows, as plain values, and the `Source` that provides it.

The server implements `Source` with its real objects, tests with fakes. All data is read on the node's own
event loop, at once or between the steps of a view, and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from node.core.state import State


@dataclass(frozen=True, slots=True)
class Peering:
    """A node's address for other nodes, and the configured addresses of others."""

    host: str
    port: int
    """0: it does not listen."""
    urls: Sequence[str]
    """``host:port`` of the configured members and routing peers."""
    is_tls: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """Values that are constant for the process. Times are Unix nanoseconds."""

    name: str
    """The node's name."""
    cluster_id: str
    server_id: str
    """ID of the NATS server; random for each process."""
    streaming_id: str
    """ID of the streaming server; random for each process, and different from ``server_id``."""
    version: str
    start_ns: int
    is_clustered: bool
    """The cluster has more than one member."""
    host: str
    port: int
    """The address for clients."""
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
    """The addresses for other nodes; None: this node has no contact with others."""
    durability: str = "fsync"
    """When a publish is acknowledged; see ``raft.durability``."""
    store: str = "file"
    """Where messages are stored: ``file`` or ``memory``."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of this node since the process started."""

    connections_total: int = 0
    """All client connections, including closed ones."""
    slow_consumers: int = 0
    """Client connections that were closed because they read too slowly."""
    in_msgs: int = 0
    in_bytes: int = 0
    out_msgs: int = 0
    out_bytes: int = 0
    """NATS messages from and to clients; bytes of payload."""
    streaming_in_msgs: int = 0
    streaming_in_bytes: int = 0
    """Publishes to the streaming service that this node received; bytes of payload."""
    streaming_out_msgs: int = 0
    streaming_out_bytes: int = 0
    """Messages that this node sent to streaming subscriptions, including redeliveries; bytes of MsgProto."""


@dataclass(frozen=True, slots=True)
class Interest:
    """The routing table of this node."""

    subscriptions: int = 0
    """Subscriptions of local clients, of other nodes and of the node's own services."""
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
    """It ends after this many messages; 0: never."""


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
    """Its authenticated user; shown only on request."""
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
    """Number of subjects that the other node is interested in."""
    subjects: Callable[[], Iterable[str]] = tuple
    """Returns these subjects."""
    is_configured: bool = True
    """Its address is configured here; else it connected to this node, or was learned from others."""
    pending_bytes: int = 0
    in_msgs: int = 0
    out_msgs: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    rtt_ns: int | None = None
    dropped_msgs: int = 0
    """Clients' messages that were not sent to it since this node started, because too much was queued for
    it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member, as this node sees it."""

    name: str
    is_connected: bool
    last_contact_ns: int | None
    """Time since it last sent something; None: it has not since this process started."""
    match_index: int = 0
    """The last entry known to be on its disk; only on a leader."""
    next_index: int = 0
    """The next entry to send it; only on a leader."""
    state: str = ""
    """Its replication state: ``probe``, ``replicate``, ``snapshot``; only on a leader."""


@dataclass(frozen=True, slots=True)
class Raft:
    """The state of this node in its Raft group."""

    role: Literal["leader", "follower", "candidate"]
    term: int
    leader: str | None
    is_ready: bool
    """It is the leader and has applied an entry of its own term."""
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
    """How far this node's clock and state agree with those of the other nodes."""

    clock_offset_ns: int | None = None
    """How far its wall clock is ahead of the cluster's median; None: not known yet."""
    clock_is_wrong: bool = False
    """The offset is larger than allowed."""
    timestamps_behind_ns: int = 0
    """How far timestamps are behind the median; ahead if negative."""
    state_agreed_index: int = 0
    """The last entry after which another node is known to have had the same state; 0: none yet."""


@dataclass(frozen=True, slots=True)
class EventLoop:
    """Durations of the event loop's iterations in the last minute, which other tasks wait for."""

    p50_ms: int = 0
    p99_ms: int = 0
    """Rounded up; 256 means 256 or more."""
    longest_ms: float = 0.0


class Source(Protocol):
    """A running node, as monitoring uses it."""

    @property
    def identity(self) -> Identity: ...

    @property
    def state(self) -> State:
        """The state that this node has applied."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""

    def cluster_time_ns(self) -> int:
        """The best estimate of the current cluster time, for the AckWaits left."""

    def unhealthy(self) -> str:
        """The reason why the node can't serve, such as no leader or a running restore. Empty if it can."""

    def warnings(self) -> Sequence[str]:
        """Problems of this node and its machine that an operator should look after, although it serves."""

    def raft(self) -> Raft: ...

    def agreement(self) -> Agreement: ...

    def event_loop(self) -> EventLoop: ...

    def traffic(self) -> Traffic: ...

    def interest(self) -> Interest: ...

    def connect_urls(self) -> Sequence[str]:
        """``host:port`` of every node that accepts clients."""

    @property
    def connection_count(self) -> int:
        """Open client connections."""

    def connections(self, *, closed: bool) -> Iterator[Connection]:
        """Yield the open client connections, oldest first, or the last closed ones that are remembered.

        Each is read when it is yielded, which costs some microseconds.
        """

    def subscriptions(self, cid: int | None = None) -> Iterator[NatsSubscription]:
        """Yield the subscriptions of one client connection, or of all; each is made when it is yielded."""

    def subscription_count(self) -> int:
        """Return the number of `subscriptions` of all connections."""

    def routes(self) -> Sequence[Route]: ...
