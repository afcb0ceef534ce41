"""Which cluster a command talks to, through which nodes, and as whom."""

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
"""Where a node takes clients by default, and the nodes of ``cluster-configs/three-node.yaml``."""

DEFAULT_ID: Final = "test-cluster"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Whom to talk to, and as who."""

    servers: Sequence[str]
    """``host:port`` of nodes."""

    id: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    operator_token: Secret | None = None
    """What the configuration has for operators."""
    directories: Sequence[Path] = ()
    """Where the nodes of the configuration keep theirs."""
    is_closed: bool = False
    """The token is for these servers only, not for others that they name."""

    def as_operator(self) -> Cluster:
        """The same for requests of operators: with the operator token, unless somebody is named to ask.

        A token that is found in a file of this machine is shown to nodes of this machine only.

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
    """Which cluster, and as who. `cluster_of` reads it.

    With ``positional`` the configuration isn't an option, but what the command is about.
    """
    name = "config" if positional else "--config"
    parser.add_argument(name, metavar="FILE", help="the cluster's configuration: its nodes are asked")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE",
                        help="use this value instead of the file's; may be repeated")  # fmt: skip
    parser.add_argument("--server", type=servers, metavar="HOST:PORT,…",
                        help="or nodes to try, in random order, instead of those of the file "
                        f"({','.join(DEFAULT_SERVERS)})")  # fmt: skip
    parser.add_argument("--cluster", metavar="ID", help=f"and its id, instead of the file's ({DEFAULT_ID})")
    parser.add_argument(
        "--user", default="", help="who asks; needed from another machine, or where clients are asked for it"
    )
    parser.add_argument("--password", default="", help="of --user; better in STANCHION_CLIENT_PASSWORD")
    parser.add_argument("--token", default="", help="or a token; better in STANCHION_CLIENT_TOKEN")


def add_client(parser: argparse.ArgumentParser) -> None:
    """The same, for a command that is a streaming client."""
    add_target(parser)
    parser.add_argument(
        "--client-id",
        metavar="NAME",
        default="",
        help="one connection at a time may use it; by default a random one",
    )


def cluster_of(args: argparse.Namespace) -> Cluster:
    """What the command line says of the cluster.

    Raises:
        ConfigError: of the file.
    """
    addresses, cluster_id = args.server or DEFAULT_SERVERS, args.cluster or DEFAULT_ID
    operator_token: Secret | None = None
    directories: tuple[Path, ...] = ()
    if args.config:
        config = load(args.config, overrides=args.overrides)
        known = [address_of(node.advertise or node.client) for node in config.cluster.nodes.values()]
        addresses, cluster_id = args.server or known, args.cluster or config.cluster.id
        operator_token = config.clients.operator_token
        directories = tuple(config.for_node(name).store.dir for name in config.cluster.nodes)
    elif args.overrides:
        raise ConfigError(["--set is of no use without --config"])
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
    """Where to connect to a node that listens there; on every address means on this machine's too."""
    return str(Address("127.0.0.1", address.port) if address.is_unspecified else address)


def _is_here(server: str) -> bool:
    """Whether ``host:port`` is on this machine: then a socket can be bound to it."""
    host = server.removeprefix("nats://").rpartition(":")[0].strip("[]")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError:
        return False
    return True


def servers(text: str) -> list[str]:
    """The addresses in ``host:port,host:port``; for argparse's ``type``."""
    found = names(text)
    for address in found:
        host, colon, port = address.removeprefix("nats://").rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(f"expected host:port, not {address!r}")
    return found
