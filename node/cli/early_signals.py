"""Signals to a command that has only just been started.

The handlers stand before anything else is imported (`node.cli.entry`), because a signal that comes while
modules are imported must not be lost: an exception raised by a handler can end up in a callback that
ignores it, and then the process goes on as if nothing had happened. So a handler here raises nothing:

======================  ===================================================================
SIGTERM, SIGINT         end the process at once with the status that the command documents. Nothing is
                        lost: the node has no clients yet, and its files are made to survive a crash
SIGHUP, SIGUSR1, -2     are remembered; the node handles them once it is running (`take`)
======================  ===================================================================

A running node installs its own handlers (`node.server.shutdown`). Commands that end with
KeyboardInterrupt call `leave_to_python` when they begin their work.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Final

REMEMBERED: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_statuses: dict[int, int] = {}
_taken: list[int] = []


def install(statuses: Mapping[int, int], *, remember: bool = False) -> None:
    """End the process with these statuses, by signal.

    Args:
        statuses: by signal number, the exit status.
        remember: whether SIGHUP, SIGUSR1 and SIGUSR2 wait for `take`; else they end the process.
    """
    _statuses.update(statuses)
    for number in statuses:
        signal.signal(number, _end)
    for number in REMEMBERED if remember else ():
        signal.signal(number, _remember)


def take() -> list[int]:
    """Return the signals that were remembered, oldest first, each once."""
    found, _taken[:] = list(dict.fromkeys(_taken)), []
    return found


def leave_to_python() -> None:
    """From here on SIGINT raises KeyboardInterrupt, if `install` had set it to end the process."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(_statuses[number])


def _remember(number: int, _frame: FrameType | None) -> None:
    _taken.append(number)
