"""What every unit test leaves as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


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
