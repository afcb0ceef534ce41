"""Ports for the processes of a test run, and a guard that ends those processes with it.

Several runs may go on at once on one machine. A port is taken from below the range the kernel draws
from, and held by an abstract socket of its number for as long as the run lasts, so no two runs are given the
same, whosever they are.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

FIRST, LAST = 15_000, 30_000


class Ports:
    """Free ports on the loopback, ours until they are closed."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def take(self) -> int:
        """A port nobody listens on and no other run was given."""
        while True:
            port = random.randrange(FIRST, LAST)
            hold = socket.socket(socket.AF_UNIX)
            try:
                hold.bind(f"\0stanchion-test-port-{port}")
            except OSError:  # it is another run's, or was ours
                hold.close()
                continue
            if _is_free(port):
                self._held.enter_context(hold)
                return port
            hold.close()

    def close(self) -> None:
        self._held.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Guard:
    """Kills what the run has started, however the run ends.

    Fixtures end their processes; a run that is itself killed can't. The guard is a process that knows
    every process group, and outlives the run by the moment it takes to kill them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # some processes are ended from threads
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, group: int) -> None:
        self._say(f"+{group}")

    def forget(self, group: int) -> None:
        self._say(f"-{group}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def _guard() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run; its end is ours
    _guard()
