"""What every unit test leaves as it found it, and what it doesn't touch."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What nodes under test keep for their user is not kept for the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Commands set up logging for a whole process; the next test in this one has its own idea of it."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    levels = {
        name: logging.getLogger(name).level
        for name in root.manager.loggerDict
        if name.startswith("stanchion")
    }
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(disabled)
    for name in [name for name in root.manager.loggerDict if name.startswith("stanchion")]:
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
