"""Connections share the loop's time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import trio

from node.server.loop_watch import LoopWatch
from node.server.turns import SHARE_S, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Busy:
    """A connection with steps of a fixed duration; records each step with its round."""

    def __init__(self, name: str, world: World, *, steps: int, step_s: float) -> None:
        self.name = name
        self.left = steps
        self.until_s = 0.0
        self._world = world
        self._step_s = step_s

    @property
    def resting(self) -> bool:
        return self.left > 0

    @property
    def rests_until_s(self) -> float:
        return self.until_s

    def received(self, data: bytes | bytearray) -> None:
        assert data == b"data"
        self.go_on()

    def go_on(self) -> None:
        self.left -= 1
        self._world.clock.now_s += self._step_s
        self._world.diary.append((self._world.loop.rounds, self.name))


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = LoopWatch()
        self.turns = Turns(self.loop, self.clock)
        self.diary: list[tuple[int, str]] = []

    def busy(self, name: str, *, steps: int = 1, step_s: float = 0.3 * SHARE_S) -> Busy:
        return Busy(name, self, steps=steps, step_s=step_s)

    async def serve(self, connection: Busy) -> None:
        """Run like the reader of a connection."""
        await self.turns.received(connection, b"data")
        while connection.resting:
            await self.turns.go_on(connection)

    @property
    def by_round(self) -> list[int]:
        """Return the number of steps of each round that had any."""
        rounds = [number for number, _ in self.diary]
        return [rounds.count(number) for number in dict.fromkeys(rounds)]


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    with world.loop.installed():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.turns.run)
            await trio.testing.wait_all_tasks_blocked()
            yield world
            nursery.cancel_scope.cancel()


async def serve_all(world: World, *connections: Busy) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(world.serve, connection)


async def test_a_connection_runs_at_once_while_there_is_time() -> None:
    async with running() as world:
        round_now = world.loop.rounds
        await world.turns.received(world.busy("a"), b"data")
        assert world.diary == [(round_now, "a")]


async def test_all_together_have_one_share_of_a_round() -> None:
    """A hundred steps in one round took half a second, in which no other task ran."""
    async with running() as world:
        await serve_all(world, *(world.busy(f"c{number}") for number in range(100)))
    assert sum(world.by_round) == 100
    assert max(world.by_round) == 4


async def test_a_step_that_takes_longer_than_the_share_is_the_only_one() -> None:
    async with running() as world:
        await serve_all(world, *(world.busy(f"c{number}", step_s=3 * SHARE_S) for number in range(5)))
    assert world.by_round == [1] * 5


async def test_a_connection_with_many_steps_waits_behind_one_with_few() -> None:
    async with running() as world:
        flood = world.busy("flood", steps=500)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.serve, flood)
            while flood.left > 490:
                await trio.lowlevel.checkpoint()
            at = len(world.diary)
            await serve_all(world, world.busy("one"), world.busy("two"))
            names = [name for _, name in world.diary[at:]]
            assert max(names.index("one"), names.index("two")) < 20  # a few rounds
            assert flood.left > 400
    assert [name for _, name in world.diary].count("flood") == 500


async def test_who_has_gone_leaves_its_place() -> None:
    """Its reader is cancelled while it waits, and its connection has nothing more to do."""
    async with running() as world:
        async with trio.open_nursery() as nursery:
            gone = world.busy("gone", steps=50)
            nursery.start_soon(world.turns.go_on, gone)
            while not len(world.turns):
                await trio.lowlevel.checkpoint()
            gone.left = 0
            nursery.cancel_scope.cancel()
        await serve_all(world, world.busy("next"))
        assert len(world.turns) == 0


async def test_without_its_task_no_connection_waits_for_ever() -> None:
    world = World()
    await serve_all(world, *(world.busy(f"c{number}", steps=4, step_s=SHARE_S) for number in range(3)))
    assert len(world.diary) == 12


async def test_a_pause_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """The loop does not spin meanwhile."""
    loop = LoopWatch()
    turns = Turns(loop)

    class Paced:
        """A connection that rests for a second after each step."""

        resting, rests_until_s = True, 0.0
        steps_s: ClassVar[list[float]] = []

        def received(self, data: bytes | bytearray) -> None:
            raise AssertionError("nothing was read")

        def go_on(self) -> None:
            self.steps_s.append(trio.current_time())
            self.rests_until_s = trio.current_time() + 1.0
            self.resting = len(self.steps_s) < 5

    paced = Paced()
    with loop.installed():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.run)
            began_s = trio.current_time()
            while paced.resting:
                await turns.go_on(paced)
            nursery.cancel_scope.cancel()
    assert [round(at_s - began_s) for at_s in paced.steps_s] == [0, 1, 2, 3, 4]
    assert loop.rounds < 100
