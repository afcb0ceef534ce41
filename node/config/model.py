"""All options: default, unit, meaning of 0, and what each one bounds.

One file describes the whole cluster; `Config.for_node` selects one node's values. Options are read at start.
The settings that the replicated state machine uses (``limits`` and ``streaming``) are proposed to the
cluster and become part of its state; a node whose file differs from them only logs a warning.

The key in the file is the field's name without ``_ns``. The annotation declares the valid values (`kinds`);
mistakes that involve several options are found by `checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from node.config.kinds import (
    Choice,
    Confidential,
    Count,
    Duration,
    FilePath,
    Flag,
    HostPort,
    NatsURL,
    Range,
    Size,
    Text,
    Words,
)
from node.config.values import HOUR, MINUTE, Address, Secret, ServerURL
from node.units import MILLISECOND, SECOND

NAME: Final = r"[A-Za-z0-9_-]{1,64}"
"""A node's name. It is used in certificates, paths and variables."""

MAX_PAYLOAD_MAX: Final = 8 * 1024 * 1024
"""Bytes. A message must fit into one entry of the log."""


@dataclass(frozen=True, slots=True)
class Node:
    """Addresses of one node. Each needs its own port."""

    client: Annotated[Address, HostPort()]
    """Address for clients. ``0.0.0.0`` or ``::`` listens on all addresses of the machine, IPv4 and IPv6."""

    peer: Annotated[Address | None, HostPort()] = None
    """Address for the other nodes, which they dial. Required in a cluster of more than one node."""

    peer_listen: Annotated[Address | None, HostPort()] = None
    """Listen address for the other nodes, if it differs from ``peer``: behind NAT, in containers."""

    http: Annotated[Address | None, HostPort()] = None
    """Address of the monitoring pages. Absent: no monitoring."""

    advertise: Annotated[Address | None, HostPort()] = None
    """Address that clients are given, if it differs from ``client``: behind NAT, in containers."""

    server_name: Annotated[str | None, Text(r"[^\s\x00-\x1f\x7f]{1,256}", "a name without spaces")] = None
    """Server name that clients are given. Absent: the node's name."""


@dataclass(frozen=True, slots=True)
class PeerSecurity:
    """Authentication between nodes."""

    mode: Annotated[str, Choice(("mtls", "secret", "none"))] = "secret"
    """``mtls``: TLS 1.3; both sides have a certificate of the cluster's authority that names the node.
    ``secret``: plaintext on the loopback; both sides prove that they have the same secret. ``none``:
    plaintext on the loopback without authentication, for a rolling upgrade from a release without secrets."""

    secret: Annotated[Secret | None, Confidential(direct=False)] = None
    """The shared secret of mode ``secret``, at least 16 characters; never in the file itself. Absent: the
    secret in ``~/.local/state/stanchion/peer.secret``, which the first node of a system user creates."""

    ca: Annotated[Path | None, FilePath()] = None
    """The authority's certificate, PEM. Every certificate it signed is accepted."""

    cert: Annotated[Path | None, FilePath()] = None
    """This node's certificate, PEM; it must name the node as ``DNS:<name>``."""

    key: Annotated[Path | None, FilePath()] = None
    """The private key of ``cert``, PEM."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster: its ID, its nodes and how they find each other."""

    id: Annotated[str, Text(NAME, "letters, digits, - and _, at most 64")] = "test-cluster"
    """The cluster ID that clients pass; part of every streaming subject."""

    nodes: Mapping[str, Node] = field(default_factory=lambda: MappingProxyType({}))
    """The nodes by name. They bootstrap the cluster; afterwards the log defines the members, and only the
    addresses are read from here."""

    bootstrap: Annotated[bool, Flag()] = False
    """Whether this node bootstraps the cluster alone and accepts joining nodes (``join``). Read only at its
    first start, then fixed for the cluster. For a file with no other node."""

    join: Annotated[bool, Flag()] = False
    """Whether this node joins a cluster that was created with ``bootstrap``, through one of ``routes``. Read
    only while its directory is empty. For a file with no other node."""

    allow_add_remove_node: Annotated[bool, Flag()] = False
    """Whether every client that may publish to ``_STAN.raft.<id>.node.add`` and ``….node.remove`` can add and
    remove nodes, as with the Go server. ``stanchion cluster add`` does not need it."""

    peer_security: PeerSecurity = field(default_factory=PeerSecurity)
    """Authentication between nodes, and between the clusters of a route."""

    routes: Annotated[tuple[Address, ...] | None, Words(HostPort())] = None
    """Nodes of other clusters, or of this one, by their ``peer`` addresses. Plain NATS traffic flows between
    the clusters, and the clients of each can use the streaming service of the other. At least one of two
    clusters must list a node of the other. An empty list accepts routes without dialling any. Absent: routes
    are refused."""

    no_advertise: Annotated[bool, Flag()] = False
    """Whether to hide this cluster's client addresses from clients of clusters connected by routes."""


@dataclass(frozen=True, slots=True)
class Raft:
    """Consensus: timing, durability and the journal."""

    election_timeout_ns: Annotated[
        tuple[int, int], Range(Duration(minimum=10 * MILLISECOND, maximum=MINUTE))
    ] = (
        1000 * MILLISECOND,
        1500 * MILLISECOND,
    )
    """Minimum and maximum; more than three heartbeats. A follower that receives nothing from a leader for a
    random time in this range starts an election. This bounds the failover if the leader hangs or is cut off.
    If the leader's process dies, its connections close, and the followers act after one or two heartbeats."""

    heartbeat_ns: Annotated[int, Duration(minimum=MILLISECOND, maximum=10 * SECOND)] = 75 * MILLISECOND
    """Interval of an idle leader's heartbeats to its followers."""

    durability: Annotated[str, Choice(("fsync", "relaxed"))] = "fsync"
    """``fsync``: a publish is acknowledged when it is on the disks of a majority. ``relaxed``: when the
    operating systems of a majority have it; they write it to their disks later."""

    max_clock_offset_ns: Annotated[int, Duration(minimum=100 * MILLISECOND, maximum=24 * 60 * MINUTE)] = (
        10 * SECOND
    )
    """Maximum difference of a node's wall clock from the median of the cluster. With more it counts as wrong.
    While the leader's clock is wrong, no message is dropped for its age (R13)."""

    journal_segment: Annotated[int, Size(minimum=64 * 1024, maximum=1024 * 1024 * 1024)] = 64 * 1024 * 1024
    """Bytes of one journal file. Old entries are deleted a file at a time."""

    trailing_logs: Annotated[int, Count(minimum=0, maximum=100_000_000)] = 10_240
    """Entries kept in the journal behind the store's checkpoint, so that a node that was disconnected for a
    while needs no snapshot. A single node keeps none."""


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """A former pass phrase."""

    key: Annotated[Secret, Confidential(direct=False)]
    """The pass phrase; never in the file itself."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """Encryption of the journal, the store and its copies on disk: messages, clients and subscriptions."""

    cipher: Annotated[str, Choice(("aes-256-gcm", "chacha20-poly1305"))] = "aes-256-gcm"
    """The cipher for new data; data of either cipher can be read."""

    key: Annotated[Secret | None, Confidential(direct=False)] = None
    """The pass phrase that decrypts the directory's keys; the same on all nodes. Never in the file itself.
    Required."""

    previous_keys: tuple[PreviousKey, ...] = ()
    """Former pass phrases, also tried, while ``key`` is being changed on one node after the other."""


@dataclass(frozen=True, slots=True)
class Store:
    """The data of a node on its disk."""

    store: Annotated[str, Choice(("file", "memory"))] = "file"
    """``file``: everything is in ``dir``. ``memory``: nothing is stored, and a restart begins empty; only for
    a single node."""

    dir: Annotated[Path, FilePath()] = Path("data/{node}")
    """The node's own directory: its identity, journal and store."""

    checkpoint_interval_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=MINUTE)] = (
        300 * MILLISECOND
    )
    """Interval at which the applied state is written to the store. Longer intervals mean fewer writes, more
    memory and a longer replay after a crash. Nothing is lost in between: the journal has it."""

    min_free: Annotated[int, Size()] = 256 * 1024 * 1024
    """Bytes that must stay free on the disk of ``dir``, or a tenth of the disk if that is less; at least what
    a node still writes after publishes are refused (`node.server.disk.space`). While fewer than a majority of
    the nodes have that much, publishes are refused. 0: never refused."""

    encryption: Encryption | None = None
    """Absent: data is stored unencrypted."""


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """Limits of the channels that a pattern matches. Absent: inherited from the next wider pattern, finally
    from ``limits``. 0: no limit, regardless of wider patterns.
    """

    max_subs: Annotated[int | None, Count(negative="max subscriptions limit cannot be negative")] = None
    """Subscriptions per channel."""

    max_msgs: Annotated[int | None, Count(negative="max messages limit cannot be negative")] = None
    """Messages kept per channel."""

    max_bytes: Annotated[int | None, Size(negative="max bytes limit cannot be negative")] = None
    """Bytes kept per channel."""

    max_age_ns: Annotated[int | None, Duration(negative="max age limit cannot be negative")] = None
    """How long a message is kept."""

    max_inactivity_ns: Annotated[int | None, Duration(negative="max inactivity limit cannot be negative")] = (
        None
    )
    """How long a channel is kept without a publish or an active subscription."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of stored data. 0 means no limit."""

    max_channels: Annotated[int, Count(negative="max channels limit cannot be negative")] = 100
    """Number of channels. A publish or subscribe that would create another one is refused."""

    max_subs: Annotated[int, Count(negative="max subscriptions limit cannot be negative")] = 1000
    """Subscriptions per channel, including offline durables. Further ones are refused."""

    max_msgs: Annotated[int, Count(negative="max messages limit cannot be negative")] = 1_000_000
    """Messages kept per channel. The oldest are dropped, delivered or not."""

    max_bytes: Annotated[int, Size(negative="max bytes limit cannot be negative")] = 1_024_000_000
    """Bytes kept per channel, as encoded on the wire. The oldest messages are dropped; the newest is always
    kept."""

    max_age_ns: Annotated[int, Duration(negative="max age limit cannot be negative")] = 0
    """How long a message is kept."""

    max_inactivity_ns: Annotated[int, Duration(negative="max inactivity limit cannot be negative")] = 0
    """How long a channel without a publish or an active subscription is kept before it is deleted,
    with its messages and offline durables."""

    channels: Mapping[str, ChannelLimits] = field(default_factory=lambda: MappingProxyType({}))
    """Limits by channel name or pattern: ``*`` matches one token, ``>`` the rest."""


_PATTERN: Final = Text(means="a subject or a pattern of subjects")


@dataclass(frozen=True, slots=True)
class Subjects:
    """Allowed and denied subjects. ``*`` matches one token, ``>`` the rest."""

    allow: Annotated[tuple[str, ...] | None, Words(_PATTERN)] = None
    """Allowed subjects. Absent: all; an empty list: none."""

    deny: Annotated[tuple[str, ...], Words(_PATTERN)] = ()
    """Denied subjects; they take precedence over ``allow``."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Permissions of a user. A streaming client must be able to publish to ``_STAN.>`` and ``_INBOX.>`` and
    to subscribe to ``_INBOX.>``.
    """

    publish: Subjects = field(default_factory=Subjects)
    """Subjects the user may publish to."""

    subscribe: Subjects = field(default_factory=Subjects)
    """Subjects the user may subscribe to."""


@dataclass(frozen=True, slots=True)
class User:
    """A user that may connect."""

    user: Annotated[str, Text(means="a user name")]
    """The name in the client's CONNECT."""

    password: Annotated[Secret, Confidential()]
    """Plain text or a bcrypt hash."""

    permissions: Permissions | None = None
    """Permissions. Absent: everything is allowed."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Client connections: authentication, permissions and limits."""

    users: tuple[User, ...] = ()
    """Users that may connect. Empty, with neither ``token`` nor ``user``: no authentication."""

    user: Annotated[str | None, Text(means="a user name")] = None
    """The only user, with ``password``."""

    password: Annotated[Secret | None, Confidential()] = None
    """The password of ``user``: plain text or a bcrypt hash."""

    token: Annotated[Secret | None, Confidential()] = None
    """The token that every client must present: plain text or a bcrypt hash."""

    operator_token: Annotated[Secret | None, Confidential(direct=False)] = None
    """The token of operators, at least 16 characters; never in the file itself. A client that presents it as
    its token may send all administration requests. Absent: a token that the first node of a system user
    creates. Each node has it in ``operator.token`` in its directory, where the command line finds it."""

    no_auth_user: Annotated[str | None, Text(means="a user name")] = None
    """The user, from ``users``, of a client without credentials. Absent: the client is refused."""

    auth_timeout_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 2 * SECOND
    """How long a client may take to send CONNECT, if authentication is required."""

    ping_interval_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=24 * HOUR)] = 2 * MINUTE
    """How long a connection may be idle before the client is sent a PING."""

    ping_max: Annotated[int, Count(minimum=1, maximum=1000)] = 2
    """Unanswered PINGs before a connection is stale: when another is due, it is closed."""

    max_payload: Annotated[int, Size(minimum=1, maximum=MAX_PAYLOAD_MAX)] = 1024 * 1024
    """Bytes of one message, at most 8 MiB. A client that sends more is disconnected."""

    max_control_line: Annotated[int, Size(minimum=512, maximum=1024 * 1024)] = 4096
    """Bytes of one protocol line with its arguments. A client that sends a longer one is disconnected."""

    max_connections: Annotated[int, Count(minimum=1)] = 65536
    """Client connections of one node. Further ones are closed with an error."""

    max_subscriptions: Annotated[int, Count()] = 0
    """Subscriptions per connection. Further ones are refused. 0: no limit."""

    max_pending: Annotated[int, Size(minimum=64 * 1024)] = 64 * 1024 * 1024
    """Bytes waiting for one slow client; with more it is disconnected.

    At least ``max_payload`` and 256 KiB: a client must not be disconnected while it keeps reading.
    """

    write_deadline_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 10 * SECOND
    """How long one write to a client may take before the client is disconnected."""

    lame_duck_duration_ns: Annotated[int, Duration(minimum=SECOND, maximum=HOUR)] = 2 * MINUTE
    """How long a node in lame duck mode (SIGUSR2) takes to close its connections."""

    lame_duck_grace_period_ns: Annotated[int, Duration(maximum=HOUR)] = 10 * SECOND
    """How long it waits before it closes the first connection. Part of ``lame_duck_duration``."""


@dataclass(frozen=True, slots=True)
class NatsTLS:
    """TLS of the connection to an external NATS server. Used if the server requires it or its URL starts with
    ``tls://``.
    """

    ca: Annotated[Path | None, FilePath()] = None
    """The authority of the server's certificate, PEM. Absent: the authorities that the machine trusts."""

    cert: Annotated[Path | None, FilePath()] = None
    """This node's certificate, PEM, if the server requires one. With ``key``."""

    key: Annotated[Path | None, FilePath()] = None
    """The private key of ``cert``, PEM."""

    server_name: Annotated[str | None, Text(r"[A-Za-z0-9._-]{1,253}", "a host name")] = None
    """The name that the server's certificate must have. Absent: the host of its URL."""

    skip_verify: Annotated[bool, Flag()] = False
    """Whether to accept any certificate: an attacker in between can then read and change all traffic."""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """An external NATS server. Clients of a single node connect to it instead of to the node."""

    urls: Annotated[tuple[ServerURL, ...], Words(NatsURL())] = ()
    """URLs of the server, ``nats://host:port``, optionally with ``user:password@`` or ``token@``. Several are
    tried in turn. Required."""

    user: Annotated[str | None, Text(means="a user name")] = None
    """The user name, unless the URL has one. With ``password``."""

    password: Annotated[Secret | None, Confidential()] = None
    """The password of ``user``."""

    token: Annotated[Secret | None, Confidential()] = None
    """The token, unless the URL has one."""

    tls: NatsTLS | None = None
    """TLS of the connection. Absent: servers that require TLS are not used."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """The streaming service: sessions of clients with the cluster."""

    hb_interval_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=24 * HOUR)] = 30 * SECOND
    """Interval of the heartbeats to a streaming client."""

    hb_timeout_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 10 * SECOND
    """How long a client has to answer a heartbeat."""

    hb_fail_count: Annotated[int, Count(maximum=1_000_000)] = 10
    """Consecutive heartbeats that may be unanswered; with one more the client is removed. 0: none."""

    replace_durable: Annotated[bool, Flag()] = False
    """Whether a second subscribe to an online durable takes it over, instead of being refused as a
    duplicate."""

    member_grace_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 3 * SECOND
    """How long a client must be unreachable before the messages of its queue group members go to other
    members. Longer than the pause of clients before a reconnect, 2 s."""

    request_timeout_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=MINUTE)] = 2 * SECOND
    """How long a connect or subscribe request is valid. If the cluster processes it later, it changes
    nothing: the client has given up."""

    discover_prefix: Annotated[str, Text(r"[^\s.*>]+(\.[^\s.*>]+)*", "a subject without wildcards")] = (
        "_STAN.discover"
    )
    """The subject of connect requests, to which clients append the cluster ID."""

    nats_server: NatsServer | None = None
    """An external NATS server to attach to, only for a single node. Absent: clients connect to the node."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """The monitoring pages that each node serves at its ``http`` address."""

    token: Annotated[Secret | None, Confidential()] = None
    """The token of requests, sent as ``Authorization: Bearer …``. Required if ``http`` is not on the
    loopback, unless ``open`` is set."""

    open: Annotated[bool, Flag()] = False
    """Whether every client may read an ``http`` address off the loopback without a token."""

    figures_open: Annotated[bool, Flag()] = False
    """Whether every client may read, without a token, the pages without names of clients and channels:
    ``/healthz``, ``/varz``, ``/streaming/serverz`` and ``/streaming/storez``. Off the loopback the other
    pages need the token."""

    http_base_path: Annotated[
        str, Text(r"/([A-Za-z0-9_.~-]+(/[A-Za-z0-9_.~-]+)*)?", "a path such as / or /nats")
    ] = "/"
    """Prefix of all paths, for a proxy that serves several applications under one name."""

    hosts: Annotated[tuple[str, ...], Words(Text(r"\*|[A-Za-z0-9_.-]+", "a host name, or *"))] = ()
    """Host names, as in ``http://NAME:8222/``, that requests without a token may use. Always allowed: IP
    addresses, the names in this file, and names that can't be registered (``localhost``, names without a dot,
    and names below ``.local``, ``.internal``, ``.svc``, ``.lan``). ``*``: any name. This prevents DNS
    rebinding: a web page could resolve its own name to the node and read all pages."""

    jsonp: Annotated[bool, Flag()] = False
    """Whether ``?callback=NAME`` returns JavaScript. Every web page whose browser reaches the node can then
    read it."""


@dataclass(frozen=True, slots=True)
class Logging:
    """The log of a node."""

    level: Annotated[str, Choice(("error", "warning", "info", "debug"))] = "info"
    """The lowest level that is written."""

    format: Annotated[str, Choice(("text", "json"))] = "text"
    """``text`` for people, ``json`` for programs: one object per line."""

    file: Annotated[Path | None, FilePath()] = None
    """The log file. Absent: standard error. If the file is moved away, a new one is opened."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration."""

    cluster: Cluster = field(default_factory=Cluster)
    raft: Raft = field(default_factory=Raft)
    store: Store = field(default_factory=Store)
    limits: Limits = field(default_factory=Limits)
    clients: Clients = field(default_factory=Clients)
    streaming: Streaming = field(default_factory=Streaming)
    monitoring: Monitoring = field(default_factory=Monitoring)
    logging: Logging = field(default_factory=Logging)

    def for_node(self, name: str) -> Config:
        """Return a copy with ``{node}`` in every path replaced by ``name``."""

        def named(path: Path | None) -> Path | None:
            return path and Path(str(path).replace("{node}", name))

        security = self.cluster.peer_security
        external_nats = self.streaming.nats_server
        if external_nats is not None and external_nats.tls is not None:
            tls = external_nats.tls
            tls = replace(tls, ca=named(tls.ca), cert=named(tls.cert), key=named(tls.key))
            external_nats = replace(external_nats, tls=tls)
        return replace(
            self,
            streaming=replace(self.streaming, nats_server=external_nats),
            cluster=replace(
                self.cluster,
                peer_security=replace(
                    security, ca=named(security.ca), cert=named(security.cert), key=named(security.key)
                ),
            ),
            store=replace(self.store, dir=named(self.store.dir) or self.store.dir),
            logging=replace(self.logging, file=named(self.logging.file)),
        )


NOT_YET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "clients.tls": "TLS for clients",
        "clients.default_permissions": "default permissions",
        "limits.channels.max_redeliveries": "a limit of redeliveries",
        "limits.channels.dead_letter": "dead letters",
        "limits.channels.redelivery_backoff": "redelivery back-off",
        "monitoring.prometheus": "a Prometheus endpoint",
        "monitoring.dashboard": "the dashboard",
    }
)
"""Keys that are planned but not supported in this release: each is refused with an error that names it."""
