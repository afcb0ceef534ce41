"""Run one node of a cluster, in the foreground, until it is told to stop.

SIGTERM and SIGINT stop it in steps: it hands leadership over, closes its clients and leaves. SIGUSR2
does the same slowly: clients are told, and closed one after the other within two minutes.

SIGHUP reads the file again. Users, the log level and certificates change at once; limits and streaming
settings are proposed to the cluster; everything else needs a restart, and the log says so. A file with
mistakes changes nothing. SIGUSR1 opens the log file anew.
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
    """The command line of ``stanchion node``."""
    add_config(parser)
    parser.add_argument("--name", required=True, metavar="NAME", help="which of the file's nodes this is")
    parser.add_argument("--log-level", choices=LEVELS, help="short for --set logging.level=…")


def run(args: argparse.Namespace) -> int:
    """Run it; the status is the node's own."""
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
