"""The search for a seed that shows the effect of a mutation, and its recorded hints."""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from pathlib import Path

import pytest

HINTS = Path(__file__).parent / "simulator" / "hints.json"
"""By test: the seed that showed its mutation when hints were last recorded."""

SEED = "seed that shows it"
"""The name of a property in a test's report."""


class SeedSearch:
    """Finds a seed that shows the effect of a mutation.

    Which seeds do changes with every change of behaviour. So a test states a *bound*, which is a claim: one
    of the seeds below it shows the mutation. The search starts with a recorded hint and usually needs one
    run. If the hint is out of date, it tries all other seeds. ``make hints`` records the hints again.
    """

    def __init__(self, test: str, record: Callable[[str, object], None]) -> None:
        self._test = test
        self._record = record

    def find(
        self, bound: int, broken: Callable[[int], str | None], *, kinds: Container[str] | None = None
    ) -> None:
        """Fail unless one of the seeds shows the mutation.

        Args:
            bound: seeds from 0 up to this one, exclusive, are tried.
            broken: runs a seed; returns the violated invariant, or None.
            kinds: a seed counts only if it violates one of these invariants. None: any.
        """
        hint = recorded().get(self._test, 0)
        seeds = [hint, *(seed for seed in range(bound) if seed != hint)] if hint < bound else range(bound)
        for seed in seeds:
            what = broken(seed)
            if what is not None and (kinds is None or what in kinds):
                self._record(SEED, [self._test, seed])
                return
        pytest.fail(f"none of {bound} seeds shows the effect of this mutation")


def recorded() -> dict[str, int]:
    """Return the recorded hints."""
    hints: dict[str, int] = json.loads(HINTS.read_text())
    return hints


class HintRecorder:
    """Collects the seeds that tests found, in the process that writes the report."""

    def __init__(self) -> None:
        self.hints = recorded() if HINTS.exists() else {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == SEED:
                test, seed = value
                self.hints[test] = seed

    def pytest_sessionfinish(self) -> None:
        HINTS.write_text(json.dumps(self.hints, indent=1, sort_keys=True) + "\n")
