"""What is done to nodes, as `schedule.py` has it, and what is demanded of them meanwhile.

A fault names roles; which node has a role is seen when it is done, so the same seed means the same faults,
at the same times and as long, and as nearly as it can be the same run. Which part of a cluster has to have a
leader while several faults are in effect, `standing.py` knows; after each round all nodes have to be ready.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

import trio
from e2e.harness import POLL_S, Cluster
from e2e.nemesis.disk import Disks
from e2e.nemesis.history import History, Trouble
from e2e.nemesis.network import Network
from e2e.nemesis.pace import Pace
from e2e.nemesis.schedule import Planned, Round, rounds
from e2e.nemesis.standing import Standing

LEADER_S = 10.0
"""Within so long after the last change somebody leads a majority that isn't hurt. Counted from when all of
that majority answer: how long a process takes to start is the machine's affair, up to `STARTED_S`."""

STARTED_S = 30.0

READY_S = 20.0
"""Within so long after a round all nodes are healthy and follow one leader. All bounds here are for a quiet
machine: they are multiplied by the run's factor (`pace.py`)."""

FULL_S = 20.0
FULL_STORED = 3000
"""A node whose disk is full has stopped when both have passed: seconds without another fault, and
publishes stored by the cluster since. It stops at a write, so it is load that ends it."""

STALLED_S = 60.0
"""After so long without other faults, and the node still running, the load is at fault."""


WATCHED_S = 0.05
"""Between two looks at who leads. A leader is seen so much later than it led, at most."""


class NoProgressError(AssertionError):
    """Something that had to come about within a bound did not."""


class View(NamedTuple):
    """What a node says of itself."""

    leader: str
    is_leader: bool
    """And ready."""
    is_healthy: bool
    answers: bool = True
    """Its process has started: its pages can be had."""


Fault: TypeAlias = Callable[[Planned, random.Random], Awaitable[None]]
Who: TypeAlias = Callable[[str, random.Random], list[str]]


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
    pace: Pace
    done: list[str] = field(default_factory=list)
    at_once: int = 0
    """The most faults that were in effect at one time."""
    _standing: Standing = field(init=False)
    _known_leader: str = ""
    _open: list[Trouble] = field(default_factory=list)
    """Not yet over."""
    _cut: set[tuple[str, str]] = field(default_factory=set)
    """Directions in which nothing goes, as ``_wires`` has left it."""
    _at_the_wires: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        self._standing = Standing(self.cluster.names)

    @property
    def cluster(self) -> Cluster:
        return self.network.cluster

    async def run(self, seconds: float) -> None:
        """Round after round, as long as one more ends in time. Raises NoProgressError."""
        end_s = trio.current_time() + seconds
        self._known_leader = await trio.to_thread.run_sync(self.cluster.leader)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                for drawn in rounds(self.chance):
                    if self.done and trio.current_time() + drawn.length_s > end_s:
                        break
                    await self._round(drawn)
                nursery.cancel_scope.cancel()
        except* NoProgressError as errors:
            raise next(leaves(errors)) from None

    async def _round(self, drawn: Round) -> None:
        async with trio.open_nursery() as nursery:
            for planned in drawn.faults:
                nursery.start_soon(self._do, planned)
        self.note("healed")
        try:
            await trio.to_thread.run_sync(self.cluster.wait_ready, None, READY_S * self.pace.factor)
        except AssertionError as error:
            raise NoProgressError(str(error)) from error
        for trouble in self._open:
            trouble.over_s = trio.current_time()
            trouble.led_s = min(trouble.led_s, trouble.over_s)
        self._open.clear()
        self._standing.all_well()
        self.note("all ready")
        await trio.sleep(drawn.calm_s)

    async def _do(self, planned: Planned) -> None:
        await trio.sleep(planned.after_s)
        await self._faults()[planned.fault](planned, random.Random(planned.seed))
        self.done.append(planned.fault)

    def _faults(self) -> dict[str, Fault]:
        alone, follower = self._leader_alone, self._a_follower
        return {
            "kill the leader": partial(self._kill, alone),
            "kill a follower": partial(self._kill, follower),
            "kill a majority": partial(self._kill, self._majority),
            "kill all": partial(self._kill, self._all),
            "kill the leader and the next": self._kill_two_leaders,
            "cut off the leader": partial(self._cut_off, alone, "both ways"),
            "let nothing out of the leader": partial(self._cut_off, alone, "out"),
            "let nothing into the leader": partial(self._cut_off, alone, "in"),
            "cut off a follower": partial(self._cut_off, follower, "both ways"),
            "let nothing out of a follower": partial(self._cut_off, follower, "out"),
            "cut off a minority with the leader": partial(self._cut_off, self._minority, "both ways"),
            "cut leader and a follower apart": self._cut_a_pair,
            "pause the leader": partial(self._pause, alone),
            "pause a follower": partial(self._pause, follower),
            "fill a follower's disk": partial(self._fill, follower),
            "fill the leader's disk": partial(self._fill, alone),
        }

    # --- who --------------------------------------------------------------------------------------

    def _leader_alone(self, leader: str, chance: random.Random) -> list[str]:
        return [leader]

    def _a_follower(self, leader: str, chance: random.Random) -> list[str]:
        others = [name for name in self.cluster.names if name != leader]
        return [chance.choice([name for name in others if name not in self._standing.held] or others)]

    def _majority(self, leader: str, chance: random.Random) -> list[str]:
        return chance.sample(self.cluster.names, self._standing.majority)

    def _minority(self, leader: str, chance: random.Random) -> list[str]:
        others = [name for name in self.cluster.names if name != leader]
        return [leader, *chance.sample(others, (len(self.cluster.names) - 1) // 2 - 1)]

    def _all(self, leader: str, chance: random.Random) -> list[str]:
        return list(self.cluster.names)

    async def _leader(self) -> str:
        """Who leads, or who did last."""
        leader = await trio.to_thread.run_sync(self.cluster.ready_leader, self._standing.up)
        self._known_leader = leader or self._known_leader
        return self._known_leader

    async def _whose_process(self, planned: Planned, who: Who, chance: random.Random) -> list[str]:
        """Those of them that no other fault holds; if none is left, somebody that isn't held."""
        leader = await self._leader()
        free = self._standing.free
        names = [name for name in who(leader, chance) if name in free]
        if not names:
            names = [chance.choice(free)] if free else []
            self.note(f"{planned.fault}: another fault holds it, so {', '.join(names) or 'nobody'}")
        return names

    # --- what -------------------------------------------------------------------------------------

    async def _kill(self, who: Who, planned: Planned, chance: random.Random) -> None:
        if names := await self._whose_process(planned, who, chance):
            trouble = await self._kill_now(names, f"{planned.for_s:.1f} s")
            await trio.sleep(planned.for_s)
            self._restart(trouble)

    async def _kill_two_leaders(self, planned: Planned, chance: random.Random) -> None:
        """The next one as soon as it is ready. Three nodes have no majority then, five have."""
        names = await self._whose_process(planned, self._leader_alone, chance)
        if not names:
            return
        troubles = [await self._kill_now(names, "and of whoever leads next")]
        end_s = trio.current_time() + LEADER_S * self.pace.factor
        while len(troubles) == 1 and trio.current_time() < end_s:
            leader = await trio.to_thread.run_sync(self.cluster.ready_leader, self._standing.free)
            if leader in self._standing.free:
                troubles.append(await self._kill_now([leader], f"{planned.for_s:.1f} s"))
            await trio.sleep(POLL_S)
        await trio.sleep(planned.for_s)
        for trouble in troubles:
            self._restart(trouble)

    async def _kill_now(self, names: Sequence[str], how_long: str) -> Trouble:
        trouble = self._begin(f"kill -9 of {', '.join(names)}, {how_long}", names, kills=True)
        self._standing.hold(names)
        self._standing.fell(names, kills=True)
        self._may_be_cold()
        for name in names:
            await trio.to_thread.run_sync(self.cluster.kill, name)
        trouble.died_s = trio.current_time()
        return trouble

    def _restart(self, trouble: Trouble) -> None:
        self.cluster.start(*trouble.nodes)
        self._standing.rose(trouble.nodes)
        self._end(trouble)

    async def _pause(self, who: Who, planned: Planned, chance: random.Random) -> None:
        names = await self._whose_process(planned, who, chance)
        if not names:
            return
        trouble = self._begin(f"SIGSTOP of {', '.join(names)}, {planned.for_s:.1f} s", names, stops=True)
        self._standing.hold(names)
        self._standing.fell(names)
        self._may_be_cold()
        for name in names:
            self.cluster.pause(name)
        await trio.sleep(planned.for_s)
        for name in names:
            self.cluster.resume(name)
        self._standing.rose(names)
        self._end(trouble)

    async def _cut_off(self, who: Who, way: str, planned: Planned, chance: random.Random) -> None:
        names = who(await self._leader(), chance)
        others = [name for name in self.cluster.names if name not in names]
        out = [(name, other) for name in names for other in others]
        into = [(other, name) for name, other in out]
        directions = {"both ways": [*out, *into], "out": out, "in": into}[way]
        trouble = self._begin(f"{', '.join(names)} cut off, {way}, {planned.for_s:.1f} s", names)
        await self._cut_for(directions, planned.for_s, trouble)

    async def _cut_a_pair(self, planned: Planned, chance: random.Random) -> None:
        leader = await self._leader()
        [follower] = self._a_follower(leader, chance)
        pair = [leader, follower]
        trouble = self._begin(f"{leader} and {follower} cut apart, {planned.for_s:.1f} s", pair)
        await self._cut_for([(leader, follower), (follower, leader)], planned.for_s, trouble)

    async def _cut_for(self, directions: Sequence[tuple[str, str]], for_s: float, trouble: Trouble) -> None:
        self._standing.cut(directions)
        self._may_be_cold()
        await self._wires()
        await trio.sleep(for_s)
        self._standing.mend(directions)
        await self._wires()
        self._end(trouble)

    async def _wires(self) -> None:
        """Cut what is to be cut, mend what is to be whole; other faults may change that meanwhile."""
        async with self._at_the_wires:
            while wrong := self._cut ^ self._standing.cuts.keys():
                direction = min(wrong)
                change = self.network.mend if direction in self._cut else self.network.cut
                self._cut ^= {direction}
                await trio.to_thread.run_sync(change, *direction)

    async def _fill(self, who: Who, planned: Planned, chance: random.Random) -> None:
        names = await self._whose_process(planned, who, chance)
        if not names:
            return
        [name] = names
        trouble = self._begin(f"the disk of {name} is full", [name], kills=True)
        self._standing.hold(names)
        self.cluster.expect_end(name)
        await trio.to_thread.run_sync(self.disks.fill, name)
        await self._ends_by_itself(name)
        self._standing.fell(names, kills=True)
        self._may_be_cold()
        trouble.died_s, trouble.led_s = trio.current_time(), math.inf  # till then it may have led
        await trio.sleep(planned.for_s)
        await trio.to_thread.run_sync(self.disks.free, name)
        self._restart(trouble)

    async def _ends_by_itself(self, name: str) -> None:
        """It may not, while another fault keeps entries from it."""
        child = self.cluster.children[name]
        since_s, stored = trio.current_time(), len(self.history.stored_s)
        while child.is_running:
            now_s = trio.current_time()
            if self._standing.held != {name} or self._standing.cuts:
                since_s = now_s
            waited_s, written = now_s - since_s, len(self.history.stored_s) - stored
            if waited_s > (FULL_S if written >= FULL_STORED else STALLED_S) * self.pace.factor:
                raise NoProgressError(
                    f"{name} still runs {waited_s:.0f} s after its disk was full, "
                    f"and {written} publishes were stored since"
                )
            await trio.sleep(POLL_S)
        code = await trio.to_thread.run_sync(child.wait, 1)
        self.note(f"{name} ended by itself with {code}")
        if code != 1:
            self.history.broke(trio.current_time(), "stop", f"{name} ended with {code}: its disk was full")

    # --- the time line ----------------------------------------------------------------------------

    def _begin(self, what: str, names: Sequence[str], *, kills: bool = False, stops: bool = False) -> Trouble:
        self.note(what)
        now_s = trio.current_time()
        trouble = Trouble(what, frozenset(names), now_s, kills=kills, stops=stops)
        self.history.troubles.append(trouble)
        self._open.append(trouble)
        self.at_once = max(self.at_once, sum(not each.has_ended for each in self._open))
        return trouble

    def _end(self, trouble: Trouble) -> None:
        """Nothing is done any more; it isn't over before its nodes are well."""
        trouble.has_ended = True
        self.note(f"no longer: {trouble.what}")
        self._may_be_cold()

    def _may_be_cold(self) -> None:
        if self._standing.may_start_cold():
            for each in self._open:
                each.is_cold = True

    async def _watch(self) -> None:
        """See who leads, and what is over; somebody has to lead wherever there is a circle."""
        led, since_s, changed_s, version = -1, trio.current_time(), 0.0, -1
        while True:
            if version != self._standing.version:
                version, since_s = self._standing.version, trio.current_time()
                changed_s = since_s
            circles = self._standing.circles()
            awaited = any(trouble.has_ended or not trouble.is_led for trouble in self._open)
            if circles and self._open and (awaited or led != version):
                views = await trio.to_thread.run_sync(self._views, self._standing.up)
                if version == self._standing.version:
                    if found := [circle for circle in circles if _leader_of(circle, views)]:
                        led = version
                        self._saw(found, views)
                    elif led != version:
                        now_s, bound_s = trio.current_time(), LEADER_S * self.pace.factor
                        started = any(all(views[name].answers for name in circle) for circle in circles)
                        if not started and now_s - changed_s < STARTED_S * self.pace.factor:
                            since_s = now_s
                        if now_s - since_s > bound_s:
                            raise NoProgressError(
                                f"{', '.join(circles[0])} had no leader for {bound_s:.1f} s"
                            )
            await trio.sleep(WATCHED_S)

    def _saw(self, circles: Sequence[Sequence[str]], views: dict[str, View]) -> None:
        """Each of these circles is led."""
        now_s = trio.current_time()
        if not all(trouble.is_led for trouble in self._open):
            self.note(f"{_leader_of(circles[0], views)} leads {', '.join(circles[0])}")
        for trouble in list(self._open):
            trouble.led_s = min(trouble.led_s, now_s)
            is_well = any(trouble.nodes.issubset(circle) for circle in circles)
            if trouble.has_ended and is_well and all(views[name].is_healthy for name in trouble.nodes):
                trouble.over_s = now_s
                self._open.remove(trouble)
                self.note(f"over: {trouble.what}")

    def _views(self, names: Sequence[str]) -> dict[str, View]:
        return {name: self._view(name) for name in names}

    def _view(self, name: str) -> View:
        status, raft = self.cluster.get(name, "/raftz", timeout_s=1.0)
        if status != 200:
            return View("", is_leader=False, is_healthy=False, answers=False)
        is_leader = raft["role"] == "Leader" and raft["is_ready"]
        is_healthy = self.cluster.get(name, "/healthz", timeout_s=1.0)[0] == 200
        return View(raft["leader"], is_leader, is_healthy)


def _leader_of(circle: Sequence[str], views: dict[str, View]) -> str:
    """Whom all of a circle follow, one of them; nobody: nothing."""
    leader = views[circle[0]].leader
    is_led = leader in circle and views[leader].is_leader
    return leader if is_led and all(views[name].leader == leader for name in circle) else ""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions within groups of exceptions."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error
