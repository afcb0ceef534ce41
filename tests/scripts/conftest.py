"""Stories are compared with what they tell now; ``--rewrite`` writes that down instead."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write what the stories tell now, for review as a diff"
    )
    parser.addoption("--story-seed", type=int, default=1, help="of what is drawn in the stories' worlds")


@pytest.fixture
def story_seed(request: pytest.FixtureRequest) -> int:
    """A story tells the same with any; where it doesn't, it is about an accident."""
    seed = request.config.getoption("--story-seed")
    assert isinstance(seed, int)
    return seed


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite"))
