"""Shrinking of a failing run: fewer acts and fewer clients that cause the same violation.

Delta debugging: leave out a part, run again, and if the same invariant is still violated, leave it out for
good. Start with large parts, continue with smaller ones, until no part can be left out or the time is up.
Leaving out a fault that doesn't contribute to the violation may still change the run. But each part of a
world has its own random generator, so the violation mostly stays.

Source: Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input* (ddmin).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from node.simulator.cluster_run import Case, Failure, attempt

LATER_S = 3.0
"""A candidate run is a success if it hasn't failed this long after the failure of the last one."""


class Shrinker:
    """Shrinks one failing case.

    Args:
        case: the failing case.
        failure: its failure.
        seconds: maximum real time; a run that is under way when it has passed is the last one.
        clock: the real clock.
        run: runs a case, at least until the given virtual time.
    """

    def __init__(
        self,
        case: Case,
        failure: Failure,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Case, float], Failure | None] = lambda case, so_far: (
            attempt(case, until_s=so_far).failure
        ),
    ) -> None:
        self.case = case
        """The smallest case so far that fails in the same way."""
        self.failure = failure
        self.runs = 0
        self._clock = clock
        self._until = clock() + seconds
        self._run = run

    def shrink(self) -> Case:
        """Return the smallest case found."""
        self._keep(
            replace(self.case, acts=self.failure.executed_acts)
        )  # the other acts came after the failure
        size = None
        while size != (size := self._size()):
            # Clients first: runs with fewer clients are faster.
            self._minimize(Case.present, lambda case, kept: replace(case, clients=kept), at_least=1)
            self._minimize(
                lambda case: case.acts or (), lambda case, kept: replace(case, acts=kept), at_least=0
            )
        return self.case

    def _size(self) -> tuple[int, int]:
        return len(self.case.acts or ()), len(self.case.present())

    def _minimize(
        self,
        get: Callable[[Case], tuple[int, ...]],
        put: Callable[[Case, tuple[int, ...]], Case],
        *,
        at_least: int,
    ) -> None:
        """Leave out as many numbers as possible."""
        part = len(get(self.case)) - at_least
        while part > 0 and self._clock() < self._until:
            start = 0
            while start < len(numbers := get(self.case)) and self._clock() < self._until:
                kept = numbers[:start] + numbers[start + part :]
                if len(kept) < at_least or not self._keep(put(self.case, kept)):
                    start += part
            part //= 2

    def _keep(self, case: Case) -> bool:
        """Continue with this case if it fails in the same way. Returns whether it does."""
        self.runs += 1
        failure = self._run(case, self.failure.at_s + LATER_S)
        if failure is None or failure.kind != self.failure.kind:
            return False
        self.case = case if case.acts is None else replace(case, acts=_executed(case.acts, failure))
        self.failure = failure
        return True


def _executed(acts: tuple[int, ...], failure: Failure) -> tuple[int, ...]:
    """Return the acts that happened before the failure: later ones can't contribute."""
    return tuple(number for number in acts if number in failure.executed_acts)
