"""The loop of a simulated process: one step after the other, and every step takes time.

Input that arrives during a step, or while the process is paused, waits for its turn. The virtual time of a
step depends on its work: the code that does the work adds the cost (`spend`). So a process with much work at
once is late for everything else, including its own timers.

The costs are those of a slow machine, several times those of production on a fast machine: bounds are scaled
down as well (`node.simulator.scaled_bounds`), and a run has few messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from node.simulator.world import World

INPUT_S = 40e-6
"""Cost of handling any input."""
WORK_S = 60e-6
"""Cost of one iteration of the driver."""
CLIENT_BYTE_S = 1e-6
"""Cost of one byte from a client: parsing, routing, making commands."""
PEER_BYTE_S = 0.2e-6
"""Cost of one byte from another node."""
ENTRY_S = 60e-6
ENTRY_BYTE_S = 0.5e-6
"""Costs of applying an entry."""
DELIVERY_S = 20e-6
"""Cost of writing one message to a client."""


class Steps:
    """The steps of one process.

    Args:
        world: the simulated world.
        scale: slowness of the machine; 0: steps take no time.
    """

    def __init__(self, world: World, scale: float) -> None:
        self.scale = scale
        self.late_s = 0.0
        """How long the current or last step waited for earlier steps."""
        self._world = world
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._free_at_s = 0.0
        self._spent_s = 0.0
        self._running = False
        self._stopped = False
        self._stopped_at_s = 0.0
        self.paused_s = 0.0
        """Total time for which the process was paused."""
        self._wakes_at_s = float("inf")

    def take(self, call: Callable[[], None]) -> None:
        """Run the call at once if the process is idle; otherwise when its turn comes."""
        if self._running:
            call()  # a part of the same step
        elif self._stopped or self._waiting or self._world.now < self._free_at_s:
            self._waiting.append((self._world.now, call))
            self._wake()
        else:
            self._do(self._world.now, call)

    def spend(self, seconds: float) -> None:
        """Extend the current step, scaled by the slowness of the machine."""
        self._spent_s += seconds * self.scale

    def take_time(self, seconds: float) -> None:
        """Extend the current step, independent of the machine's slowness."""
        self._spent_s += seconds

    def clear(self) -> None:
        """Drop all waiting calls: the process has died."""
        self._waiting.clear()
        self._free_at_s = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Pause the process."""
        self._stopped = True
        self._stopped_at_s = self._world.now

    def go_on(self) -> None:
        """Resume the process. It first runs the calls that have waited."""
        self._stopped = False
        self.paused_s += self._world.now - self._stopped_at_s
        self._go_on()

    def _do(self, since_s: float, call: Callable[[], None]) -> None:
        self.late_s = self._world.now - since_s
        self._running = True
        self._spent_s = 0.0
        try:
            call()
        finally:
            self._running = False
            self._free_at_s = max(self._free_at_s, self._world.now + self._spent_s)

    def _go_on(self) -> None:
        while self._waiting and not self._stopped and self._world.now >= self._free_at_s:
            self._do(*self._waiting.popleft())
        self._wake()

    def _wake(self) -> None:
        """Schedule the next waiting call for the end of the current step."""
        if self._stopped or not self._waiting or self._wakes_at_s <= self._free_at_s:
            return
        self._wakes_at_s = self._free_at_s
        self._world.after(max(0.0, self._free_at_s - self._world.now), self._woken)

    def _woken(self) -> None:
        self._wakes_at_s = float("inf")
        self._go_on()
