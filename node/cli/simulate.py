"""Run clusters in a simulated world, and check what they promise.

Whole nodes with their clients on virtual time, networks and disks, and an adversary who breaks things.
Each seed is another run, and the same seed the same run. Exit status 1 if a promise was broken: then
the run is made as short as possible, told, and can be seen again with the command that is printed.
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
"""Lines of the story before a breach."""

TICK_S = 0.01
"""Processor time is counted in such pieces."""
PROGRESS_S = 10.0

ALL = "all"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``stanchion simulate``."""
    from node.simulator.profiles import PROFILES

    add = parser.add_argument
    add("--seeds", type=_positive, metavar="N", help="how many runs (default: 20; with --for: no limit)")
    add("--for", dest="for_s", type=float, metavar="SECONDS", help="go on with new seeds for so long")
    add("--first-seed", type=int, default=0, metavar="SEED", help="where to begin (default: 0)")
    add("--nodes", type=int, choices=(1, 3, 5), help="default: 1, 3 or 5, by the seed")
    add(
        "--profile",
        choices=(*PROFILES, ALL),
        default="brutal",
        help="what breaks (default: brutal); all: one profile after the other",
    )
    add("--seconds", type=float, metavar="S", help="virtual time of a run (default: the profile's)")
    add(
        "--rate",
        action="append",
        default=[],
        type=_rate,
        metavar="KIND=PER_SECOND",
        help="how often something goes wrong, if not as the profile says; may be repeated",
    )
    add("--acts", type=_numbers, metavar="N,…", help="of all that goes wrong, only this; or none")
    add("--clients", type=_numbers, metavar="N,…", help="only these clients")
    add("--jobs", type=_positive, default=1, metavar="N", help="processes (default: 1)")
    add(
        "--shrink-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="spend so long on making a failing run smaller (default: 60)",
    )
    add("--trace", action="store_true", help="tell all that happens, not only before a breach")


def run(args: argparse.Namespace) -> int:
    """Run the seeds one after the other until one of them breaks a promise."""
    logging.disable(logging.CRITICAL)  # a thousand elections, all of them wanted
    total: Counter[str] = Counter()
    runs = 0
    began = told = time.monotonic()
    used_s = _processor_s()
    for outcome in _outcomes(args, began):
        if outcome.failure is not None:
            _notify(args, outcome)
            return 1
        runs += 1
        total += outcome.counts
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            print(_progress(runs, total, told - began, outcome.case), file=sys.stderr)
    seconds, used_s = time.monotonic() - began, _processor_s() - used_s
    virtual_s = total.pop("virtual milliseconds", 0) / 1000
    print(
        f"{runs} runs of profile {args.profile}, {virtual_s:.0f} virtual seconds "
        f"({virtual_s / 3600:.2f} hours) in {seconds:.1f} s, {used_s:.1f} s of processor time: "
        f"{virtual_s / max(used_s, TICK_S):.1f} times real time"
    )
    print(", ".join(f"{what} {number}" for what, number in sorted(total.items())))
    print("no promise was broken")
    return 0


def _processor_s() -> float:
    """What this process and those it has waited for have used: what other programs take doesn't count."""
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
    """In the order of the cases."""
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


def _notify(args: argparse.Namespace, outcome: Outcome) -> None:
    """What led to it, and how to see it again."""
    from node.simulator.failure_report import story

    asked_for = args.acts is not None or args.clients is not None
    seconds = 0.0 if asked_for else args.shrink_seconds
    for line in story(outcome, shrink_seconds=seconds, lines_max=None if args.trace else SHOWN_MAX):
        print(line, flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _numbers(text: str) -> tuple[int, ...]:
    """``1,2,5``; ``none``."""
    return () if text == "none" else tuple(int(number) for number in text.split(","))


def _rate(text: str) -> tuple[str, float]:
    from node.simulator.schedule import KINDS

    kind, _, rate = text.rpartition("=")
    if kind not in KINDS:
        raise argparse.ArgumentTypeError(f"expected one of: {', '.join(KINDS)}")
    return kind, float(rate)
