"""Measure how long the rounds of the event loop take, and how long this process did not run.

In a round, trio runs every ready task once, between two waits for I/O. The length of a round is the delay
that all other tasks see. The watch also adds up the time in which the process *stood still*: it was ready to
run but was stopped, swapped out, or waiting for a processor. The process's own work is not included, however
long a round takes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

WINDOW_S: Final = 10.0
WINDOWS: Final = 6
"""Rounds are counted in windows of `WINDOW_S` seconds. The last `WINDOWS` of them are kept: one minute."""

BUCKETS: Final = 256
"""Rounds are counted by whole milliseconds; the last bucket is for all longer ones."""

SHORT_S: Final = 0.02
"""In a shorter round the process can't have stood still for long. Then the CPU clock is not read, which would
take a system call."""

BASE_S: Final = 0.05
"""Maximum age of the last CPU clock reading when a round begins. Up to this much standing still per round may
be missed."""

OVERSLEPT_S: Final = 0.005
"""A wait that ends later than this after its timeout counts as standing still: timers are more exact."""


class _Window:
    """The rounds of `WINDOW_S` seconds."""

    __slots__ = ("began_s", "counts", "longest_s")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.counts = [0] * BUCKETS
        """Number of rounds by their length in milliseconds."""
        self.longest_s = 0.0


class LoopWatch(trio.abc.Instrument):
    """Measures the event loop in which it is installed (`installed`).

    Args:
        clock: monotonic seconds.
        cpu: CPU seconds of this process.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self.rounds = 0
        """Number of rounds that have ended."""
        self._windows = deque([_Window(clock())], maxlen=WINDOWS)
        self._window = self._windows[0]
        """The current window, in which rounds are counted."""
        self._stood_s = 0.0
        self._woke_s = self._slept_s = clock()
        self._base_s, self._base_cpu_s = clock(), cpu()
        self._is_installed = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch the running loop within this block. Does nothing if it is watched already."""
        if self._is_installed:
            yield
            return
        self._woke_s = self._base_s = self._clock()
        self._base_cpu_s = self._cpu()
        trio.lowlevel.add_instrument(self)
        self._is_installed = True
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            self._is_installed = False

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        now = self._clock()
        took_s = now - self._woke_s
        self._stood_s += self._waited_s(took_s)
        self.rounds += 1
        window = self._window
        if now - window.began_s >= WINDOW_S:
            window = self._begin_window(now)
        window.counts[min(BUCKETS - 1, int(took_s * 1000))] += 1
        window.longest_s = max(window.longest_s, took_s)
        self._slept_s = now

    def after_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        now = self._clock()
        late_s = now - self._slept_s - timeout
        if late_s > OVERSLEPT_S:
            self._stood_s += late_s
        self._woke_s = now
        if now - self._base_s > BASE_S:
            self._base_s, self._base_cpu_s = now, self._cpu()

    def _waited_s(self, took_s: float) -> float:
        """Return how long the process stood still in a round that has taken ``took_s``."""
        return max(0.0, took_s - (self._cpu() - self._base_cpu_s)) if took_s > SHORT_S else 0.0

    def stood_s(self) -> float:
        """Return the total seconds that the process has stood still, the current round included."""
        return self._stood_s + self._waited_s(self._clock() - self._woke_s)

    def _begin_window(self, now_s: float) -> _Window:
        self._window = _Window(now_s)
        self._windows.append(self._window)
        return self._window

    def _recent(self) -> list[_Window]:
        """Return the windows that began within the last minute."""
        since_s = self._clock() - WINDOWS * WINDOW_S
        return [window for window in self._windows if window.began_s > since_s]

    @property
    def longest_s(self) -> float:
        """The longest round of the last minute, in seconds."""
        return max((window.longest_s for window in self._recent()), default=0.0)

    def quantile_ms(self, part: float) -> int:
        """Return the ``part`` quantile of the last minute's round lengths in milliseconds; 0 without rounds.

        Rounded up; `BUCKETS` stands for all longer rounds.
        """
        counts = [sum(column) for column in zip(*(window.counts for window in self._recent()), strict=True)]
        wanted = part * sum(counts)
        seen = 0
        for milliseconds, count in enumerate(counts):
            seen += count
            if count and seen >= wanted:
                return milliseconds + 1
        return 0
