"""Monitoring takes a quarter of the event loop at most, in steps that are short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from node.monitor.loop_sharing import REST, STEP_S, Pacer


class Clock:
    """Advances when a step does work."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_step_of_many_parts_ends_when_its_time_is_over() -> None:
    clock = Clock()

    def parts() -> Iterator[int]:
        for number in range(10):
            clock.now_s += STEP_S / 4
            yield number

    pacer, each = Pacer(clock), parts()
    assert await pacer.some(each) == ([0, 1, 2, 3], True)
    assert await pacer.some(each) == ([4, 5, 6, 7], True)
    assert await pacer.some(each) == ([8, 9], False)


async def test_a_step_is_followed_by_a_pause_three_times_as_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock, began = Clock(), []

    def work() -> None:
        began.append(trio.current_time())
        clock.now_s += 1.0

    pacer = Pacer(clock)
    async with trio.open_nursery() as readers:
        for _ in range(3):
            readers.start_soon(pacer.step, work)
    assert [each - began[0] for each in began] == pytest.approx([0, REST, 2 * REST])


async def test_the_cost_of_a_step_elsewhere_lengthens_the_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pacer, began_s = Pacer(Clock()), trio.current_time()
    for _ in range(3):
        await pacer.step(lambda: None, 0.5)
    assert trio.current_time() - began_s == pytest.approx(2 * REST * 0.5)


async def test_a_step_that_fails_leaves_the_turn_to_the_next() -> None:
    pacer = Pacer()
    with pytest.raises(ZeroDivisionError):
        await pacer.step(lambda: 1 // 0)
    assert await pacer.step(lambda: 7) == 7
