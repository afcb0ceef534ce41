"""Every option there is, with its default, its unit, what 0 means and what it bounds.

One file describes the whole cluster; each node picks itself out of it (`Config.for_node`). Options
are read once, at start, and never change: whatever the replicated machine reads (``limits`` and
``streaming``) is proposed to the cluster and lives on in its state, where a node whose file
differs only warns.

A key in the file is the field's name without its ``_ns``. What an option may hold stands in its
annotation (`kinds`); mistakes that take two options to see are found by `checks`.
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
"""A node's name: it stands in certificates, paths and variables."""

MAX_PAYLOAD_MAX: Final = 8 * 1024 * 1024
"""Bytes. One message must fit into one entry of the log."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where one node listens. Every address needs a port of its own."""

    client: Annotated[Address, HostPort()]
    """Where clients connect. ``0.0.0.0`` or ``::`` listens on every address of the machine, IPv4 and IPv6."""

    peer: Annotated[Address | None, HostPort()] = None
    """Where the other nodes connect, and what they dial. Needed in a cluster of more than one."""

    peer_listen: Annotated[Address | None, HostPort()] = None
    """Where this node listens for the other nodes, if that isn't ``peer``: behind NAT, in containers."""

    http: Annotated[Address | None, HostPort()] = None
    """Where monitoring is served. Absent: nowhere."""

    advertise: Annotated[Address | None, HostPort()] = None
    """What clients are told to connect to, if that isn't ``client``: behind NAT, in containers."""

    server_name: Annotated[str | None, Text(r"[^\s\x00-\x1f\x7f]{1,256}", "a name without spaces")] = None
    """What clients are told this server is called. Absent: the node's name."""


@dataclass(frozen=True, slots=True)
class PeerSecurity:
    """How the nodes know one another."""

    mode: Annotated[str, Choice(("mtls", "secret", "none"))] = "secret"
    """``mtls``: TLS 1.3, both sides with a certificate of the cluster's own authority that names
    the node. ``secret``: plaintext on the loopback, and both sides prove that they know the same secret.
    ``none``: plaintext on the loopback with anybody; for a rolling upgrade from a release without secrets."""

    secret: Annotated[Secret | None, Confidential(direct=False)] = None
    """What nodes share in mode ``secret``, at least 16 characters; never in the file itself. Absent: a secret
    that the first node makes for the user it runs as, ``~/.local/state/stanchion/peer.secret``."""

    ca: Annotated[Path | None, FilePath()] = None
    """The authority's certificate, PEM. Anyone it signed for may join the cluster."""

    cert: Annotated[Path | None, FilePath()] = None
    """This node's certificate, PEM; it must name the node as ``DNS:<name>``."""

    key: Annotated[Path | None, FilePath()] = None
    """The private key of ``cert``, PEM."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who belongs together."""

    id: Annotated[str, Text(NAME, "letters, digits, - and _, at most 64")] = "test-cluster"
    """What clients pass as cluster ID; part of every streaming subject."""

    nodes: Mapping[str, Node] = field(default_factory=lambda: MappingProxyType({}))
    """The nodes by name. They found the cluster once; afterwards the membership in the log holds,
    and only the addresses are read from here."""

    bootstrap: Annotated[bool, Flag()] = False
    """Whether this node founds the cluster alone, and lets others in that ask (``join``). Looked at at its
    first start only: the cluster stays so. For a file that names no other node."""

    join: Annotated[bool, Flag()] = False
    """Whether this node asks to be let into a cluster that was founded by ``bootstrap``, at one of
    ``routes``. Looked at only while its directory is empty. For a file that names no other node."""

    allow_add_remove_node: Annotated[bool, Flag()] = False
    """Whether anybody who may publish to ``_STAN.raft.<id>.node.add`` and ``….node.remove`` adds and removes
    nodes, as with the Go server. ``stanchion cluster add`` needs no such thing."""

    peer_security: PeerSecurity = field(default_factory=PeerSecurity)
    """How the nodes know one another, and routing peers."""

    routes: Annotated[tuple[Address, ...] | None, Words(HostPort())] = None
    """Nodes of other clusters, or of this one, by their ``peer`` addresses. Plain NATS traffic flows between
    the clusters, and each one's clients can use the other's service. One of two clusters has to name a node
    of the other. An empty list: those that name us are welcome. Absent: they are not."""

    no_advertise: Annotated[bool, Flag()] = False
    """Whether routing peers' clients are not told where this cluster takes clients."""


@dataclass(frozen=True, slots=True)
class Raft:
    """How the nodes agree on one log."""

    election_timeout_ns: Annotated[
        tuple[int, int], Range(Duration(minimum=10 * MILLISECOND, maximum=MINUTE))
    ] = (
        1000 * MILLISECOND,
        1500 * MILLISECOND,
    )
    """A follower that hears no leader for a random time between these two asks for votes. More
    than three heartbeats. It is what a failover costs when the leader hangs or its network is cut. When the
    leader's process dies its connections close, and the followers ask after one or two heartbeats."""

    heartbeat_ns: Annotated[int, Duration(minimum=MILLISECOND, maximum=10 * SECOND)] = 75 * MILLISECOND
    """How often an idle leader says that it lives."""

    durability: Annotated[str, Choice(("fsync", "relaxed"))] = "fsync"
    """``fsync``: a publish is acknowledged once the disks of a majority have it. ``relaxed``: once the
    operating systems of a majority have it; they write it to their disks soon."""

    max_clock_offset_ns: Annotated[int, Duration(minimum=100 * MILLISECOND, maximum=24 * 60 * MINUTE)] = (
        10 * SECOND
    )
    """How far a node's wall clock may be from the median of the cluster's before it counts as wrong. While
    the leader's is, no message is dropped for its age (R13)."""

    journal_segment: Annotated[int, Size(minimum=64 * 1024, maximum=1024 * 1024 * 1024)] = 64 * 1024 * 1024
    """Bytes of one file of the journal. Old entries go by whole files."""

    trailing_logs: Annotated[int, Count(minimum=0, maximum=100_000_000)] = 10_240
    """Entries kept in the journal behind the store's checkpoint, so that a node that was away for a
    while needs no snapshot. A node alone keeps none."""


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """A pass phrase that is no longer the current one."""

    key: Annotated[Secret, Confidential(direct=False)]
    """The pass phrase. Never in the file itself."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """Encryption of the journal, the store and its copies on the disk: messages, and who wants them."""

    cipher: Annotated[str, Choice(("aes-256-gcm", "chacha20-poly1305"))] = "aes-256-gcm"
    """What is written is sealed with this; either is read."""

    key: Annotated[Secret | None, Confidential(direct=False)] = None
    """The pass phrase that opens the directory's keys; all nodes have the same. Never in the file itself.
    Needed."""

    previous_keys: tuple[PreviousKey, ...] = ()
    """Pass phrases that open them too, while ``key`` is being changed on one node after the other."""


@dataclass(frozen=True, slots=True)
class Store:
    """What a node keeps on its disk."""

    store: Annotated[str, Choice(("file", "memory"))] = "file"
    """``file``: everything is in ``dir``. ``memory``: nothing is kept anywhere, and a restart begins
    empty; only for a node alone."""

    dir: Annotated[Path, FilePath()] = Path("data/{node}")
    """The node's directory, and nobody else's: its identity, journal and store."""

    checkpoint_interval_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=MINUTE)] = (
        300 * MILLISECOND
    )
    """How often the applied state is written to the store. Longer: less writing, more memory and a
    longer replay after a crash. Nothing is lost in between, for the journal has it."""

    min_free: Annotated[int, Size()] = 256 * 1024 * 1024
    """Bytes that must be left on the disk of ``dir``, or a tenth of it if that is less; at least what a node
    still writes after publishes are refused (`node.server.disk.space`). While fewer than a majority of the
    nodes have that, publishes are refused. 0: never."""

    encryption: Encryption | None = None
    """Absent: everything is stored as it is."""


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """Limits of the channels a pattern matches. Absent: inherited from the next wider pattern, in
    the end from ``limits``. 0: no limit, whatever the wider ones say.
    """

    max_subs: Annotated[int | None, Count(negative="max subscriptions limit cannot be negative")] = None
    """Subscriptions of one channel."""

    max_msgs: Annotated[int | None, Count(negative="max messages limit cannot be negative")] = None
    """Messages kept of one channel."""

    max_bytes: Annotated[int | None, Size(negative="max bytes limit cannot be negative")] = None
    """Bytes kept of one channel."""

    max_age_ns: Annotated[int | None, Duration(negative="max age limit cannot be negative")] = None
    """How long a message is kept."""

    max_inactivity_ns: Annotated[int | None, Duration(negative="max inactivity limit cannot be negative")] = (
        None
    )
    """How long a channel that nobody uses is kept."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept, and how much of it. 0 means no limit everywhere."""

    max_channels: Annotated[int, Count(negative="max channels limit cannot be negative")] = 100
    """Channels. A publish or subscribe that would need one more is refused."""

    max_subs: Annotated[int, Count(negative="max subscriptions limit cannot be negative")] = 1000
    """Subscriptions of one channel, offline durables included. One more is refused."""

    max_msgs: Annotated[int, Count(negative="max messages limit cannot be negative")] = 1_000_000
    """Messages kept of one channel. The oldest make room, read or not."""

    max_bytes: Annotated[int, Size(negative="max bytes limit cannot be negative")] = 1_024_000_000
    """Bytes kept of one channel, as encoded on the wire. The oldest messages make room; the newest
    always stays."""

    max_age_ns: Annotated[int, Duration(negative="max age limit cannot be negative")] = 0
    """How long a message is kept."""

    max_inactivity_ns: Annotated[int, Duration(negative="max inactivity limit cannot be negative")] = 0
    """How long a channel without a publish or an active subscription is kept before it is deleted,
    with its messages and offline durables."""

    channels: Mapping[str, ChannelLimits] = field(default_factory=lambda: MappingProxyType({}))
    """Limits by channel name or pattern: ``*`` is one token, ``>`` the rest."""


_PATTERN: Final = Text(means="a subject or a pattern of subjects")


@dataclass(frozen=True, slots=True)
class Subjects:
    """Which subjects. ``*`` is one token, ``>`` the rest."""

    allow: Annotated[tuple[str, ...] | None, Words(_PATTERN)] = None
    """Those that are allowed. Absent: all; an empty list: none."""

    deny: Annotated[tuple[str, ...], Words(_PATTERN)] = ()
    """Those that are not, even where ``allow`` has them."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may do. A streaming client has to publish to ``_STAN.>`` and ``_INBOX.>`` and to
    subscribe to ``_INBOX.>``.
    """

    publish: Subjects = field(default_factory=Subjects)
    """What it may publish to."""

    subscribe: Subjects = field(default_factory=Subjects)
    """What it may subscribe to."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may connect."""

    user: Annotated[str, Text(means="a user name")]
    """The name in the client's CONNECT."""

    password: Annotated[Secret, Confidential()]
    """In plain text or as a bcrypt hash."""

    permissions: Permissions | None = None
    """What it may do. Absent: everything."""


@dataclass(frozen=True, slots=True)
class Clients:
    """What a client connection may do and use."""

    users: tuple[User, ...] = ()
    """Who may connect. Empty, and no ``token`` or ``user``: anybody."""

    user: Annotated[str | None, Text(means="a user name")] = None
    """The only user, if there is just one. With ``password``."""

    password: Annotated[Secret | None, Confidential()] = None
    """The password of ``user``, in plain text or as a bcrypt hash."""

    token: Annotated[Secret | None, Confidential()] = None
    """The token every client must present, in plain text or as a bcrypt hash."""

    operator_token: Annotated[Secret | None, Confidential(direct=False)] = None
    """The token of operators, who show it as their token and may then make every request, at least 16
    characters; never in the file itself. Absent: one that the first node makes for the user it runs as,
    ``operator.token`` in the node's directory, which the command line finds by itself."""

    no_auth_user: Annotated[str | None, Text(means="a user name")] = None
    """Which of ``users`` a client is that presents nothing. Absent: it is refused."""

    auth_timeout_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 2 * SECOND
    """How long a client may take to CONNECT where credentials are asked for."""

    ping_interval_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=24 * HOUR)] = 2 * MINUTE
    """After this long without traffic a client is sent a PING."""

    ping_max: Annotated[int, Count(minimum=1, maximum=1000)] = 2
    """PINGs that may be unanswered; when one more is due, the connection is closed as stale."""

    max_payload: Annotated[int, Size(minimum=1, maximum=MAX_PAYLOAD_MAX)] = 1024 * 1024
    """Bytes of one message. A client that sends more is cut off. At most 8 MiB."""

    max_control_line: Annotated[int, Size(minimum=512, maximum=1024 * 1024)] = 4096
    """Bytes of one protocol line, its subject and its other words. A longer one cuts the client off."""

    max_connections: Annotated[int, Count(minimum=1)] = 65536
    """Client connections of one node. One more is told so and closed."""

    max_subscriptions: Annotated[int, Count()] = 0
    """Subscriptions of one connection. One more is refused. 0: no limit."""

    max_pending: Annotated[int, Size(minimum=64 * 1024)] = 64 * 1024 * 1024
    """Bytes waiting for one client that reads too slowly; with more it is cut off.

    At least ``max_payload`` and 256 KiB count: who takes what it is sent must not be cut off for it.
    """

    write_deadline_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 10 * SECOND
    """How long one write to a client may take before it is cut off."""

    lame_duck_duration_ns: Annotated[int, Duration(minimum=SECOND, maximum=HOUR)] = 2 * MINUTE
    """How long a node that was told to leave slowly (SIGUSR2) takes to close its connections."""

    lame_duck_grace_period_ns: Annotated[int, Duration(maximum=HOUR)] = 10 * SECOND
    """How long it closes none of them. Part of ``lame_duck_duration``."""


@dataclass(frozen=True, slots=True)
class NatsTLS:
    """TLS of the connection to an external NATS server. It is used where the server asks for it or its URL
    says ``tls://``.
    """

    ca: Annotated[Path | None, FilePath()] = None
    """The authority whose certificates the server may have, PEM. Absent: those the machine trusts."""

    cert: Annotated[Path | None, FilePath()] = None
    """Our certificate, PEM, where the server asks for one. With ``key``."""

    key: Annotated[Path | None, FilePath()] = None
    """Its private key, PEM."""

    server_name: Annotated[str | None, Text(r"[A-Za-z0-9._-]{1,253}", "a host name")] = None
    """The name its certificate must be for. Absent: the host in its URL."""

    skip_verify: Annotated[bool, Flag()] = False
    """Whether its certificate is not looked at: whoever sits in between can read and change everything."""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """Somebody else's NATS server, which the clients of a node alone connect to instead of to the node."""

    urls: Annotated[tuple[ServerURL, ...], Words(NatsURL())] = ()
    """Where it is, ``nats://host:port``, perhaps with ``user:password@`` or ``token@``. Several are tried by
    turns. Needed."""

    user: Annotated[str | None, Text(means="a user name")] = None
    """Who we are there, where the URL doesn't say. With ``password``."""

    password: Annotated[Secret | None, Confidential()] = None
    """The password of ``user``."""

    token: Annotated[Secret | None, Confidential()] = None
    """The token to present, where the URL has none."""

    tls: NatsTLS | None = None
    """TLS of that connection. Absent: servers that ask for it aren't connected to."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """The streaming service: sessions of clients with the cluster as a whole."""

    hb_interval_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=24 * HOUR)] = 30 * SECOND
    """How often a streaming client is sent a heartbeat."""

    hb_timeout_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 10 * SECOND
    """How long it has for its answer."""

    hb_fail_count: Annotated[int, Count(maximum=1_000_000)] = 10
    """Heartbeats in a row that may go unanswered; with one more the client is removed. 0: none."""

    replace_durable: Annotated[bool, Flag()] = False
    """Whether a durable that is online is taken over by who subscribes to it again, rather than
    refused as a duplicate."""

    member_grace_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=HOUR)] = 3 * SECOND
    """How long nobody must have heard a client before its queue group members' messages go to the
    others. Above the pause clients make before they reconnect, 2 s."""

    request_timeout_ns: Annotated[int, Duration(minimum=10 * MILLISECOND, maximum=MINUTE)] = 2 * SECOND
    """How long a connect or subscribe request is good for: when the cluster gets to it later, the
    client has given up, and nothing is changed."""

    discover_prefix: Annotated[str, Text(r"[^\s.*>]+(\.[^\s.*>]+)*", "a subject without wildcards")] = (
        "_STAN.discover"
    )
    """The subject, before the cluster ID, that clients send their connect requests to."""

    nats_server: NatsServer | None = None
    """The NATS server that the service is attached to. Absent: the node's own. Only for a node alone."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """The monitoring that each node serves at its ``http`` address."""

    token: Annotated[Secret | None, Confidential()] = None
    """What a request must carry as ``Authorization: Bearer …``. Needed where ``http`` isn't on
    the loopback, unless ``open``."""

    open: Annotated[bool, Flag()] = False
    """Whether anyone who reaches an ``http`` address off the loopback may read it without a token."""

    figures_open: Annotated[bool, Flag()] = False
    """Whether anyone who reaches an ``http`` address may read, without a token, what names no client and no
    channel: ``/healthz``, ``/varz``, ``/streaming/serverz`` and ``/streaming/storez``. Off the loopback the
    other pages need the token."""

    http_base_path: Annotated[
        str, Text(r"/([A-Za-z0-9_.~-]+(/[A-Za-z0-9_.~-]+)*)?", "a path such as / or /nats")
    ] = "/"
    """What stands before every path, for a proxy that shares its names."""

    hosts: Annotated[tuple[str, ...], Words(Text(r"\*|[A-Za-z0-9_.-]+", "a host name, or *"))] = ()
    """Names under which it may be asked without a token, as ``http://NAME:8222/``. IP addresses, names of
    this file, and names that nobody can register (``localhost``, without a dot, below ``.local``,
    ``.internal``, ``.svc``, ``.lan``) always may. ``*``: any. A page in a browser can have a name of its
    own resolve to the node, and would read everything under it."""

    jsonp: Annotated[bool, Flag()] = False
    """Whether ``?callback=NAME`` gets JavaScript. Any page in a browser that reaches the node can read it."""


@dataclass(frozen=True, slots=True)
class Logging:
    """What a node says about itself."""

    level: Annotated[str, Choice(("error", "warning", "info", "debug"))] = "info"
    """The least grave lines that are written."""

    format: Annotated[str, Choice(("text", "json"))] = "text"
    """``text`` for eyes, ``json`` for machines: one object a line."""

    file: Annotated[Path | None, FilePath()] = None
    """Where to. Absent: standard error. A file that was moved away is opened anew."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a configuration says."""

    cluster: Cluster = field(default_factory=Cluster)
    raft: Raft = field(default_factory=Raft)
    store: Store = field(default_factory=Store)
    limits: Limits = field(default_factory=Limits)
    clients: Clients = field(default_factory=Clients)
    streaming: Streaming = field(default_factory=Streaming)
    monitoring: Monitoring = field(default_factory=Monitoring)
    logging: Logging = field(default_factory=Logging)

    def for_node(self, name: str) -> Config:
        """The same with ``{node}`` in every path replaced by ``name``."""

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
        "clients.default_permissions": "permissions for users without any",
        "limits.channels.max_redeliveries": "a bound on redeliveries",
        "limits.channels.dead_letter": "dead letters",
        "limits.channels.redelivery_backoff": "redelivery back-off",
        "monitoring.prometheus": "a Prometheus endpoint",
        "monitoring.dashboard": "the dashboard",
    }
)
"""Keys that have a meaning but no effect in this release: they are refused, each by its name."""
