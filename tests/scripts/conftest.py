"""Options of the script tests: ``--rewrite`` replaces the expected output with the actual one."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write the actual output of the scripts, for review as a diff"
    )
    parser.addoption("--script-seed", type=int, default=1, help="seed of the scripts' worlds")


@pytest.fixture
def script_seed(request: pytest.FixtureRequest) -> int:
    """The output of a script must not depend on the seed."""
    seed = request.config.getoption("--script-seed")
    assert isinstance(seed, int)
    return seed


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite"))
