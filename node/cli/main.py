"""``stanchion COMMAND …``: finds the command, runs it, and says how it went.

A command is a module of this package with ``arguments(parser)`` and ``run(args)``, which returns the exit
status. Only the chosen one is imported, and it imports what is heavy when it runs: ``stanchion
--help`` has no use for an event loop.

Exit status, of every command:

===  ==============================================================================
0    it did what was asked
1    it failed: a node can't be reached, a disk refused, the answer is bad news
2    it was asked wrongly: the command line or the configuration has mistakes
130  it was interrupted (SIGINT)
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
    "demo": "a cluster on this machine whose leader is killed under load, and what happens",
    "node": "run one node of a cluster",
    "cluster": "run a cluster on this machine, add and remove nodes, recover one",
    "pub": "publish to a channel",
    "sub": "subscribe to a channel and show what comes",
    "channel": "look at channels and change them",
    "subscription": "look at subscriptions and change them (`sub ls`, `sub info` … is the same)",
    "client": "look at streaming clients, and remove them",
    "status": "ask the nodes of a cluster how they are",
    "config": "check a configuration, and have a cluster go by its limits",
    "simulate": "run clusters in a simulated world, and check what they promise",
    "certs": "make the certificates by which the nodes know one another",
}
"""The commands and what they are for; each is a module of this package."""

SUBSCRIPTION_ACTIONS: Final = ("ls", "info", "rm", "seek", "pause", "resume")
"""`sub` with one of these words first is `subscription`. A channel of that name: ``sub -- ls``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the process's own); return the exit status."""
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
        # Whoever read our output has had enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(argv: list[str]) -> int:
    width = max(len(name) for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="stanchion",
        description="A Raft-replicated cluster node that speaks the NATS Streaming protocol.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
        + "\n\n`stanchion COMMAND --help` says more. Exit status: 0 done, 1 failed, 2 asked wrongly.",
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
        # An optional word may also stand behind options, as in `pub CHANNEL --count 2 DATA`.
        parse = of_command.parse_intermixed_args if name == "pub" else of_command.parse_args
        args = parse(argv[1:])
    except SystemExit as exit_:  # argparse has printed its help (0) or what is wrong (2)
        return exit_.code if isinstance(exit_.code, int) else MISUSED
    if name != "node":  # a node does both itself, when it has imported the rest
        gc.enable()
        early_signals.leave_to_python()
    status: int = module.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
