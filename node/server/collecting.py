"""When Python looks for cycles of garbage among all objects, which stops the process for as long as it takes.

By itself Python does so whenever the objects have grown by a quarter. A node with 40,000 subscriptions has
half a million, and on a busy machine each look took one to two seconds: leaders lost their office for it. So
only young objects are looked at by themselves, some milliseconds each time. All are looked at here, so seldom
that it takes `SHARE` of the time; and by a leader, while there are so many that it takes longer than
`LEADING_S`, once in `LEADING_EVERY_S` only. So seldom will do: connections and requests leave no cycles
(tests/unit/server/test_cycles.py), reference counts free them. What a mistake or a library leaves is looked
for all the same, or a leader that is never replaced would keep it for ever.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

import trio

YOUNG: Final = (2000, 10)
"""Objects made, and looks at them, before the young and the not so young are looked at."""

NEVER: Final = 1_000_000_000
"""How many of those looks precede one at all objects."""

OBJECT_S: Final = 1e-6
"""What looking at one object takes: measured as 0.3 to 0.9 microseconds on a machine that was not busy."""

SHARE: Final = 0.001
LEADING_S: Final = 0.1
LEADING_EVERY_S: Final = 3600.0
LOOK_EVERY_S: Final = 10.0


class Collector:
    """Looks at all objects when it is time.

    Args:
        leads: whether this node leads a cluster with others in it.
        count: how many objects there are to look at.
        collect: looks at them.
        clock: seconds that only elapse.
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
        """Look at all objects if it is time. Returns whether it was."""
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
        """Look now and then, until cancelled."""
        gc.set_threshold(*YOUNG, NEVER)
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.look()
