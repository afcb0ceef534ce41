"""Check a configuration without starting anything.

Prints every mistake with its file, line and column (exit status 2), or what the file describes.
With --node also what that node needs on this machine: its secrets and certificates.
"""

from __future__ import annotations

import argparse

from node.cli.options import add_config
from node.config.load import load
from node.config.model import Config


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``stanchion config``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="list every mistake in FILE", description=__doc__)
    check.formatter_class = argparse.RawDescriptionHelpFormatter
    add_config(check, positional=True)
    check.add_argument("--node", metavar="NAME", help="check as this node, on this machine")


def run(args: argparse.Namespace) -> int:
    """Check, and print a summary."""
    config = load(args.config, node=args.node, overrides=args.overrides)
    print(f"{args.config}: no mistakes")
    print(summary(config))
    return 0


def summary(config: Config) -> str:
    """What a configuration describes, in a few lines."""
    nodes = config.cluster.nodes
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    peers = {"mtls": "peers by mutual TLS", "none": "peers unprotected, on the loopback"}
    security = f", {peers[config.cluster.peer_security.mode]}" if len(nodes) > 1 else ""
    lines = [f"cluster {config.cluster.id}: {count}{security}"]
    width = max(len(name) for name in nodes)
    for name, node in nodes.items():
        listens = {
            "clients": node.client,
            "advertised": node.advertise,
            "peers": node.peer,
            "http": node.http,
        }
        shown = ", ".join(f"{what} {address}" for what, address in listens.items() if address is not None)
        lines.append(f"  {name:{width}}  {shown}")
    lines.append(f"store {config.store.dir}, {_limits(config)}")
    return "\n".join(lines)


def _limits(config: Config) -> str:
    patterns = len(config.limits.channels)
    return "limits for all channels alike" if not patterns else f"limits of their own for {patterns} patterns"
