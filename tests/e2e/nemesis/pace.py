"""How slow the machine is, so that bounds judge the cluster and not the machine.

Two figures, both measured in the run itself. The *factor*: how long the nodes took to start and to elect a
leader, against `START_S` for each node; 1 at least, `FACTOR_MAX` at most. The *lateness*: how much later than
asked this process woke up, in whatever span is judged.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import trio

START_S = 0.5
"""For each node, of the time until a cluster is ready. A process takes 0.2 s, and all wait for one election
timeout, 1 to 1.5 s: so 1.5 s for three nodes and 2.5 s for five leave some room on a quiet machine."""

FACTOR_MAX = 4.0
WAKE_S = 0.02
LATE_S = 0.02
"""Less than that isn't noted."""


@dataclass(slots=True)
class Pace:
    """Measured while a run goes on."""

    factor: float = 1.0
    late: list[tuple[float, float]] = field(default_factory=list)
    """When this process woke up late, and by how many seconds; in order of time."""

    def started(self, nodes: int, took_s: float) -> None:
        """Take the factor from the start of a cluster."""
        self.factor = min(FACTOR_MAX, max(1.0, took_s / (START_S * nodes)))

    async def watch(self) -> None:
        """Note each time that this process wakes up late, until cancelled."""
        while True:
            due_s = trio.current_time() + WAKE_S
            await trio.sleep_until(due_s)
            now_s = trio.current_time()
            if now_s - due_s > LATE_S:
                self.late.append((now_s, now_s - due_s))

    def late_s(self, since_s: float, until_s: float) -> float:
        """By how much this process woke up late between two moments, all together."""
        total_s = 0.0
        for at_s, late_s in self.late[bisect_left(self.late, (since_s, 0.0)) :]:
            if at_s - late_s > until_s:
                break
            total_s += min(at_s, until_s) - max(at_s - late_s, since_s)
        return total_s
