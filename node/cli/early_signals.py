"""Signal handlers for a command that has just been started.

They are installed before anything else is imported (`node.cli.entry`), because a signal that arrives during
the imports must not be lost: an exception raised by a handler can end up in a callback that ignores it, and
then the process continues. So these handlers raise nothing:

======================  ===================================================================
SIGTERM, SIGINT         end the process at once with the documented exit status. Nothing is lost: the node
                        has no clients yet, and its files survive a crash
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
    """Install handlers that end the process with the exit status given for each signal.

    Args:
        statuses: exit status by signal number.
        remember: remember SIGHUP, SIGUSR1 and SIGUSR2 for `take`; else they end the process.
    """
    _statuses.update(statuses)
    for number in statuses:
        signal.signal(number, _end)
    for number in REMEMBERED if remember else ():
        signal.signal(number, _remember)


def take() -> list[int]:
    """Return the remembered signals, oldest first, each once, and forget them."""
    found, _taken[:] = list(dict.fromkeys(_taken)), []
    return found


def leave_to_python() -> None:
    """Make SIGINT raise KeyboardInterrupt, if `install` had set it to end the process."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(_statuses[number])


def _remember(number: int, _frame: FrameType | None) -> None:
    _taken.append(number)
