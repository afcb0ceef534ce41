"""The report of a failed run: a smaller case, its trace, and the command that repeats it."""

from __future__ import annotations

from collections.abc import Iterator

from node.simulator.cluster_run import Case, Outcome, attempt
from node.simulator.shrink import Shrinker

LINE_MAX = 200


def report(outcome: Outcome, *, shrink_seconds: float, lines_max: int | None) -> Iterator[str]:
    """Yield the lines of the report of a failed run, each as soon as it is available.

    Args:
        outcome: the result of the run.
        shrink_seconds: time to spend on finding a smaller case; 0: keep the case as it is.
        lines_max: print only this many of the last trace lines; None: all.
    """
    case, failure = outcome.case, outcome.failure
    assert failure is not None
    yield f"seed {case.seed} violates an invariant after {failure.at_s:.3f} s: {failure.text}"
    if shrink_seconds > 0:
        shrinker = Shrinker(case, failure, seconds=shrink_seconds)
        before = case
        case = shrinker.shrink()
        yield (
            f"shrunk from {len(before.schedule())} to {len(case.schedule())} acts and from "
            f"{len(before.present())} to {len(case.present())} clients in {shrinker.runs} more runs"
        )
    yield from _trace_report(case, lines_max)


def _trace_report(case: Case, lines_max: int | None) -> Iterator[str]:
    lines: list[str] = []
    failure = attempt(case, trace=lines).failure
    for act in case.schedule():
        yield f"act {act.number}, {act.at_s:.3f} s after the warm-up: {act.kind}"
    for line in lines if lines_max is None else lines[-lines_max:]:
        yield line[:LINE_MAX]
    yield f"seed {case.seed}: {failure.text if failure else 'no failure this time'}"
    yield f"repeat with: {case.command()}"
