"""Shares the event loop between monitoring and the node: one short step at a time, with pauses between.

There may be many readers, and a page may be long. All of them together get one step at a time, in the order
of their requests. After a step follows a pause that keeps monitoring below a fixed share of the processor. So
a publish waits for one step at most, however many readers there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import trio

T = TypeVar("T")

STEP_S: Final = 0.001
"""Limit of a step with many parts, after which the next reader or the node runs."""

REST: Final = 3
"""Pause after a step, as a multiple of its duration: monitoring takes at most a quarter of the event loop."""


class Pacer:
    """Runs the steps of all pages, one after the other.

    Args:
        clock: monotonic seconds, precise enough to measure a step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._turn = trio.Lock()  # first come, first served
        self._free_s = -float("inf")

    async def step(self, work: Callable[[], T], besides_s: float = 0.0) -> T:
        """Run ``work``, which must be short, when it is its turn. Returns its result.

        ``besides_s`` is the cost of the same step elsewhere: the pause is long enough for both.
        """
        async with self._turn:
            if self._free_s > trio.current_time():
                await trio.sleep_until(self._free_s)
            began_s = self._clock()
            try:
                return work()
            finally:
                self._free_s = trio.current_time() + REST * (self._clock() - began_s + besides_s)

    async def some(self, parts: Iterator[T]) -> tuple[list[T], bool]:
        """Take from ``parts`` for one step. Returns the parts taken, and whether there may be more."""

        def take() -> tuple[list[T], bool]:
            taken: list[T] = []
            until_s = self._clock() + STEP_S
            for part in parts:
                taken.append(part)
                if self._clock() >= until_s:
                    return taken, True
            return taken, False

        return await self.step(take)
