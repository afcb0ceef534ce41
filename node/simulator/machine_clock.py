"""The clocks of one machine: a monotonic one from an arbitrary start, and a wall clock that may be wrong."""

from __future__ import annotations

from node.simulator.world import World
from node.units import SECOND

EPOCH_NS = 1_700_000_000 * SECOND
"""Unix time at the start of the world. The value doesn't matter."""

DRIFT = 100e-6
"""Quartz clocks run up to a hundred parts in a million fast or slow."""


class MachineClock:
    """The clocks of one machine. The monotonic clock restarts when the machine does."""

    def __init__(self, world: World, *, skew_s: float) -> None:
        self._world = world
        self._rate = 1 + world.rng.uniform(-DRIFT, DRIFT)
        self._skew_ns = int(world.rng.uniform(-skew_s, skew_s) * SECOND)
        self._booted_s = 0.0
        self.reboot()

    def reboot(self) -> None:
        """Restart the monotonic clock at another value, as after a power failure."""
        self._booted_s = self._world.now - self._world.rng.uniform(1, 1e6)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._skew_ns += int(seconds * SECOND)

    def monotonic_s(self) -> float:
        return (self._world.now - self._booted_s) * self._rate

    def monotonic_ns(self) -> int:
        return int((self._world.now - self._booted_s) * self._rate * SECOND)

    def wall_clock_ns(self) -> int:
        return EPOCH_NS + int(self._world.now * SECOND) + self._skew_ns

    def until_s(self, deadline_s: float) -> float:
        """Return how much virtual time passes until the monotonic clock shows ``deadline_s``; at least 0."""
        return max(0.0, (deadline_s - self.monotonic_s()) / self._rate)
