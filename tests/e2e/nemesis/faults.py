"""What is done to nodes: a deck of faults, shuffled by the seed and dealt one after the other.

A fault names roles; which node has a role is seen when it is done, so the same seed means the same faults,
with the same lengths, and as nearly as it can be the same run.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import trio
from e2e.harness import Cluster
from e2e.nemesis.disk import Disks
from e2e.nemesis.history import History, Trouble
from e2e.nemesis.network import Network

LEADER_S = 10.0
"""Within so long somebody leads a majority that isn't hurt."""

READY_S = 20.0
"""Within so long after a fault all nodes are healthy and follow one leader."""

FULL_S = 20.0
"""Within so long a node whose disk is full has stopped, for there is load."""

DEAD_S = (0.2, 3.0)
PAUSED_S = (1.5, 4.0)  # longer than any election takes
CUT_S = (1.5, 7.0)  # longer, at times, than a node alone keeps its clients
CALM_S = (0.3, 1.5)


class NoProgressError(AssertionError):
    """Something that had to come about within a bound did not."""


Fault: TypeAlias = tuple[str, Callable[[], Awaitable[None]]]
"""Its name, and how to do it."""


@dataclass(slots=True)
class Nemesis:
    """Does things to the nodes of a cluster.

    Args:
        note: told each thing that is done, for the time line.
    """

    network: Network
    disks: Disks
    history: History
    note: Callable[[str], None]
    chance: random.Random
    done: list[str] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        return self.network.cluster

    def deck(self) -> Iterator[Fault]:
        """Every fault once: deaths, pauses, cuts and full disks in turn, each in the seed's order."""
        alone, follower = self._leader_only, self._a_follower
        suits: list[list[Fault]] = [
            [
                ("kill the leader", partial(self._kill, alone)),
                ("kill a follower", partial(self._kill, follower)),
                ("kill a majority", partial(self._kill, self._majority)),
                ("kill all", partial(self._kill, self._all)),
                ("kill the leader and the next", self._kill_two_leaders),
            ],
            [
                ("cut off the leader", partial(self._cut, alone, "both ways")),
                ("let nothing out of the leader", partial(self._cut, alone, "out")),
                ("let nothing into the leader", partial(self._cut, alone, "in")),
                ("cut off a follower", partial(self._cut, follower, "both ways")),
                ("let nothing out of a follower", partial(self._cut, follower, "out")),
                ("cut off a minority with the leader", partial(self._cut, self._minority, "both ways")),
                ("cut leader and a follower apart", self._cut_a_pair),
            ],
            [
                ("pause the leader", partial(self._pause, alone)),
                ("pause a follower", partial(self._pause, follower)),
            ],
            [
                ("fill a follower's disk", partial(self._fill, follower)),
                ("fill the leader's disk", partial(self._fill, alone)),
            ],
        ]
        for suit in suits:
            self.chance.shuffle(suit)
        self.chance.shuffle(suits)
        while any(suits):
            for suit in suits:
                if suit:
                    yield suit.pop()

    def faults(self) -> Iterator[Fault]:
        """For ever."""
        while True:
            yield from self.deck()

    async def run(self, seconds: float) -> None:
        """One fault after the other. Raises NoProgressError."""
        end_s = trio.current_time() + seconds
        for name, fault in self.faults():
            if trio.current_time() > end_s:
                return
            await fault()
            self.done.append(name)
            await trio.sleep(self.chance.uniform(*CALM_S))

    # --- who --------------------------------------------------------------------------------------

    def _leader_only(self, leader: str) -> list[str]:
        return [leader]

    def _a_follower(self, leader: str) -> list[str]:
        return [self.chance.choice([name for name in self.cluster.names if name != leader])]

    def _majority(self, leader: str) -> list[str]:
        return self.chance.sample(self.cluster.names, len(self.cluster.names) // 2 + 1)

    def _minority(self, leader: str) -> list[str]:
        others = [name for name in self.cluster.names if name != leader]
        return [leader, *self.chance.sample(others, (len(self.cluster.names) - 1) // 2 - 1)]

    def _all(self, leader: str) -> list[str]:
        return list(self.cluster.names)

    # --- what -------------------------------------------------------------------------------------

    async def _kill(self, who: Callable[[str], list[str]]) -> None:
        names = who(await self._leader())
        for_s = self.chance.uniform(*DEAD_S)
        trouble = self._begin(f"kill -9 of {', '.join(names)}, {for_s:.1f} s", names, kills=True)
        trouble.is_cold = len(names) == len(self.cluster.names)
        for name in names:
            await trio.to_thread.run_sync(self.cluster.kill, name)
        await self._go_on(trouble, for_s)
        self.cluster.start(*names)
        await self._heal(trouble)

    async def _kill_two_leaders(self) -> None:
        """The next one as soon as it is ready. Three nodes have no majority then, five have."""
        leader = await self._leader()
        for_s = self.chance.uniform(*DEAD_S)
        trouble = self._begin(f"kill -9 of {leader}, and of whoever leads next", [leader], kills=True)
        await trio.to_thread.run_sync(self.cluster.kill, leader)
        successor = await self._leader_of([name for name in self.cluster.names if name != leader])
        trouble.nodes |= {successor}
        self.note(f"that is {successor}")
        await trio.to_thread.run_sync(self.cluster.kill, successor)
        await self._go_on(trouble, for_s)
        self.cluster.start(leader, successor)
        await self._heal(trouble)

    async def _pause(self, who: Callable[[str], list[str]]) -> None:
        names = who(await self._leader())
        for_s = self.chance.uniform(*PAUSED_S)
        trouble = self._begin(f"SIGSTOP of {', '.join(names)}, {for_s:.1f} s", names, stops=True)
        for name in names:
            self.cluster.pause(name)
        await self._go_on(trouble, for_s)
        for name in names:
            self.cluster.resume(name)
        await self._heal(trouble)

    async def _cut(self, who: Callable[[str], list[str]], way: str) -> None:
        names = who(await self._leader())
        for_s = self.chance.uniform(*CUT_S)
        trouble = self._begin(f"{', '.join(names)} cut off, {way}, {for_s:.1f} s", names)
        for name in names:
            for other in self.cluster.names:
                if other not in names:
                    await self._part(name, other, way)
        await self._go_on(trouble, for_s)
        await trio.to_thread.run_sync(self.network.heal)
        await self._heal(trouble)

    async def _cut_a_pair(self) -> None:
        leader = await self._leader()
        [follower] = self._a_follower(leader)
        for_s = self.chance.uniform(*CUT_S)
        trouble = self._begin(f"{leader} and {follower} cut apart, {for_s:.1f} s", [leader, follower])
        await self._part(leader, follower, "both ways")
        await self._go_on(trouble, for_s, list(self.cluster.names))  # either has a majority that hears it
        await trio.to_thread.run_sync(self.network.heal)
        await self._heal(trouble)

    async def _part(self, name: str, other: str, way: str) -> None:
        if way != "in":
            await trio.to_thread.run_sync(self.network.cut, name, other)
        if way != "out":
            await trio.to_thread.run_sync(self.network.cut, other, name)

    async def _fill(self, who: Callable[[str], list[str]]) -> None:
        [name] = who(await self._leader())
        trouble = self._begin(f"the disk of {name} is full", [name], kills=True)
        self.cluster.expect_end(name)
        await trio.to_thread.run_sync(self.disks.fill, name)
        child = self.cluster.children[name]
        with trio.move_on_after(FULL_S):
            while child.is_running:  # noqa: ASYNC110 - a process tells nobody
                await trio.sleep(0.02)
        if child.is_running:
            raise NoProgressError(f"{name} still runs {FULL_S:g} s after its disk was full")
        code = await trio.to_thread.run_sync(child.wait, 1)
        self.note(f"{name} ended by itself with {code}")
        if code != 1:
            self.history.broke(trio.current_time(), "stop", f"{name} ended with {code}: its disk was full")
        await self._go_on(trouble, self.chance.uniform(*DEAD_S))
        await trio.to_thread.run_sync(self.disks.free, name)
        self.cluster.start(name)
        await self._heal(trouble)

    # --- before, between and after ----------------------------------------------------------------

    async def _leader(self) -> str:
        return await trio.to_thread.run_sync(self.cluster.leader)

    def _begin(self, what: str, names: Sequence[str], *, kills: bool = False, stops: bool = False) -> Trouble:
        self.note(what)
        now_s = trio.current_time()
        trouble = Trouble(what, frozenset(names), now_s, kills=kills, stops=stops)
        self.history.troubles.append(trouble)
        return trouble

    async def _go_on(self, trouble: Trouble, for_s: float, healthy: list[str] | None = None) -> None:
        """Leave it so for a while; those that aren't hurt have a leader meanwhile, if they are enough."""
        healthy = healthy or [name for name in self.cluster.names if name not in trouble.nodes]
        end_s = trio.current_time() + for_s
        if len(healthy) > len(self.cluster.names) // 2:
            leader = await self._leader_of(healthy)
            trouble.led_s = trio.current_time()
            self.note(f"{leader} leads {', '.join(healthy)}")
        await trio.sleep_until(end_s)

    async def _leader_of(self, names: list[str]) -> str:
        with trio.move_on_after(LEADER_S):
            while True:
                leader = await trio.to_thread.run_sync(self.cluster.ready_leader, names)
                if leader:
                    return leader
                await trio.sleep(0.02)
        raise NoProgressError(f"{', '.join(names)} had no leader for {LEADER_S:g} s")

    async def _heal(self, trouble: Trouble) -> None:
        self.note("healed")
        try:
            await trio.to_thread.run_sync(self.cluster.wait_ready, None, READY_S)
        except AssertionError as error:
            raise NoProgressError(str(error)) from error
        trouble.over_s = trio.current_time()
        trouble.led_s = min(trouble.led_s, trouble.over_s)
        self.note("all ready")
