"""Run a cluster on this machine, show and change its members, or recover it from one node.

`up` starts every node of FILE as a process and shows its output, each line after the node's name. A node
that ends is not restarted. Ctrl-C or SIGTERM stops all nodes; a second one kills them. `add`, `remove`,
`replace`, `members` and `clock` send a request to a running cluster; `recover` makes a new cluster from the
data of a single node.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Final

import trio

from node.cli import members, recover
from node.cli.options import add_config, names
from node.config.load import load
from node.errors import ConfigError

STOP_SECONDS_MAX: Final = 10.0
"""Nodes that have not stopped after this time are killed. A node needs at most 5 s."""

LINE_SIZE_MAX: Final = 64 * 1024
"""Bytes. A longer line is shown in parts."""

_COLOURS: Final = (36, 33, 32, 35, 34, 31)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion cluster``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="run every node of FILE", description="Run every node of FILE.")
    add_config(up, positional=True)
    up.add_argument("--only", type=names, metavar="N1,N2,…", help="run only these nodes")
    members.arguments(actions)
    recover.arguments(actions)


def run(args: argparse.Namespace) -> int:
    """Run the action. ``up`` runs the nodes until all have ended; returns 0 if all ended with status 0."""
    if args.action == "recover":
        return recover.run(args)
    if args.action != "up":
        return members.run(args)
    config = load(args.config, overrides=args.overrides)
    nodes: list[str] = args.only or list(config.cluster.nodes)
    unknown = [name for name in nodes if name not in config.cluster.nodes]
    if unknown:
        raise ConfigError([f"--only: {args.config} has no node {name}" for name in unknown])
    for name in nodes:  # check each node's secrets and certificates before any node starts
        load(args.config, node=name, overrides=args.overrides)
    return trio.run(_up, {name: node_command(args.config, name, args.overrides) for name in nodes})


def node_command(config: str, name: str, overrides: list[str]) -> list[str]:
    """Return the command line that runs one node of ``config`` as a process of its own."""
    command = [sys.executable, "-m", "node.cli.entry", "node", "--config", config, "--name", name]
    for override in overrides:
        command += ["--set", override]
    return command


async def _up(commands: dict[str, list[str]]) -> int:
    processes: dict[str, trio.Process] = {}
    width = max(len(name) for name in commands)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, processes)
            try:
                async with trio.open_nursery() as running:
                    for number, (name, command) in enumerate(commands.items()):
                        # In its own process group: the terminal's Ctrl-C reaches only this process.
                        processes[name] = await trio.lowlevel.open_process(
                            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
                        )
                        running.start_soon(_show, processes[name], _prefix(name, width, number))
            finally:
                for process in processes.values():
                    process.kill()  # does nothing to one that has ended
            nursery.cancel_scope.cancel()
    return 0 if all(process.returncode == 0 for process in processes.values()) else 1


async def _stop_on_signal(signals: AsyncIterator[int], processes: dict[str, trio.Process]) -> None:
    async for _ in signals:
        break
    _say(f"stopping {', '.join(name for name, process in processes.items() if process.poll() is None)}")
    for process in processes.values():
        process.terminate()
    with trio.move_on_after(STOP_SECONDS_MAX):
        async for _ in signals:
            break
    _say("killing the nodes that have not stopped")
    for process in processes.values():
        process.kill()


def _prefix(name: str, width: int, number: int) -> bytes:
    text = f"{name:{width}} | "
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{text}\x1b[0m"
    return text.encode()


async def _show(process: trio.Process, prefix: bytes) -> None:
    assert process.stdout is not None
    left = b""
    async for data in process.stdout:
        *lines, left = (left + data).split(b"\n")
        if len(left) > LINE_SIZE_MAX:
            lines, left = [*lines, left], b""
        _write(b"".join(b"%b%b\n" % (prefix, line) for line in lines))
    if left:
        _write(prefix + left + b"\n")
    await process.wait()
    _write(prefix + f"exited with status {process.returncode}\n".encode())


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    print(f"stanchion: {text}", file=sys.stderr, flush=True)
