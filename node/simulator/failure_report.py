"""How a broken promise is told: shrunk, with its story, and with the command that shows it again."""

from __future__ import annotations

from collections.abc import Iterator

from node.simulator.cluster_run import Case, Outcome, attempt
from node.simulator.shrink import Shrinker

LINE_MAX = 200


def story(outcome: Outcome, *, shrink_seconds: float, lines_max: int | None) -> Iterator[str]:
    """What a failed run is told with, line by line, as soon as it is known.

    Args:
        outcome: the run's.
        shrink_seconds: spend so long on making it smaller; 0: leave it as it is.
        lines_max: tell so many of the last things that happened; None: all.
    """
    case, failure = outcome.case, outcome.failure
    assert failure is not None
    yield f"seed {case.seed} breaks a promise after {failure.at_s:.3f} s: {failure.text}"
    if shrink_seconds > 0:
        shrinker = Shrinker(case, failure, seconds=shrink_seconds)
        before = case
        case = shrinker.shrink()
        yield (
            f"of {len(before.schedule())} acts {len(case.schedule())} are left, of "
            f"{len(before.present())} clients {len(case.present())}, after {shrinker.runs} more runs"
        )
    yield from _notified(case, lines_max)


def _notified(case: Case, lines_max: int | None) -> Iterator[str]:
    lines: list[str] = []
    failure = attempt(case, trace=lines).failure
    for act in case.schedule():
        yield f"act {act.number}, {act.at_s:.3f} s after the warm-up: {act.kind}"
    for line in lines if lines_max is None else lines[-lines_max:]:
        yield line[:LINE_MAX]
    yield f"seed {case.seed}: {failure.text if failure else 'this time it went well'}"
    yield f"again: {case.command()}"
