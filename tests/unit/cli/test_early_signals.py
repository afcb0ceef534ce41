"""Signals before a command has its own handlers: they end the process or are remembered."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

INSTALL = """
import os, signal, sys
from node.cli import early_signals
early_signals.install({signal.SIGTERM: 143, signal.SIGINT: 7}, remember=True)
"""


def run(code: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", INSTALL + code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 7)])
def test_a_signal_ends_the_process_even_in_a_destructor(number: str, status: int) -> None:
    """The former handler raised SystemExit, which Python ignores in a destructor: the process continued."""
    code = f"""
class Ignoring:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        for _ in range(1000): pass

del [Ignoring()][0]
print("went on")
"""
    assert run(code) == (status, "")


def test_remembered_signals_are_unique_and_in_order() -> None:
    code = """
for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1):
    os.kill(os.getpid(), number)
print(*early_signals.take(), *early_signals.take())
"""
    assert run(code) == (0, f"{signal.SIGUSR1:d} {signal.SIGHUP:d}\n")


def test_a_command_that_catches_keyboard_interrupt_gets_it_back() -> None:
    code = """
early_signals.leave_to_python()
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run(code) == (0, "interrupted\n")
