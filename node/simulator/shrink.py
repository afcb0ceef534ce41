"""Making a failing run small enough to be understood: fewer faults, fewer clients, the same breach.

Delta debugging: leave a part out, run again, and if the same promise is still broken leave it out for
good; first large parts, then smaller ones, until nothing can be spared or the time is up. Nothing
guarantees that leaving out a fault that has no part in the breach keeps the breach; but each part of
a world draws from a generator of its own, so it mostly does.

Source: Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input* (ddmin).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from node.simulator.cluster_run import Case, Failure, attempt

LATER_S = 3.0
"""A run that hasn't failed so long after the one before it did, has gone well."""


class Shrinker:
    """Shrinks one failing case.

    Args:
        case: what failed.
        failure: how.
        seconds: of real time, at most; the run under way when they have passed is the last.
        clock: tells real time.
        run: runs a case, so far at least.
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
        """The smallest so far that fails in the same way."""
        self.failure = failure
        self.runs = 0
        self._clock = clock
        self._until = clock() + seconds
        self._run = run

    def shrink(self) -> Case:
        """Returns the smallest case found."""
        self._keep(replace(self.case, acts=self.failure.struck))  # the others came to nothing
        size = None
        while size != (size := self._size()):
            # Clients first: what is left runs faster.
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
        """Leave out as many of these numbers as possible."""
        part = len(get(self.case)) - at_least
        while part > 0 and self._clock() < self._until:
            start = 0
            while start < len(numbers := get(self.case)) and self._clock() < self._until:
                kept = numbers[:start] + numbers[start + part :]
                if len(kept) < at_least or not self._keep(put(self.case, kept)):
                    start += part
            part //= 2

    def _keep(self, case: Case) -> bool:
        """Go on with this case if it fails in the same way."""
        self.runs += 1
        failure = self._run(case, self.failure.at_s + LATER_S)
        if failure is None or failure.kind != self.failure.kind:
            return False
        self.case = case if case.acts is None else replace(case, acts=_struck(case.acts, failure))
        self.failure = failure
        return True


def _struck(acts: tuple[int, ...], failure: Failure) -> tuple[int, ...]:
    """What comes after the breach has no part in it."""
    return tuple(number for number in acts if number in failure.struck)
