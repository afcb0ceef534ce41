"""Options that select a cluster, its nodes and the credentials."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from node.cli.options import names
from node.config.load import load
from node.config.values import Address, Secret
from node.errors import ConfigError
from node.server.operator_token import found

DEFAULT_SERVERS: Final = ("127.0.0.1:4222", "127.0.0.1:4221", "127.0.0.1:4223")
"""A node's default client address, and the nodes of ``cluster-configs/three-node.yaml``."""

DEFAULT_ID: Final = "test-cluster"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to connect to, with credentials."""

    servers: Sequence[str]
    """``host:port`` of nodes."""

    id: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    operator_token: Secret | None = None
    """The operator token of the configuration file."""
    directories: Sequence[Path] = ()
    """Data directories of the nodes in the configuration file."""
    is_closed: bool = False
    """The token must be sent to these servers only, not to others that they advertise."""

    def as_operator(self) -> Cluster:
        """Return this cluster with the operator token, unless a user or token was given.

        The token is that of the configuration, or else of a node's ``operator.token`` file on this machine.
        The latter is only sent to nodes on this machine.

        Raises:
            ConfigError: the configured token can't be read.
        """
        if self.user or self.token:
            return self
        if self.operator_token is not None:
            return replace(self, token=self.operator_token.reveal())
        here = [server for server in self.servers if _is_here(server)]
        token = found(self.directories) if here else ""
        return replace(self, token=token, servers=here, is_closed=True) if token else self


def add_target(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add the options that select the cluster and the credentials. `cluster_of` reads them.

    With ``positional`` the configuration file is an argument of the command instead of ``--config``.
    """
    name = "config" if positional else "--config"
    parser.add_argument(name, metavar="FILE", help="the cluster's configuration file; lists the nodes to ask")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE",
                        help="override a value of the file; may be repeated")  # fmt: skip
    parser.add_argument("--server", type=servers, metavar="HOST:PORT,…",
                        help="nodes to connect to, in random order (default: those of the file, or "
                        f"{','.join(DEFAULT_SERVERS)})")  # fmt: skip
    parser.add_argument("--cluster", metavar="ID",
                        help=f"the cluster ID (default: that of the file, or {DEFAULT_ID})")  # fmt: skip
    parser.add_argument(
        "--user", default="", help="user name; needed from another machine, or if clients must authenticate"
    )
    parser.add_argument("--password", default="", help="password; better in STANCHION_CLIENT_PASSWORD")
    parser.add_argument(
        "--token", default="", help="token instead of a user; better in STANCHION_CLIENT_TOKEN"
    )


def add_client(parser: argparse.ArgumentParser) -> None:
    """Add the options of `add_target`, and a client ID, for a streaming client."""
    add_target(parser)
    parser.add_argument(
        "--client-id",
        metavar="NAME",
        default="",
        help="client ID, used by one connection at a time (default: random)",
    )


def cluster_of(args: argparse.Namespace) -> Cluster:
    """Return the cluster that the command line selects.

    Raises:
        ConfigError: the configuration file has mistakes.
    """
    addresses, cluster_id = args.server or DEFAULT_SERVERS, args.cluster or DEFAULT_ID
    operator_token: Secret | None = None
    directories: tuple[Path, ...] = ()
    if args.config:
        config = load(args.config, overrides=args.overrides)
        listed = [address_of(node.advertise or node.client) for node in config.cluster.nodes.values()]
        addresses, cluster_id = args.server or listed, args.cluster or config.cluster.id
        operator_token = config.clients.operator_token
        directories = tuple(config.for_node(name).store.dir for name in config.cluster.nodes)
    elif args.overrides:
        raise ConfigError(["--set has no effect without --config"])
    return Cluster(
        addresses,
        cluster_id,
        args.user,
        args.password or os.environ.get("STANCHION_CLIENT_PASSWORD", ""),
        args.token or os.environ.get("STANCHION_CLIENT_TOKEN", ""),
        operator_token,
        directories,
    )


def address_of(address: Address) -> str:
    """Return the address to dial for a listen address; for an unspecified one, this machine's loopback."""
    return str(Address("127.0.0.1", address.port) if address.is_unspecified else address)


def _is_here(server: str) -> bool:
    """Return whether ``host:port`` is on this machine: if so, a socket can be bound to it."""
    host = server.removeprefix("nats://").rpartition(":")[0].strip("[]")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError:
        return False
    return True


def servers(text: str) -> list[str]:
    """Parse ``host:port,host:port`` into a list; for argparse's ``type``."""
    found = names(text)
    for address in found:
        host, colon, port = address.removeprefix("nats://").rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(f"expected host:port, not {address!r}")
    return found
