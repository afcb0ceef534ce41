"""Virtual time: a queue of calls, and one seed that decides everything.

Code in a simulated world must not read a real clock, use another random generator, or depend on the iteration
order of a set of strings. Then a seed replays exactly, in any process.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

CALLS_PER_SECOND_MAX = 200_000
"""Maximum number of calls in one second of virtual time. A quiet second has some thousands."""


class StandstillError(Exception):
    """A part of the world schedules calls again and again without any virtual time between them."""


class World:
    """Virtual time, random generators, and the queue of calls.

    Args:
        seed: decides the whole run.
        trace: whether `record` keeps its lines.
        rng_class: the class of the random generators.
    """

    def __init__(
        self, seed: int, *, trace: bool = False, rng_class: type[random.Random] = random.Random
    ) -> None:
        self.seed = seed
        self.rng = rng_class(seed)
        self._rng_class = rng_class
        self.now = self.started_s = 100.0
        """Virtual time in seconds."""
        self.counts: Counter[str] = Counter()
        """How often each kind of event happened, for reports."""
        self.trace: list[str] | None = [] if trace else None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def clock(self) -> float:
        return self.now

    def stream(self, name: str) -> random.Random:
        """Return a generator for one part of the world. Draws by other parts don't change its sequence.

        So a run with one fault less continues much as before, and can be shrunk.
        """
        return self._rng_class(f"{self.seed}/{name}")

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Schedule a call. Calls at the same moment run in the order in which they were scheduled."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._number, call))

    def run(self, seconds: float) -> None:
        """Let time pass. An exception raised by a call ends the run at that moment.

        Raises:
            StandstillError: there are so many calls that time hardly passes.
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

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def record(self, text: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:10.4f} {text}")
