"""Run clusters in a simulated world, and check what they promise.

Whole nodes with their clients on virtual time, networks and disks, and an adversary who breaks things.
Each seed is another run, and the same seed the same run. Exit status 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections import Counter

from node.errors import NodeError

SHOWN_MAX = 80


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``stanchion simulate``."""
    from node.simulator.cluster import PROFILES

    parser.add_argument(
        "--seeds", type=_positive, default=20, metavar="N", help="how many runs (default: 20)"
    )
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="SEED", help="where to begin (default: 0)"
    )
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), help="default: 1, 3 or 5, by the seed")
    parser.add_argument("--profile", choices=PROFILES, default="brutal", help="what breaks (default: brutal)")
    parser.add_argument(
        "--trace", action="store_true", help="tell all that happens, not only before a breach"
    )


def run(args: argparse.Namespace) -> int:
    """Run the seeds one after the other until one of them breaks a promise."""
    from node.simulator.cluster import PROFILES, run_cluster
    from node.simulator.raft_checks import ViolationError

    logging.disable(logging.CRITICAL)  # a thousand elections, all of them wanted
    total: Counter[str] = Counter()
    began = time.monotonic()
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        lines: list[str] | None = [] if args.trace else None
        try:
            total += run_cluster(seed, PROFILES[args.profile], nodes=args.nodes, trace=lines)
        except (ViolationError, AssertionError, NodeError) as error:
            _tell(args, seed, lines, error)
            return 1
        print("\n".join(lines or []), end="\n" if lines else "")
    seconds = time.monotonic() - began
    virtual_s = total.pop("virtual milliseconds") / 1000
    print(f"{args.seeds} runs of profile {args.profile}, {virtual_s:.0f} virtual seconds in {seconds:.1f} s")
    print(", ".join(f"{what} {number}" for what, number in sorted(total.items())))
    print("no promise was broken")
    return 0


def _tell(args: argparse.Namespace, seed: int, lines: list[str] | None, error: Exception) -> None:
    """What led to it, and how to see it again."""
    from node.simulator.cluster import PROFILES, run_cluster

    if lines is None:
        lines = []
        with contextlib.suppress(type(error)):
            run_cluster(seed, PROFILES[args.profile], nodes=args.nodes, trace=lines)
        lines = lines[-SHOWN_MAX:]
    nodes = f" --nodes {args.nodes}" if args.nodes else ""
    print("\n".join(lines))
    print(f"seed {seed} breaks a promise: {type(error).__name__}: {error}")
    print(f"again: stanchion simulate --first-seed {seed} --seeds 1 --profile {args.profile}{nodes} --trace")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number
