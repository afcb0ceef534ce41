"""Which cluster a command talks to, through which nodes, and as whom."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from node.cli.options import names
from node.config.load import load
from node.config.values import Address
from node.errors import ConfigError

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
        "--user", default="", help="who asks; needed from another machine, or where it is asked for"
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
    if args.config:
        config = load(args.config, overrides=args.overrides)
        known = [address_of(node.advertise or node.client) for node in config.cluster.nodes.values()]
        addresses, cluster_id = args.server or known, args.cluster or config.cluster.id
    elif args.overrides:
        raise ConfigError(["--set is of no use without --config"])
    return Cluster(
        addresses,
        cluster_id,
        args.user,
        args.password or os.environ.get("STANCHION_CLIENT_PASSWORD", ""),
        args.token or os.environ.get("STANCHION_CLIENT_TOKEN", ""),
    )


def address_of(address: Address) -> str:
    """Where to connect to a node that listens there; on every address means on this machine's too."""
    return str(Address("127.0.0.1", address.port) if address.is_unspecified else address)


def servers(text: str) -> list[str]:
    """The addresses in ``host:port,host:port``; for argparse's ``type``."""
    found = names(text)
    for address in found:
        host, colon, port = address.removeprefix("nats://").rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(f"expected host:port, not {address!r}")
    return found
