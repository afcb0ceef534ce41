"""Schedule Python's full garbage collections, which stop the process while they run.

Python runs a full collection whenever the number of objects has grown by a quarter. A node with 40,000
subscriptions has half a million objects, and on a busy machine a full collection took one to two seconds:
leaders lost their leadership. So Python itself only collects the young generations, some milliseconds each
time. Full collections are run here, so rarely that they take `SHARE` of the time. On a leader, while one
would take longer than `LEADING_S`, only one runs in `LEADING_EVERY_S`.

That is enough, because connections and requests leave no reference cycles
(tests/unit/server/test_cycles.py) and are freed by reference counts. Full collections are still needed:
otherwise a leader that is never replaced would keep cycles left by a bug or a library for ever.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

import trio

YOUNG: Final = (2000, 10)
"""Thresholds of generations 0 and 1 for `gc.set_threshold`: new objects, and collections of generation 0."""

NEVER: Final = 1_000_000_000
"""Threshold of generation 2: Python never starts a full collection by itself."""

OBJECT_S: Final = 1e-6
"""Estimated time of a collection per object; 0.3 to 0.9 µs were measured on an idle machine."""

SHARE: Final = 0.001
"""Maximum part of the time that full collections take."""
LEADING_S: Final = 0.1
"""Full collections that take longer than this are run less often on a leader."""
LEADING_EVERY_S: Final = 3600.0
"""Interval of those collections on a leader."""
LOOK_EVERY_S: Final = 10.0
"""Interval of the checks whether a full collection is due."""


class Collector:
    """Runs full garbage collections when they are due.

    Args:
        leads: returns True while this node leads a cluster of more than one node.
        count: returns the number of objects in the oldest generation.
        collect: runs a full collection.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        leads: Callable[[], bool],
        *,
        count: Callable[[], int] = lambda: len(gc.get_objects(generation=2)),
        collect: Callable[[], object] = gc.collect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leads = leads
        self._count = count
        self._collect = collect
        self._clock = clock
        self._collected_s = clock()

    def look(self) -> bool:
        """Run a full collection if it is due. Returns True if it was."""
        takes_s = self._count() * OBJECT_S
        since_s = self._clock() - self._collected_s
        if since_s < takes_s / SHARE:
            return False
        if takes_s > LEADING_S and since_s < LEADING_EVERY_S and self._leads():
            return False
        self._collect()
        self._collected_s = self._clock()
        return True

    async def run(self) -> None:
        """Set the thresholds, then check every `LOOK_EVERY_S` seconds until cancelled."""
        gc.set_threshold(*YOUNG, NEVER)
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.look()
