"""Links between nodes: connections that come and go, and messages with latency.

A link behaves like a TCP connection: messages arrive in order, and when it breaks, messages in transit are
lost. A direction can be *blocked* for a while: messages sent meanwhile arrive late, or never if the link
breaks. In *rough* weather, messages are also lost, duplicated and reordered. TCP connections don't do that,
but the Raft rules must not depend on it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

from node.simulator.world import World


class Endpoint(Protocol):
    """A node, as the network uses it."""

    name: str

    @property
    def up(self) -> bool: ...
    def link_up(self, peer: str) -> None: ...
    def link_down(self, peer: str) -> None: ...
    def deliver(self, peer: str, message: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities of faults of a single message."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


CALM = Weather()
ROUGH = Weather(loss=0.03, duplicate=0.05, reorder=0.1)
WILD = Weather(loss=0.1, duplicate=0.5, reorder=0.4)

_LATE_S = 0.4
_REFUSED_S = 0.3
_RECONNECT_S = (0.0005, 0.005, 0.05, 0.3)


class Network:
    """All links of one kind. A pair of nodes has at most one link, with a new epoch each time it comes up."""

    def __init__(
        self,
        world: World,
        endpoints: Sequence[Endpoint],
        weather: Weather = CALM,
        rng: random.Random | None = None,
        name: str = "link",
        admit: Callable[[str, str], bool] = lambda a, b: True,
    ) -> None:
        self._name = name
        self._admit = admit
        self._world = world
        self._rng = rng or world.rng
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._weather = weather
        self._storms = 0
        self._epochs: dict[tuple[str, str], int] = {}
        self._epoch = 0
        self._blocked: dict[tuple[str, str], int] = {}
        self._echoes: dict[tuple[str, str], tuple[float, float]] = {}
        self._unblocked_s = float("-inf")
        self._waiting: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self._last_arrival: dict[tuple[str, str], float] = {}

    def calm(self) -> None:
        """End all faults: calm weather, no blocked directions, and every link comes back."""
        self._weather = CALM
        self._storms += 1
        for pair in list(self._blocked):
            self._blocked[pair] = 1
            self._unblock(pair)
        for a, b in combinations(self._endpoints, 2):
            self._world.after(0.01, lambda a=a, b=b: self.connect(a, b))  # type: ignore[misc]

    def storm(self, weather: Weather, seconds: float) -> None:
        """Change the weather for some seconds. If two storms overlap, the later one decides when it ends."""
        self._storms += 1
        storm = self._storms
        self._weather = weather

        def over() -> None:
            if self._storms == storm:
                self._weather = CALM
                self._unblocked_s = self._world.now

        self._world.after(seconds, over)

    # --- links ------------------------------------------------------------------------------------

    def connect(self, a: str, b: str) -> None:
        """Bring the link up if both nodes are up. Retry later if a direction is blocked or a node refuses."""
        first, second = self._endpoints[a], self._endpoints[b]
        if not (first.up and second.up) or self._link(a, b) is not None:
            return
        if (a, b) in self._blocked or (b, a) in self._blocked:
            self._world.after(0.05, lambda: self.connect(a, b))
            return
        if not self._admit(a, b):
            self._world.after(_REFUSED_S, lambda: self.connect(a, b))
            return
        self._epoch += 1
        self._epochs[_pair(a, b)] = self._epoch
        self._world.record(f"{self._name} {a}-{b} up")
        first.link_up(b)
        second.link_up(a)

    def connect_soon(self, a: str, b: str) -> None:
        """Bring the link up in a moment: one of the nodes wants it now."""
        self._world.after(0.001, lambda: self.connect(a, b))

    def cut(self, a: str, b: str) -> None:
        """Break the link. It comes back after a random time, short or long."""
        if self._epochs.pop(_pair(a, b), None) is None:
            return
        self._world.record(f"{self._name} {a}-{b} down")
        for here, there in ((a, b), (b, a)):
            self._waiting.pop((here, there), None)
            if self._endpoints[here].up:
                self._endpoints[here].link_down(there)
        self._world.after(self._rng.choice(_RECONNECT_S), lambda: self.connect(a, b))

    def cut_all(self, name: str) -> None:
        for other in self._endpoints:
            if other != name:
                self.cut(name, other)

    def connect_all(self, name: str) -> None:
        """Bring up the links of a node that has started, each after a short random time."""
        for other in self._endpoints:
            if other != name:
                delay = self._rng.uniform(0, 0.05)
                self._world.after(delay, lambda other=other: self.connect(name, other))  # type: ignore[misc]

    def block(self, pairs: Iterable[tuple[str, str]], seconds: float) -> None:
        """Hold back all messages in these directions for some seconds."""
        for pair in pairs:
            self._blocked[pair] = self._blocked.get(pair, 0) + 1
            self._world.record(f"{self._name} {pair[0]} to {pair[1]} blocked for {seconds:.2f} s")
            self._world.after(seconds, lambda pair=pair: self._unblock(pair))  # type: ignore[misc]

    def echo(self, sender: str, receiver: str, seconds: float, late_s: float) -> None:
        """For some seconds, deliver each message in this direction a second time, ``late_s`` later."""
        self._echoes[sender, receiver] = (self._world.now + seconds, late_s)

    @property
    def is_fine(self) -> bool:
        """Whether no direction is or was blocked lately, and messages arrive soon after they are sent."""
        return not self._blocked and self._weather is CALM and self._world.now - self._unblocked_s > _LATE_S

    def _unblock(self, pair: tuple[str, str]) -> None:
        self._unblocked_s = self._world.now
        count = self._blocked.pop(pair, 0)
        if count > 1:
            self._blocked[pair] = count - 1
            return
        waiting = self._waiting.pop(pair, [])
        if self._happens(0.4):
            self.cut(*pair)
        for epoch, message in waiting:
            self._post(*pair, epoch, message)

    # --- messages ---------------------------------------------------------------------------------

    def send(self, sender: str, receiver: str, message: Any, *, loose: bool = True) -> None:
        """Send a message. Weather affects only ``loose`` ones; others rely on an ordered connection."""
        epoch = self._link(sender, receiver)
        if epoch is None:
            return
        weather = self._weather if loose else CALM
        if self._happens(weather.loss):
            return
        if self._happens(weather.duplicate):
            delay = self._rng.uniform(0.001, _LATE_S)
            self._world.after(delay, lambda: self._arrive(sender, receiver, epoch, message))
        until_s, late_s = self._echoes.get((sender, receiver), (0.0, 0.0))
        if self._world.now < until_s:
            self._world.after(late_s, lambda: self._arrive(sender, receiver, epoch, message))
        if (sender, receiver) in self._blocked:
            self._waiting.setdefault((sender, receiver), []).append((epoch, message))
        else:
            self._post(sender, receiver, epoch, message, weather.reorder)

    def _post(self, sender: str, receiver: str, epoch: int, message: Any, reorder: float = 0.0) -> None:
        rng, now = self._rng, self._world.now
        delay = rng.uniform(0.0003, 0.003) if rng.random() < 0.95 else rng.uniform(0.003, 0.08)
        if self._happens(reorder):
            delay = rng.uniform(0.003, _LATE_S)
        elif not reorder:
            delay = max(delay, self._last_arrival.get((sender, receiver), 0.0) - now + 1e-6)
            self._last_arrival[sender, receiver] = now + delay
        self._world.after(delay, lambda: self._arrive(sender, receiver, epoch, message))

    def _arrive(self, sender: str, receiver: str, epoch: int, message: Any) -> None:
        if self._link(sender, receiver) == epoch and self._endpoints[receiver].up:
            self._endpoints[receiver].deliver(sender, message)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability

    def linked(self, a: str, b: str) -> bool:
        """Return True if the link is up."""
        return self._link(a, b) is not None

    def _link(self, a: str, b: str) -> int | None:
        return self._epochs.get(_pair(a, b))


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
