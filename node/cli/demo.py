"""Run a three-node cluster on this machine, kill its leader under load, and check the result.

Publishers, a durable subscriber, a queue group and subscribers that hold messages back work over
real sockets. The leader is killed with kill -9, several times, and paused once. At the end a checker
compares what the clients saw with the guarantees. The exit status is 0 only if all of them held.
"""

from __future__ import annotations

import argparse
import secrets
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion demo``."""
    parser.add_argument("--kills", type=_count, default=5, metavar="N", help="number of kills (5)")
    parser.add_argument("--seed", type=int, metavar="S", help="repeat a run's random choices (random)")
    parser.add_argument("--json", default="", metavar="FILE", help="write the report as JSON; - is stdout")
    parser.add_argument("--no-tty", action="store_true", help="print lines of text instead of a live screen")
    parser.add_argument("--svg", default="", metavar="FILE", help="save a picture of the screen")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' data and logs, print where")
    parser.add_argument(
        "--patient", action="store_true", help="show how long things took, but do not check it"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit status is its verdict."""
    from node.demo import run as demo

    return demo.run(
        demo.Options(
            kills=args.kills,
            seed=secrets.randbelow(1_000_000) if args.seed is None else args.seed,
            tty=not args.no_tty and sys.stdout.isatty() and args.json != "-",
            json=args.json,
            svg=args.svg,
            keep=args.keep,
            patient=args.patient,
        )
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count
