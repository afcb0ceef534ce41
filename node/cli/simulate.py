"""Run simulated clusters with faults, and check their guarantees.

Whole nodes and their clients run on virtual time, networks and disks, while faults are injected. The seed
decides the whole run: the same seed repeats it. The exit status is 1 if a guarantee was violated. Then the
failing run is shortened as far as possible and printed, with the command that repeats it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.simulator.cluster_run import Case, Outcome

SHOWN_MAX = 120
"""Lines printed before the violation."""

TICK_S = 0.01
"""Smallest measured processor time."""
PROGRESS_S = 10.0

ALL = "all"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion simulate``."""
    from node.simulator.profiles import PROFILES

    add = parser.add_argument
    add("--seeds", type=_positive, metavar="N", help="number of runs (default: 20; with --for: no limit)")
    add("--for", dest="for_s", type=float, metavar="SECONDS", help="run new seeds for this long")
    add("--first-seed", type=int, default=0, metavar="SEED", help="first seed (default: 0)")
    add("--nodes", type=int, choices=(1, 3, 5), help="number of nodes (default: 1, 3 or 5, by the seed)")
    add(
        "--profile",
        choices=(*PROFILES, ALL),
        default="brutal",
        help="kinds of faults (default: brutal); all: cycle through the profiles",
    )
    add("--seconds", type=float, metavar="S", help="virtual time of each run (default: the profile's)")
    add(
        "--rate",
        action="append",
        default=[],
        type=_rate,
        metavar="KIND=PER_SECOND",
        help="rate of a kind of fault (default: the profile's); may be repeated",
    )
    add("--acts", type=_numbers, metavar="N,…", help="inject only these faults of the run; or none")
    add("--clients", type=_numbers, metavar="N,…", help="run only these clients")
    add("--jobs", type=_positive, default=1, metavar="N", help="number of processes (default: 1)")
    add(
        "--shrink-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="time limit for shortening a failing run (default: 60)",
    )
    add("--trace", action="store_true", help="print all events, not only those before a violation")


def run(args: argparse.Namespace) -> int:
    """Run the seeds one after the other until one of them violates a guarantee."""
    logging.disable(logging.CRITICAL)  # simulated nodes log thousands of elections
    total: Counter[str] = Counter()
    runs = 0
    began = reported = time.monotonic()
    used_s = _processor_s()
    for outcome in _outcomes(args, began):
        if outcome.failure is not None:
            _report(args, outcome)
            return 1
        runs += 1
        total += outcome.counts
        if time.monotonic() - reported > PROGRESS_S:
            reported = time.monotonic()
            print(_progress(runs, total, reported - began, outcome.case), file=sys.stderr)
    seconds, used_s = time.monotonic() - began, _processor_s() - used_s
    virtual_s = total.pop("virtual milliseconds", 0) / 1000
    print(
        f"{runs} runs of profile {args.profile}, {virtual_s:.0f} virtual seconds "
        f"({virtual_s / 3600:.2f} hours) in {seconds:.1f} s, {used_s:.1f} s of processor time: "
        f"{virtual_s / max(used_s, TICK_S):.1f} times real time"
    )
    print(", ".join(f"{what} {number}" for what, number in sorted(total.items())))
    print("no guarantee was violated")
    return 0


def _processor_s() -> float:
    """Return the processor time of this process and its ended children, in seconds."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    from node.simulator.cluster_run import Case
    from node.simulator.profiles import PROFILES, changed

    names = list(PROFILES) if args.profile == ALL else [args.profile]
    seeds: Iterator[int] = count(args.first_seed)
    limit = args.seeds if args.seeds or args.for_s else 20
    for seed in islice(seeds, limit):
        profile = changed(PROFILES[names[seed % len(names)]], args.seconds, dict(args.rate))
        yield Case(seed, profile, args.nodes, args.acts, args.clients)


def _outcomes(args: argparse.Namespace, began: float) -> Iterator[Outcome]:
    from node.simulator.cluster_run import attempt

    until = began + args.for_s if args.for_s else float("inf")
    cases = _cases(args)
    if args.jobs == 1:
        for case in cases:
            lines: list[str] | None = [] if args.trace else None
            outcome = attempt(case, trace=lines)
            if lines and outcome.failure is None:
                print("\n".join(lines))
            yield outcome
            if time.monotonic() > until:
                return
    else:
        yield from _in_processes(cases, args.jobs, until)


def _in_processes(cases: Iterator[Case], jobs: int, until: float) -> Iterator[Outcome]:
    """Run the cases in several processes; yield their outcomes in the order of the cases."""
    from node.simulator.cluster_run import attempt

    with ProcessPoolExecutor(jobs, initializer=logging.disable, initargs=(logging.CRITICAL,)) as pool:
        waiting: list[Future[Outcome]] = [pool.submit(attempt, case) for case in islice(cases, 2 * jobs)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                if time.monotonic() < until:
                    waiting += [pool.submit(attempt, case) for case in islice(cases, 1)]
        finally:
            pool.shutdown(cancel_futures=True)


def _progress(runs: int, total: Counter[str], seconds: float, case: Case) -> str:
    virtual_s = total["virtual milliseconds"] / 1000
    return (
        f"{seconds:.0f} s: {runs} runs, {virtual_s / 3600:.2f} virtual hours "
        f"({virtual_s / seconds:.0f} times real time), at seed {case.seed}"
    )


def _report(args: argparse.Namespace, outcome: Outcome) -> None:
    """Print the events that led to the violation, and the command that repeats the run."""
    from node.simulator.failure_report import report

    asked_for = args.acts is not None or args.clients is not None
    seconds = 0.0 if asked_for else args.shrink_seconds
    for line in report(outcome, shrink_seconds=seconds, lines_max=None if args.trace else SHOWN_MAX):
        print(line, flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _numbers(text: str) -> tuple[int, ...]:
    """Parse ``1,2,5`` or ``none``."""
    return () if text == "none" else tuple(int(number) for number in text.split(","))


def _rate(text: str) -> tuple[str, float]:
    from node.simulator.schedule import KINDS

    kind, _, rate = text.rpartition("=")
    if kind not in KINDS:
        raise argparse.ArgumentTypeError(f"expected one of: {', '.join(KINDS)}")
    return kind, float(rate)
