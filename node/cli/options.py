"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_config(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """The configuration file, and overrides of it."""
    if positional:
        parser.add_argument("config", metavar="FILE", help="the cluster's configuration")
    else:
        parser.add_argument("--config", required=True, metavar="FILE", help="the cluster's configuration")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="use this value instead of the file's; may be repeated",
    )


DEFAULT_SERVERS = ["127.0.0.1:4222", "127.0.0.1:4221", "127.0.0.1:4223"]
"""Where a node takes clients by default, and the nodes of ``cluster-configs/three-node.yaml``."""


def add_client(parser: argparse.ArgumentParser) -> None:
    """Where a client connects, and as whom."""
    parser.add_argument(
        "--server",
        type=servers,
        metavar="HOST:PORT,…",
        default=DEFAULT_SERVERS,
        help=f"nodes to try, in random order ({','.join(DEFAULT_SERVERS)})",
    )
    parser.add_argument("--cluster", metavar="ID", default="test-cluster", help="its id (test-cluster)")
    parser.add_argument(
        "--client-id",
        metavar="NAME",
        default="",
        help="one connection at a time may use it; by default a random one",
    )
    parser.add_argument("--user", default="", help="who connects, where that is asked for")
    parser.add_argument("--password", default="", help="of --user; better in STANCHION_CLIENT_PASSWORD")
    parser.add_argument("--token", default="", help="or a token; better in STANCHION_CLIENT_TOKEN")


def servers(text: str) -> list[str]:
    """The addresses in ``host:port,host:port``; for argparse's ``type``."""
    found = names(text)
    for address in found:
        host, colon, port = address.removeprefix("nats://").rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(f"expected host:port, not {address!r}")
    return found


def names(text: str) -> list[str]:
    """The names in ``a,b,c``; for argparse's ``type``."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected names between commas, not {text!r}")
    return found
