"""Fault injection for a Raft group: crashes, power failures, pauses, partitions, cut links, transfers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.simulator.raft_group import RaftGroup, RaftServer


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults that the adversary may inject."""

    power: bool = False
    """A crash loses unsynced data; sometimes the power of all servers fails at once."""
    checkpoints: bool = False
    """Servers store their state and drop their log, so that snapshots are needed."""
    every_s: float = 0.5
    """Mean time between two faults, in seconds; 0: no faults."""
    rivals: bool = False
    """Inject only the two leadership faults *come back* and *race*; see `Adversary`."""


class Adversary:
    """Injects a fault, waits a random time, injects the next one.

    Two faults produce sequences that random faults rarely produce. *Come back*: a leader is cut off together
    with one follower, which accepts entries that no other server gets. Another leader is elected. Then the
    first leader leads again, while that follower is paused and its old replies arrive a second time. *Race*:
    the leader crashes while two followers can't reach each other, and both may campaign.
    """

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
        self._world.after(self._world.rng.expovariate(1 / self._faults.every_s), self._inject)

    def _inject(self) -> None:
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
        faults: Sequence[Callable[[], None]] = alone if len(self._group.servers) == 1 else alone + together
        if self._faults.rivals:
            faults = (self._come_back, self._race)
        self._world.rng.choice(faults)()
        if self._faults.checkpoints:
            server = self._any()
            if server.up and not server.paused:
                server.checkpoint(self._world.rng.choice((1, 10)))
        self._schedule()

    def _any(self) -> RaftServer:
        return self._world.rng.choice(self._group.servers)

    def _victim(self) -> RaftServer:
        leaders = [server for server in self._group.servers if server.leads]
        return self._world.rng.choice(leaders) if leaders and self._world.happens(0.6) else self._any()

    def _crash(self) -> None:
        server = self._victim()
        server.crash(power=self._faults.power and self._world.happens(0.7))
        self._world.after(self._world.rng.uniform(0.05, 1.5), server.start)

    def _blackout(self) -> None:
        if self._faults.power and self._world.happens(0.3):
            for server in self._group.servers:
                server.crash(power=True)
                self._world.after(self._world.rng.uniform(0.05, 0.6), server.start)

    def _partition(self) -> None:
        names = list(self._group.names)
        self._world.rng.shuffle(names)
        size = self._world.rng.randint(1, len(names) - 1)
        pairs = [(a, b) for a in names[:size] for b in names[size:]]
        if self._world.happens(0.5):
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
        for server in self._group.servers:
            if server.leads and not server.paused and server.engine.transfer_leadership():
                self._world.counts["hand-overs"] += 1

    # --- rivals -----------------------------------------------------------------------------------

    def _leader(self) -> RaftServer | None:
        leaders = [server for server in self._group.servers if server.leads and not server.paused]
        return self._world.rng.choice(leaders) if leaders else None

    def _come_back(self) -> None:
        leader = self._leader()
        if leader is None:
            return
        rng, network = self._world.rng, self._group.network
        friend, *others = rng.sample(self._others(leader), len(self._group.servers) - 1)
        away_s = rng.uniform(0.6, 1.1)
        pairs = [(server.name, other.name) for server in (leader, friend) for other in others]
        network.block([*pairs, *((b, a) for a, b in pairs)], away_s)
        network.echo(friend.name, leader.name, away_s, away_s + rng.uniform(0.0, 0.6))
        self._world.after(away_s - 0.001, lambda: friend.pause(rng.uniform(0.5, 1.5)))
        self._world.after(away_s + 0.02, lambda: self._give_back(leader, self._world.now + 0.6))

    def _give_back(self, former: RaftServer, until_s: float) -> None:
        leader = self._leader()
        if leader not in {None, former} and leader.engine.transfer_leadership(former.name):
            self._world.counts["came back"] += 1
        elif self._world.now < until_s:
            self._world.after(0.002, lambda: self._give_back(former, until_s))

    def _race(self) -> None:
        leader = self._leader()
        if leader is None:
            return
        a, b = (server.name for server in self._world.rng.sample(self._others(leader), 2))
        self._group.network.block([(a, b), (b, a)], 0.5)
        leader.crash(power=False)
        self._world.after(self._world.rng.uniform(0.2, 0.6), leader.start)

    def _others(self, leader: RaftServer) -> list[RaftServer]:
        return [server for server in self._group.servers if server is not leader]
