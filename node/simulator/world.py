"""Virtual time: a queue of things to do, one seed that decides everything.

Nothing in a simulated world may look at a real clock, draw from another generator or depend on the
order of a set of strings. Then a seed replays exactly, in any process.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

CALLS_PER_SECOND_MAX = 200_000
"""In one second of virtual time. A quiet one has some thousands."""


class StandstillError(Exception):
    """Somebody asks to be called again and again without any time in between."""


class World:
    """Time, chance, and what will happen.

    Args:
        seed: decides the whole run.
        trace: whether `note` keeps what it is told.
        chance: what kind of generator decides.
    """

    def __init__(
        self, seed: int, *, trace: bool = False, chance: type[random.Random] = random.Random
    ) -> None:
        self.seed = seed
        self.rng = chance(seed)
        self._chance = chance
        self.now = self.started_s = 100.0
        """Seconds."""
        self.counts: Counter[str] = Counter()
        """What happened how often, for the reader of a report."""
        self.trace: list[str] | None = [] if trace else None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def clock(self) -> float:
        return self.now

    def stream(self, name: str) -> random.Random:
        """A generator for one part of the world: what others draw doesn't change what it draws.

        So a run in which one fault less happens goes on much as before, and can be shrunk.
        """
        return self._chance(f"{self.seed}/{name}")

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it when ``delay_s`` has passed; calls of the same moment happen in the order given."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._number, call))

    def run(self, seconds: float) -> None:
        """Let time pass. Whatever a call raises ends the run, and time stands still.

        Raises:
            StandstillError: so much is called that time hardly passes any more.
        """
        until = self.now + seconds
        queue, second, calls = self._queue, int(self.now), 0
        while queue and queue[0][0] <= until:
            self.now, _, call = heapq.heappop(queue)
            calls += 1
            if int(self.now) > second:
                second, calls = int(self.now), 0
            elif calls > CALLS_PER_SECOND_MAX:
                raise StandstillError(f"{calls} calls in second {second}, the last one {call}")
            call()
        self.now = until

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def note(self, text: str) -> None:
        """A line for the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:10.4f} {text}")
