"""Run one node of a cluster, in the foreground, until it is told to stop.

SIGTERM and SIGINT stop it in steps: it hands leadership over, closes its clients and leaves.
"""

from __future__ import annotations

import argparse

from node.cli.options import add_config
from node.config.load import load
from node.server.logs import LEVELS, set_up


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``stanchion node``."""
    add_config(parser)
    parser.add_argument("--name", required=True, metavar="NAME", help="which of the file's nodes this is")
    parser.add_argument("--log-level", choices=LEVELS, help="short for --set logging.level=…")


def run(args: argparse.Namespace) -> int:
    """Run it; the status is the node's own."""
    overrides = list(args.overrides)
    if args.log_level:
        overrides.append(f"logging.level={args.log_level}")
    config = load(args.config, node=args.name, overrides=overrides)
    set_up(config.logging.level, config.logging.format, config.logging.file, node=args.name)

    from node.server import node

    return node.run(config, args.name)
