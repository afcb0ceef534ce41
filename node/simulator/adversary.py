"""Who breaks things: crashes, power failures, pauses, partitions, stalls, cut links, hand-overs."""

from __future__ import annotations

from dataclasses import dataclass

from node.simulator.raft_group import RaftGroup, RaftHost


@dataclass(frozen=True, slots=True)
class Faults:
    """What the adversary may do."""

    power: bool = False
    """Crashes take what wasn't synced; sometimes everybody's power fails at once."""
    checkpoints: bool = False
    """Hosts store their state and drop their log, so that snapshots are needed."""
    every_s: float = 0.5
    """Mean time between two faults; 0: there are none."""


class Adversary:
    """Breaks something, waits a random time, breaks the next thing."""

    def __init__(self, group: RaftGroup, faults: Faults) -> None:
        self._group = group
        self._world = group.world
        self._faults = faults
        self._active = True

    def start(self) -> None:
        self._schedule()

    def stop(self) -> None:
        self._active = False

    def _schedule(self) -> None:
        self._world.after(self._world.rng.expovariate(1 / self._faults.every_s), self._strike)

    def _strike(self) -> None:
        if not self._active:
            return
        alone = (self._crash, self._crash, self._blackout, self._pause)
        together = (
            self._partition,
            self._partition,
            self._cut,
            self._cut,
            self._stall,
            self._hand_over,
        )
        strikes = alone if len(self._group.hosts) == 1 else alone + together
        self._world.rng.choice(strikes)()
        if self._faults.checkpoints:
            host = self._any()
            if host.up and not host.paused:
                host.checkpoint(self._world.rng.choice((1, 10)))
        self._schedule()

    def _any(self) -> RaftHost:
        return self._world.rng.choice(self._group.hosts)

    def _victim(self) -> RaftHost:
        leaders = [host for host in self._group.hosts if host.leads]
        return self._world.rng.choice(leaders) if leaders and self._world.chance(0.6) else self._any()

    def _crash(self) -> None:
        host = self._victim()
        host.crash(power=self._faults.power and self._world.chance(0.7))
        self._world.after(self._world.rng.uniform(0.05, 1.5), host.start)

    def _blackout(self) -> None:
        if self._faults.power and self._world.chance(0.3):
            for host in self._group.hosts:
                host.crash(power=True)
                self._world.after(self._world.rng.uniform(0.05, 0.6), host.start)

    def _partition(self) -> None:
        names = list(self._group.names)
        self._world.rng.shuffle(names)
        size = self._world.rng.randint(1, len(names) - 1)
        pairs = [(a, b) for a in names[:size] for b in names[size:]]
        if self._world.chance(0.5):
            pairs += [(b, a) for a, b in pairs]
        self._group.network.block(pairs, self._world.rng.uniform(0.1, 2.0))

    def _stall(self) -> None:
        a, b = self._world.rng.sample(self._group.names, 2)
        self._group.network.block([(a, b)], self._world.rng.uniform(0.05, 1.2))

    def _cut(self) -> None:
        self._group.network.cut(*self._world.rng.sample(self._group.names, 2))

    def _pause(self) -> None:
        self._any().pause(self._world.rng.uniform(0.1, 1.5))

    def _hand_over(self) -> None:
        for host in self._group.hosts:
            if host.leads and not host.paused and host.engine.transfer_leadership():
                self._world.counts["hand-overs"] += 1
