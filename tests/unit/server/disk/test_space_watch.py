"""The free space is measured by the clock and by the bytes accepted, and projected in between."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from node.server.disk.space import Free, Space
from node.server.disk.space_watch import WRITTEN_PER_BYTE, SpaceWatch, Unwritten

MIB = 1 << 20
MARK = 256 * MIB


class Machine:
    """A node that is given bytes, and a disk that loses them."""

    def __init__(self, tmp_path: Path, *, min_free: int = MARK) -> None:
        self.put = 0
        self.free = 1000 * MIB
        self.unwritten = Unwritten(0, 0, 0)
        self.told: list[bool] = []
        self.shrunk = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self.space = Space(tmp_path, min_free=min_free, segment_bytes=MIB, free=self._ask)
        self.watch = SpaceWatch(
            self.space,
            bytes_put=lambda: self.put,
            unwritten=lambda: self.unwritten,
            looked=self.told.append,
            shrink=self._shrink,
        )

    def _ask(self, _path: Path) -> Free:
        free = self.free
        assert self.gate.wait(10)
        if self.fails:
            raise OSError(5, "Input/output error")
        return Free(100_000 * MIB, free)

    async def _shrink(self) -> None:
        self.shrunk += 1

    def accept(self, size: int) -> None:
        self.put += size
        self.watch.accepted()

    async def looked(self, count: int) -> None:
        """Let the worker thread finish, in real time."""
        while self.watch.looks < count:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch.run)
            await self.looked(1)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "reserve").touch()  # or the first look would make it
    return Machine(tmp_path)


LEFT = 1000 * MIB - MARK
"""Bytes above the mark at first."""


async def test_half_of_what_is_left_is_reason_to_look_again(machine: Machine, mock_clock: MockClock) -> None:
    async with machine.running():
        machine.accept(int(LEFT / WRITTEN_PER_BYTE / 2) - 1)
        await wait_all_tasks_blocked()
        assert machine.watch.looks == 1
        machine.accept(1)
        await machine.looked(2)
        assert machine.told == [False, False]


async def test_publishes_are_refused_before_the_clock_comes_round(
    machine: Machine, mock_clock: MockClock
) -> None:
    """The fault: with 744 MiB above the mark, whatever came within a second was accepted."""
    async with machine.running():
        for _ in range(3000):  # all in one step of the loop: no look can come between
            machine.accept(64 * 1024)
        assert LEFT > 64 * 1024 * 3000
        assert machine.told == [False]
        accepted = machine.put
        while not machine.space.is_low:
            machine.accept(64 * 1024)
            accepted += 64 * 1024
        assert accepted * WRITTEN_PER_BYTE < LEFT + 1 * MIB
        assert machine.told == [False, True]


async def test_look_ends_a_refusal_that_was_only_projected(machine: Machine, mock_clock: MockClock) -> None:
    """The journal's segments were used again, and the store had free pages."""
    async with machine.running():
        machine.accept(LEFT)
        assert machine.told == [False, True]
        await machine.looked(2)
        assert machine.told == [False, True, False]


async def test_bytes_that_come_while_it_looks_count(machine: Machine, mock_clock: MockClock) -> None:
    async with machine.running():
        machine.gate.clear()
        machine.accept(int(LEFT / WRITTEN_PER_BYTE / 2) + 1)
        await wait_all_tasks_blocked()
        machine.accept(LEFT)
        assert machine.told == [False, True]
        machine.free = 0
        machine.gate.set()
        await machine.looked(3)  # the second one saw nothing of what came meanwhile
        assert machine.told[-1]


async def test_nearly_full_disk_is_looked_at_by_the_clock_alone(
    machine: Machine, mock_clock: MockClock
) -> None:
    async with machine.running():
        machine.free = 100 * MIB
        machine.accept(LEFT)
        await machine.looked(2)
        machine.accept(LEFT)
        await wait_all_tasks_blocked()
        assert machine.watch.looks == 2
        assert machine.shrunk == 1
        mock_clock.jump(1.1)
        await machine.looked(3)


async def test_unwritten_bytes_are_subtracted(machine: Machine, mock_clock: MockClock) -> None:
    async with machine.running():
        machine.unwritten = Unwritten(0, LEFT, 0)
        mock_clock.jump(1.1)
        await machine.looked(2)
        assert machine.told == [False, True]
        machine.unwritten = Unwritten(LEFT, LEFT, 0)
        mock_clock.jump(1.1)
        await machine.looked(3)
        assert machine.told == [False, True, False]


async def test_disk_that_does_not_answer_is_projected_from_its_last_answer(
    machine: Machine, mock_clock: MockClock
) -> None:
    async with machine.running():
        machine.fails = True
        machine.accept(int(LEFT / WRITTEN_PER_BYTE / 2) + 1)
        await machine.looked(2)
        machine.accept(int(LEFT / WRITTEN_PER_BYTE / 2) + 1)
        assert machine.told[-1]


async def test_without_a_mark_nothing_is_refused(tmp_path: Path, mock_clock: MockClock) -> None:
    machine = Machine(tmp_path, min_free=0)
    async with machine.running():
        machine.accept(10**12)
        assert machine.told == [False]


async def test_nothing_is_projected_before_the_first_look(machine: Machine) -> None:
    machine.accept(10**12)
    assert machine.told == []
