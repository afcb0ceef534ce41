"""Options for soak runs, and the search for seeds that show the effect of a mutation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from seed_search import HINTS, HintRecorder, SeedSearch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options. They exist only if this folder is named on the command line, as ``make soak`` does."""
    parser.addoption(
        "--soak-seconds",
        type=float,
        default=0.0,
        help="run whole clusters with new seeds for this long (real seconds)",
    )
    parser.addoption(
        "--record-hints",
        action="store_true",
        help=f"write the seeds found for mutations to {HINTS.name} (see make hints)",
    )


@pytest.fixture
def soak_seconds(request: pytest.FixtureRequest) -> float:
    """Seconds to soak; 0: don't soak."""
    seconds: float = request.config.getoption("--soak-seconds", default=0.0)
    return seconds


@pytest.fixture
def seeds(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> SeedSearch:
    """The seed search of this test."""
    test = f"{request.path.stem}: {request.node.name}"
    return SeedSearch(test, record_property)


def pytest_configure(config: pytest.Config) -> None:
    worker: Any = getattr(config, "workerinput", None)
    if config.getoption("--record-hints", default=False) and worker is None:
        config.pluginmanager.register(HintRecorder())
