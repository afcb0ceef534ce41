"""The loop of a simulated process: one step after the other, and every step takes time.

What arrives while a step is being done, or while the process stands still, waits for its turn. A step
takes virtual time in proportion to what it did: whoever does something says what that costs (`spend`).
So a process that is given much to do at once is late for everything else, its own timers included.

The costs are those of a slow machine, several times what production needs on a fast one: bounds are
scaled down as well (`node.simulator.scaled_bounds`), and a run has few messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from node.simulator.world import World

INPUT_S = 40e-6
"""Costs of taking anything that arrives."""
WORK_S = 60e-6
"""Costs of one iteration of the driver."""
CLIENT_BYTE_S = 1e-6
"""Costs of one byte of a client: parsing, routing, making commands."""
PEER_BYTE_S = 0.2e-6
"""Costs of one byte of another node."""
ENTRY_S = 60e-6
ENTRY_BYTE_S = 0.5e-6
"""Costs of applying an entry."""
DELIVERY_S = 20e-6
"""Costs of writing one message to a client."""


class Steps:
    """Steps of one process.

    Args:
        world: where time passes.
        scale: how slow the machine is; 0: steps take no time.
    """

    def __init__(self, world: World, scale: float) -> None:
        self.scale = scale
        self.late_s = 0.0
        """How long the step under way, or the last one, had to wait for the ones before it."""
        self._world = world
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._free_at_s = 0.0
        self._spent_s = 0.0
        self._running = False
        self._stopped = False
        self._stopped_at_s = 0.0
        self.stood_s = 0.0
        """For how long the process has stood still, so far."""
        self._wakes_at_s = float("inf")

    def take(self, call: Callable[[], None]) -> None:
        """Do this at once if the process has nothing else to do; else when its turn comes."""
        if self._running:
            call()  # a part of the same step
        elif self._stopped or self._waiting or self._world.now < self._free_at_s:
            self._waiting.append((self._world.now, call))
            self._wake()
        else:
            self._do(self._world.now, call)

    def spend(self, seconds: float) -> None:
        """The step under way takes so much longer."""
        self._spent_s += seconds * self.scale

    def take_time(self, seconds: float) -> None:
        """The step under way takes so much longer, however fast the machine is."""
        self._spent_s += seconds

    def clear(self) -> None:
        """The process has died: what waits is gone."""
        self._waiting.clear()
        self._free_at_s = 0.0
        self._stopped = False

    def stop(self) -> None:
        """The process stands still."""
        self._stopped = True
        self._stopped_at_s = self._world.now

    def go_on(self) -> None:
        """The process runs again; it begins with what has waited."""
        self._stopped = False
        self.stood_s += self._world.now - self._stopped_at_s
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
        """Go on when the step under way is over."""
        if self._stopped or not self._waiting or self._wakes_at_s <= self._free_at_s:
            return
        self._wakes_at_s = self._free_at_s
        self._world.after(max(0.0, self._free_at_s - self._world.now), self._woken)

    def _woken(self) -> None:
        self._wakes_at_s = float("inf")
        self._go_on()
