"""Check a configuration file, or apply its limits to a running cluster.

`check` starts nothing. It prints every mistake with file, line and column (exit status 2), or a summary of
the configuration. With --node it also checks that node's secrets and certificates on this machine.

`apply` also checks, then proposes the sections `limits` and `streaming`, which belong to the whole cluster,
as one command. It prints the changes; with --dry-run it only prints them. Lower limits take effect at once,
also for stored messages. A node whose own file has other values logs a warning when it is restarted.
"""

from __future__ import annotations

import argparse
from typing import Any

from node.cli.administer import add_cluster, administer, show
from node.cli.listing import changing
from node.cli.options import add_config
from node.config.load import load
from node.config.model import Config
from node.config.replicated import settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion config``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="list every mistake in FILE", description=__doc__)
    check.formatter_class = argparse.RawDescriptionHelpFormatter
    apply = actions.add_parser("apply", help="apply the limits of FILE to the cluster", description=__doc__)
    apply.formatter_class = argparse.RawDescriptionHelpFormatter
    add_cluster(apply, positional=True)
    apply.add_argument("--dry-run", action="store_true", help="only show the changes")
    add_config(check, positional=True)
    check.add_argument("--node", metavar="NAME", help="check the file for this node, on this machine")


def run(args: argparse.Namespace) -> int:
    """Check and print a summary, or apply."""
    if args.action == "apply":
        return _apply(args)
    config = load(args.config, node=args.node, overrides=args.overrides)
    print(f"{args.config}: no mistakes")
    print(summary(config))
    return 0


def _apply(args: argparse.Namespace) -> int:
    config = load(args.config, overrides=args.overrides)
    fields = changing(args, settings=settings(config), dry_run=args.dry_run)
    show(args, administer(args, "config.apply", fields), _changes)
    return 0


def _changes(answer: Any) -> str:
    changes = answer["changes"]
    if not changes:
        return "no changes: the cluster already has these settings"
    lines = [f"{name}: {_value(old)} -> {_value(new)}" for name, (old, new) in changes.items()]
    return "\n".join([*lines, "applied" if answer["applied"] else "not applied: this was a dry run"])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={limit}" for name, limit in value.items()) or "nothing"
    return "nothing" if value is None else str(value)


def summary(config: Config) -> str:
    """Describe a configuration in a few lines."""
    nodes = config.cluster.nodes
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    peers = {
        "mtls": "peers by mutual TLS",
        "secret": "peers by a shared secret, on the loopback",
        "none": "peers unprotected, on the loopback",
    }
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
    return (
        "the same limits for all channels" if not patterns else f"own limits for {patterns} channel patterns"
    )
