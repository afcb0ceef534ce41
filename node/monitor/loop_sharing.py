"""How monitoring shares the event loop with the node: one short step at a time, and rests between.

Readers may be many, and a page may be long. All of them together get one step at a time, in the order in
which they ask, and after a step as much rest as keeps monitoring below a fixed share of the processor. So a
publish waits for one step at most, however many readers there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import trio

T = TypeVar("T")

STEP_S: Final = 0.001
"""How long a step of many parts may take before the next reader or the node has its turn."""

REST: Final = 3
"""Times the length of a step is rested after it: monitoring takes a quarter of the event loop at most."""


class Pacer:
    """Takes turns among those who make pages.

    Args:
        clock: seconds that only elapse, fine enough to measure a step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._turn = trio.Lock()  # it serves those who wait in their order
        self._free_s = -float("inf")

    async def step(self, work: Callable[[], T], besides_s: float = 0.0) -> T:
        """Do ``work``, which must be short, when it is its turn. Returns what it returns.

        ``besides_s`` is what the same step costs elsewhere: the rest is as long as for both.
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
        """Take from ``parts`` for one step. Returns what was taken, and whether there is more."""

        def take() -> tuple[list[T], bool]:
            taken: list[T] = []
            until_s = self._clock() + STEP_S
            for part in parts:
                taken.append(part)
                if self._clock() >= until_s:
                    return taken, True
            return taken, False

        return await self.step(take)
