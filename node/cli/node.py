"""Run one node of a cluster in the foreground, until a signal stops it.

SIGTERM and SIGINT stop the node: it hands over leadership, closes its client connections and exits.
SIGUSR2 does the same slowly: it notifies the clients and closes their connections one by one within two
minutes.

SIGHUP reloads the configuration. Users, the log level and certificates change at once; limits and
streaming settings are proposed to the cluster; the log names all other changes, which need a restart. A
file with mistakes changes nothing. SIGUSR1 reopens the log file.
"""

from __future__ import annotations

import argparse
import gc

from node.cli import early_signals
from node.cli.options import add_config
from node.config.load import load
from node.config.model import Config
from node.server.logs import LEVELS, set_level, set_up


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion node``."""
    add_config(parser)
    parser.add_argument("--name", required=True, metavar="NAME", help="the node's name in the file")
    parser.add_argument("--log-level", choices=LEVELS, help="short for --set logging.level=…")


def run(args: argparse.Namespace) -> int:
    """Run the node and return its exit status."""
    overrides = list(args.overrides)
    if args.log_level:
        overrides.append(f"logging.level={args.log_level}")

    def read() -> Config:
        return load(args.config, node=args.name, overrides=overrides)

    config = read()
    set_up(config.logging.level, config.logging.format, config.logging.file, node=args.name)

    from node.server import node
    from node.server.launch import Launch

    launch = Launch(
        reload=read,
        relevel=lambda config: set_level(config.logging.level),
        early_signals=early_signals.take,
    )
    gc.freeze()
    gc.enable()
    return node.run(config, args.name, launch)
