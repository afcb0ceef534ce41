"""Run ``stanchion COMMAND …`` and return its exit status.

Each command is a module of this package with ``arguments(parser)`` and ``run(args)``, which returns the exit
status. Only the chosen module is imported, and it imports expensive modules when it runs: ``stanchion
--help`` does not import trio.

Exit status of every command:

===  ==============================================================================
0    success
1    failure: a node can't be reached, a disk refused a write, or the answer reports a problem
2    mistakes in the command line or the configuration
130  interrupted (SIGINT)
===  ==============================================================================
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from node import __version__
from node.cli import early_signals
from node.errors import ConfigError, NodeError

OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130

COMMANDS: Final = {
    "demo": "run a cluster on this machine, kill its leader under load, check the result",
    "node": "run one node of a cluster",
    "cluster": "run a cluster on this machine, change its members, recover it",
    "pub": "publish to a channel",
    "sub": "subscribe to a channel and print its messages",
    "channel": "show and change channels",
    "subscription": "show and change subscriptions (also `sub ls`, `sub info` …)",
    "client": "show and remove streaming clients",
    "status": "show the state of a cluster's nodes",
    "config": "check a configuration file, or apply its limits to a running cluster",
    "simulate": "run simulated clusters with faults, and check their guarantees",
    "certs": "make the TLS certificates of the nodes",
}
"""Summary of each command, by the name of its module in this package."""

SUBSCRIPTION_ACTIONS: Final = ("ls", "info", "rm", "seek", "pause", "resume")
"""`sub` followed by one of these words is `subscription`. For a channel of that name: ``sub -- ls``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's arguments) and return the exit status."""
    try:
        return _dispatch(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return MISUSED
    except NodeError as error:
        print(f"stanchion: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output is gone. Python would report the error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(argv: list[str]) -> int:
    width = max(len(name) for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="stanchion",
        description="A Raft-replicated cluster node that speaks the NATS Streaming protocol.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
        + "\n\n`stanchion COMMAND --help` shows details. Exit status: 0 success, 1 failure, 2 wrong usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stanchion {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    try:
        name = parser.parse_args(argv[:1]).command
        if name == "sub" and argv[1:2] and argv[1] in SUBSCRIPTION_ACTIONS:
            name = "subscription"
        module = importlib.import_module(f"node.cli.{name}")
        of_command = argparse.ArgumentParser(prog=f"stanchion {name}", description=module.__doc__)
        of_command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.arguments(of_command)
        # A positional argument may follow options, as in `pub CHANNEL --count 2 DATA`.
        parse = of_command.parse_intermixed_args if name == "pub" else of_command.parse_args
        args = parse(argv[1:])
    except SystemExit as exit_:  # argparse has printed help (0) or an error (2)
        return exit_.code if isinstance(exit_.code, int) else MISUSED
    if name != "node":  # a node does both itself after its imports
        gc.enable()
        early_signals.leave_to_python()
    status: int = module.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
