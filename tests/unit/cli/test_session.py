"""How ``pub`` and ``sub`` end: by themselves, by a signal, by an error."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from node.cli.session import run_until_stopped
from node.errors import RefusedError


def test_its_status_is_the_works() -> None:
    async def work() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    assert run_until_stopped(work) == 7


def test_an_error_comes_by_itself() -> None:
    """In a nursery's group nobody would have caught it, and the user had seen a traceback."""

    async def work() -> int:
        await trio.lowlevel.checkpoint()
        raise RefusedError("no")

    with pytest.raises(RefusedError, match="no"):
        run_until_stopped(work)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_it_has_cleaned_up(number: signal.Signals) -> None:
    cleaned_up = []

    async def work() -> int:
        os.kill(os.getpid(), number)
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up.append(True)

    assert run_until_stopped(work, stopped=0) == 0
    assert cleaned_up
