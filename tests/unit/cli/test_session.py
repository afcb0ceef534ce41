"""The end of ``pub`` and ``sub``: regular, by a signal, by an error."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from node.cli.session import run_until_stopped
from node.errors import RefusedError


def test_the_exit_status_is_that_of_the_work() -> None:
    async def work() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    assert run_until_stopped(work) == 7


def test_an_error_is_not_wrapped_in_a_group() -> None:
    """In an exception group it would not be caught, and the user would see a traceback."""

    async def work() -> int:
        await trio.lowlevel.checkpoint()
        raise RefusedError("no")

    with pytest.raises(RefusedError, match="no"):
        run_until_stopped(work)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_cleanup(number: signal.Signals) -> None:
    cleaned_up = []

    async def work() -> int:
        os.kill(os.getpid(), number)
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up.append(True)

    assert run_until_stopped(work, stopped=0) == 0
    assert cleaned_up
