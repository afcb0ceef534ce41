"""How long to soak."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known only when this folder is named on the command line, as ``make soak`` does."""
    parser.addoption(
        "--soak-seconds",
        type=float,
        default=0.0,
        help="go on with new seeds of whole clusters for so long (real seconds)",
    )


@pytest.fixture
def soak_seconds(request: pytest.FixtureRequest) -> float:
    """0: don't soak."""
    seconds: float = request.config.getoption("--soak-seconds", default=0.0)
    return seconds
