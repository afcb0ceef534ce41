"""Checks that compare several options.

Each check reads a `Config` whose values are all well-formed, and yields findings: a text and the options
concerned. The error message shows the place of the first option. `load` drops findings about options that
already have an error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from re import fullmatch
from typing import TypeAlias

from node.config.model import NAME, Config, Node, Subjects, User
from node.config.overrides import hint
from node.config.values import Address, Secret, format_duration
from node.errors import ConfigError
from node.protocol.subjects import has_wildcard, valid_channel, valid_subject

Path: TypeAlias = tuple[str, ...]
"""The path of an option: ``("cluster", "nodes", "n1", "client")``."""

HEARTBEATS_MIN = 3
"""With a shorter election timeout, one lost heartbeat could cause an election. The engine also refuses it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake."""

    text: str
    paths: tuple[Path, ...]


def check(config: Config, *, is_shared: bool = True) -> list[Finding]:
    """Return the mistakes in ``config`` that do not depend on a machine.

    Args:
        config: the whole configuration.
        is_shared: all nodes read this configuration; else it belongs to one node.
    """
    return [
        *_names(config),
        *_addresses(config),
        *_bootstrapped(config),
        *_reachable(config),
        *_peer_security(config),
        *_raft(config),
        *(_directories(config) if is_shared else ()),
        *_memory(config),
        *_nats_server(config),
        *_encryption(config),
        *_limits(config),
        *_credentials(config),
        *_clients(config),
        *_monitoring(config),
    ]


def check_node(config: Config, name: str) -> list[Finding]:
    """Return the mistakes that keep node ``name`` from starting on this machine.

    ``config`` is the result of `Config.for_node`.
    """
    nodes = config.cluster.nodes
    if name not in nodes:
        close = hint(name, nodes) or f"; it has {', '.join(nodes) or 'none'}"
        return [Finding(f"cluster.nodes has no node {name}{close}", (("cluster", "nodes"),))]
    findings = []
    security = config.cluster.peer_security
    if len(nodes) > 1 and nodes[name].peer is None:
        text = f"cluster.nodes.{name}.peer: missing: the other nodes dial it"
        findings.append(Finding(text, (("cluster", "nodes", name, "peer"),)))
    for key, path in (("ca", security.ca), ("cert", security.cert), ("key", security.key)):
        if path is not None and not _readable(path):
            at: Path = ("cluster", "peer_security", key)
            findings.append(Finding(f"{'.'.join(at)}: {path} can't be read", (at,)))
    tls = config.streaming.nats_server and config.streaming.nats_server.tls
    for key, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)) if tls else ():
        if path is not None and not _readable(path):
            at = ("streaming", "nats_server", "tls", key)
            findings.append(Finding(f"{'.'.join(at)}: {path} can't be read", (at,)))
    for option, secret in _secrets(config):
        try:
            secret.reveal()
        except ConfigError as error:
            findings.append(Finding(f"{'.'.join(option)}: {error}", (option,)))
    return findings


def _readable(path: FilePath) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _secrets(config: Config) -> Iterator[tuple[Path, Secret]]:
    clients = config.clients
    for number, user in enumerate(clients.users):
        yield ("clients", "users", str(number), "password"), user.password
    for option, secret in (
        (("clients", "password"), clients.password),
        (("clients", "token"), clients.token),
        (("clients", "operator_token"), config.clients.operator_token),
        (("monitoring", "token"), config.monitoring.token),
        (("cluster", "peer_security", "secret"), config.cluster.peer_security.secret),
    ):
        if secret is not None:
            yield option, secret
    external_nats = config.streaming.nats_server
    if external_nats is not None:
        for key, secret in (("password", external_nats.password), ("token", external_nats.token)):
            if secret is not None:
                yield ("streaming", "nats_server", key), secret
    encryption = config.store.encryption
    if encryption is not None and encryption.key is not None:
        yield ("store", "encryption", "key"), encryption.key
    for number, previous in enumerate(encryption.previous_keys if encryption is not None else ()):
        yield ("store", "encryption", "previous_keys", str(number), "key"), previous.key


def exposed_files(config: Config) -> list[FilePath]:
    """Return the files of secrets and private keys that other users of the machine can read.

    ``peer_security.key`` is not among them: `node.raft.security` checks it.
    ``config`` is the result of `Config.for_node`.
    """
    paths = [FilePath(secret.text) for _, secret in _secrets(config) if secret.source == "file"]
    tls = config.streaming.nats_server and config.streaming.nats_server.tls
    if tls and tls.key is not None:
        paths.append(tls.key)
    found = []
    for path in dict.fromkeys(paths):
        try:
            is_exposed = bool(path.stat().st_mode & 0o077)
        except OSError:
            continue  # the code that reads the file reports this error
        if is_exposed:
            found.append(path)
    return found


def _names(config: Config) -> Iterator[Finding]:
    nodes = config.cluster.nodes
    if not nodes:
        yield Finding("cluster.nodes: missing: a cluster has at least one node", (("cluster", "nodes"),))
    alike: dict[str, str] = {}
    for name in nodes:
        path = ("cluster", "nodes", name)
        if not fullmatch(NAME, name):
            yield Finding(f"invalid node name {name!r}: use letters, digits, - and _, at most 64", (path,))
        first = alike.setdefault(name.lower().replace("-", "_"), name)
        if first != name:
            yield Finding(
                f"node name {name} is too similar to {first}: variables and files would have the same name",
                (path,),
            )


def _addresses(config: Config) -> Iterator[Finding]:
    """Check that no two listeners share an address, and no two nodes have the same address for clients."""
    listening: dict[Address, tuple[str, str]] = {}
    advertised: dict[Address, str] = {}
    for name, node in config.cluster.nodes.items():
        ports: dict[int, str] = {}
        for key, address in _listeners(node):
            if address.port == 0:
                continue  # any free port
            path = ("cluster", "nodes", name, key)
            other_name, other_key = listening.setdefault(address, (name, key))
            same_port = ports.setdefault(address.port, key)
            if (other_name, other_key) != (name, key) and (other_name == name or not address.is_unspecified):
                other = ("cluster", "nodes", other_name, other_key)
                text = f"{'.'.join(path)}: {address} is also used by {'.'.join(other)}"
                yield Finding(text, (path, other))
            elif same_port != key and (address.is_unspecified or _address(node, same_port).is_unspecified):
                other = ("cluster", "nodes", name, same_port)
                yield Finding(
                    f"{'.'.join(path)}: port {address.port} is also used by {'.'.join(other)}", (path, other)
                )
        dialled = node.advertise or node.client
        if dialled.port == 0:
            continue
        if not dialled.is_unspecified and advertised.setdefault(dialled, name) != name:
            path = ("cluster", "nodes", name, "advertise" if node.advertise else "client")
            if node.advertise or config.cluster.nodes[advertised[dialled]].advertise:
                yield Finding(
                    f"{'.'.join(path)}: {dialled} is already advertised by {advertised[dialled]}", (path,)
                )


def _listeners(node: Node) -> list[tuple[str, Address]]:
    peer = ("peer", node.peer) if node.peer_listen is None else ("peer_listen", node.peer_listen)
    found = (("client", node.client), peer, ("http", node.http))
    return [(key, address) for key, address in found if address is not None]


def _address(node: Node, key: str) -> Address:
    return dict(_listeners(node))[key]


def _bootstrapped(config: Config) -> Iterator[Finding]:
    """Check ``bootstrap`` and ``join``: the file lists one node, which bootstraps a cluster or joins one."""
    cluster = config.cluster
    for key, is_set in (("bootstrap", cluster.bootstrap), ("join", cluster.join)):
        path = ("cluster", key)
        if not is_set:
            continue
        if len(cluster.nodes) > 1:
            yield Finding(
                f"cluster.{key}: only for a file with one node; the nodes of this file bootstrap together",
                (path, ("cluster", "nodes")),
            )
    if cluster.bootstrap and cluster.join:
        yield Finding("cluster.join: has no effect with bootstrap", (("cluster", "join"),))
    if cluster.join and not cluster.routes:
        problem = "cluster.join: needs cluster.routes, the nodes to ask"
        yield Finding(problem, (("cluster", "join"),))


def _reachable(config: Config) -> Iterator[Finding]:
    nodes = config.cluster.nodes
    for name, node in nodes.items():
        path = ("cluster", "nodes", name)
        if node.advertise and node.advertise.is_unspecified:
            yield Finding(
                f"{'.'.join(path)}.advertise: clients can't connect to {node.advertise}",
                ((*path, "advertise"),),
            )
        if node.peer_listen is not None and node.peer is None:
            yield Finding(
                f"{'.'.join(path)}.peer_listen: has no effect without peer, the address the other nodes dial",
                ((*path, "peer_listen"), (*path, "peer")),
            )
        if len(nodes) == 1 and not (config.cluster.bootstrap or config.cluster.join):
            continue
        if node.peer is None and len(nodes) > 1 and config.cluster.routes:
            continue  # the nodes find each other's addresses on the routes
        if node.peer is None:
            text = f"{'.'.join(path)}.peer: missing: the other nodes dial it"
            yield Finding(text, (path, (*path, "peer")))
        elif node.peer.is_unspecified:
            text = f"{'.'.join(path)}.peer: other nodes can't connect to {node.peer}"
            yield Finding(text, ((*path, "peer"),))
        if node.client.is_unspecified and node.advertise is None:
            yield Finding(
                f"{'.'.join(path)}.client: clients can't connect to {node.client}; add advertise",
                ((*path, "client"), (*path, "advertise")),
            )


def _peer_security(config: Config) -> Iterator[Finding]:
    security = config.cluster.peer_security
    section = ("cluster", "peer_security")
    files = (("ca", security.ca), ("cert", security.cert), ("key", security.key))
    if security.mode != "mtls":
        for name, node in config.cluster.nodes.items():
            path = ("cluster", "nodes", name, "peer")
            if node.peer is not None and not node.peer.is_loopback:
                yield Finding(
                    f"{'.'.join(path)}: {node.peer} is not on the loopback, so cluster.peer_security.mode"
                    " must be mtls (make certificates with `stanchion certs init`)",
                    (path, (*section, "mode")),
                )
            if node.peer_listen is not None and not node.peer_listen.is_loopback:
                yield Finding(
                    f"{'.'.join(path)}_listen: {node.peer_listen} is not on the loopback, so"
                    " cluster.peer_security.mode must be mtls",
                    ((*path[:-1], "peer_listen"), (*section, "mode")),
                )
        for number, address in enumerate(config.cluster.routes or ()):
            if not address.is_loopback:
                yield Finding(
                    f"cluster.routes: {address} is not on the loopback, so cluster.peer_security.mode must be"
                    " mtls, with certificates of the same authority in all clusters",
                    (("cluster", "routes", str(number)), (*section, "mode")),
                )
        for key, file in files:
            if file is not None:
                yield Finding(
                    f"cluster.peer_security.{key}: has no effect without mode: mtls",
                    ((*section, key), (*section, "mode")),
                )
    else:
        if security.secret is not None:
            yield Finding(
                "cluster.peer_security.secret: has no effect with mode: mtls",
                (
                    (*section, "secret"),
                    (*section, "secret_file"),
                    (*section, "secret_env"),
                    (*section, "mode"),
                ),
            )
        for key, file in files:
            if file is None:
                yield Finding(
                    f"cluster.peer_security.{key}: missing: mode mtls needs ca, cert and key",
                    (section, (*section, key)),
                )


def _raft(config: Config) -> Iterator[Finding]:
    timeout, heartbeat = ("raft", "election_timeout"), ("raft", "heartbeat")
    minimum, maximum = config.raft.election_timeout_ns
    if minimum >= maximum:
        yield Finding("raft.election_timeout: the second value must be larger than the first", (timeout,))
    if minimum <= HEARTBEATS_MIN * config.raft.heartbeat_ns:
        yield Finding(
            f"raft.election_timeout: the first value, {format_duration(minimum)}, must be more than"
            f" {HEARTBEATS_MIN} heartbeats of {format_duration(config.raft.heartbeat_ns)}",
            (timeout, heartbeat),
        )


def _directories(config: Config) -> Iterator[Finding]:
    """Check that nodes on the same host have different directories and log files."""
    hosts = Counter((node.peer or node.client).host for node in config.cluster.nodes.values())
    shared = [host for host, count in hosts.items() if count > 1]
    for path, location in ((("store", "dir"), config.store.dir), (("logging", "file"), config.logging.file)):
        if shared and location is not None and "{node}" not in str(location):
            yield Finding(
                f"{'.'.join(path)}: the nodes on {shared[0]} would share it; add {{node}} to the path",
                (path,),
            )


def _memory(config: Config) -> Iterator[Finding]:
    cluster = config.cluster
    if config.store.store == "memory" and (len(cluster.nodes) > 1 or cluster.bootstrap or cluster.join):
        yield Finding(
            "store.store: memory is only for a single node: after a restart, a node of a cluster must still"
            " have what it acknowledged",
            (("store", "store"), ("cluster", "nodes")),
        )


def _nats_server(config: Config) -> Iterator[Finding]:
    """Check ``streaming.nats_server``: clients connect to an external NATS server (R29)."""
    server, section = config.streaming.nats_server, ("streaming", "nats_server")
    if server is None:
        return
    if not server.urls:
        yield Finding(
            "streaming.nats_server.urls: missing: the URLs of the NATS server", (section, (*section, "urls"))
        )
    if (server.user is None) != (server.password is None):
        given, missing = ("password", "user") if server.user is None else ("user", "password")
        yield Finding(
            f"streaming.nats_server.{given}: has no effect without {missing}",
            ((*section, given), (*section, missing)),
        )
    if server.token is not None and server.user is not None:
        yield Finding(
            "streaming.nats_server.token: use either token or user and password",
            ((*section, "token"), (*section, "user")),
        )
    if server.tls is not None and (server.tls.cert is None) != (server.tls.key is None):
        given, missing = ("key", "cert") if server.tls.cert is None else ("cert", "key")
        yield Finding(
            f"streaming.nats_server.tls.{given}: has no effect without {missing}",
            ((*section, "tls", given), (*section, "tls", missing)),
        )
    cluster = config.cluster
    is_alone = len(cluster.nodes) == 1 and not (cluster.bootstrap or cluster.join)
    if cluster.routes is not None and is_alone:  # in a cluster, members find each other on the routes
        yield Finding(
            "cluster.routes: has no effect with streaming.nats_server: the NATS server has its own routes",
            (("cluster", "routes"), section),
        )
    clients = config.clients
    for key, value in (("users", clients.users), ("user", clients.user), ("token", clients.token)):
        if value:
            yield Finding(
                f"clients.{key}: has no effect with streaming.nats_server: the NATS server checks clients",
                (("clients", key), section),
            )


def _encryption(config: Config) -> Iterator[Finding]:
    encryption, section = config.store.encryption, ("store", "encryption")
    if encryption is None:
        return
    if encryption.key is None:
        yield Finding(
            "store.encryption: encryption key required: add key_env or key_file",
            (section, (*section, "key")),
        )
    if config.store.store == "memory":
        yield Finding("store.encryption: has no effect with store: memory", (section, ("store", "store")))


def _limits(config: Config) -> Iterator[Finding]:
    section = ("limits", "channels")
    literal = 0
    for pattern in config.limits.channels:
        tokens = ["x" if token in ("*", ">") else token for token in pattern.split(".")]
        if not valid_subject(pattern.encode()) or not valid_channel(".".join(tokens)):
            yield Finding(f'limits.channels: invalid channel name "{pattern}"', ((*section, pattern),))
        literal += not has_wildcard(pattern.encode())
    channels_max = config.limits.max_channels
    if 0 < channels_max < literal:
        yield Finding(
            f"limits.channels: {literal} channels are named, but limits.max_channels is {channels_max}",
            (section, ("limits", "max_channels")),
        )


def _credentials(config: Config) -> Iterator[Finding]:
    clients = config.clients
    modes = [
        key
        for key, given in (("users", clients.users), ("user", clients.user), ("token", clients.token))
        if given
    ]
    if len(modes) > 1:
        yield Finding(
            f"clients.{modes[1]}: use only one of users, user and token",
            tuple(("clients", mode) for mode in modes[::-1]),
        )
    if (clients.user is None) != (clients.password is None):
        given_key, missing = ("password", "user") if clients.user is None else ("user", "password")
        yield Finding(
            f"clients.{given_key}: has no effect without {missing}",
            (("clients", given_key), ("clients", missing)),
        )
    seen: set[str] = set()
    for number, user in enumerate(clients.users):
        if user.user in seen:
            yield Finding(
                f"clients.users: {user.user} is given twice", (("clients", "users", str(number), "user"),)
            )
        seen.add(user.user)
        for verb, subjects in _subjects(user):
            for key, patterns in (("allow", subjects.allow or ()), ("deny", subjects.deny)):
                for at, pattern in enumerate(patterns):
                    path = ("clients", "users", str(number), "permissions", verb, key, str(at))
                    if not valid_subject(pattern.encode()):
                        yield Finding(f"{'.'.join(path[:-1])}: {pattern!r} is not a valid subject", (path,))
    if clients.no_auth_user is not None and clients.no_auth_user not in seen:
        yield Finding(
            f"clients.no_auth_user: clients.users has no user {clients.no_auth_user}",
            (("clients", "no_auth_user"), ("clients", "users")),
        )


def _subjects(user: User) -> Iterator[tuple[str, Subjects]]:
    if user.permissions is not None:
        yield "publish", user.permissions.publish
        yield "subscribe", user.permissions.subscribe


def _clients(config: Config) -> Iterator[Finding]:
    clients = config.clients
    if clients.max_pending < clients.max_payload:
        yield Finding(
            "clients.max_pending: less than max_payload: the largest message could not be delivered",
            (("clients", "max_pending"), ("clients", "max_payload")),
        )
    if clients.lame_duck_grace_period_ns >= clients.lame_duck_duration_ns:
        yield Finding(
            "clients.lame_duck_grace_period: must be shorter than lame_duck_duration, which includes it",
            (("clients", "lame_duck_grace_period"), ("clients", "lame_duck_duration")),
        )


def _monitoring(config: Config) -> Iterator[Finding]:
    monitoring = config.monitoring
    if monitoring.open and monitoring.token is not None:
        yield Finding(
            "monitoring.token: has no effect with open: true",
            (("monitoring", "token"), ("monitoring", "open")),
        )
    if monitoring.open and monitoring.figures_open:
        yield Finding(
            "monitoring.figures_open: has no effect with open: true",
            (("monitoring", "figures_open"), ("monitoring", "open")),
        )
    if monitoring.open or monitoring.figures_open or monitoring.token is not None:
        return
    for name, node in config.cluster.nodes.items():
        if node.http is not None and not node.http.is_loopback:
            path = ("cluster", "nodes", name, "http")
            yield Finding(
                f"{'.'.join(path)}: {node.http} is not on the loopback; set monitoring.token (token_env,"
                " token_file), monitoring.figures_open: true to let everyone read statistics, or"
                " monitoring.open: true to let everyone read all pages",
                (path, ("monitoring", "token"), ("monitoring", "open")),
            )
