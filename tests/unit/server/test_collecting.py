"""Full garbage collections are rare, and rarer on a leader with very many objects."""

from __future__ import annotations

import gc

import trio
import trio.testing

from node.server.collecting import LEADING_EVERY_S, LEADING_S, NEVER, OBJECT_S, SHARE, Collector


class World:
    def __init__(self, objects: int, *, leads: bool = False) -> None:
        self.objects = objects
        self.leads = leads
        self.now_s = 100.0
        self.looks = 0
        self.collector = Collector(
            lambda: self.leads, count=lambda: self.objects, collect=self.collect, clock=lambda: self.now_s
        )

    def collect(self) -> None:
        self.looks += 1
        self.now_s += self.objects * OBJECT_S

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        return self.collector.look()


def test_full_collections_take_a_small_share_of_the_time() -> None:
    world = World(20_000)
    pause_s = world.objects * OBJECT_S / SHARE
    assert not world.wait(0.9 * pause_s)
    assert world.wait(0.2 * pause_s)
    assert not world.wait(0.9 * pause_s)
    assert world.wait(0.2 * pause_s)
    assert world.looks == 2


def test_a_leader_with_very_many_objects_postpones_full_collections() -> None:
    """With 40,000 subscriptions a full collection took one to two seconds, on the next leader too."""
    world = World(2 * round(LEADING_S / OBJECT_S), leads=True)
    assert not world.wait(LEADING_EVERY_S / 2)
    world.leads = False
    assert world.wait(1)
    world.objects, world.leads = 1000, True
    assert world.wait(10)


def test_a_leader_that_is_never_replaced_collects_garbage_too() -> None:
    world = World(2 * round(LEADING_S / OBJECT_S), leads=True)
    assert not world.wait(0.9 * LEADING_EVERY_S)
    assert world.wait(0.2 * LEADING_EVERY_S)
    assert not world.wait(0.9 * LEADING_EVERY_S)


async def test_python_starts_no_full_collections_itself(autojump_clock: trio.testing.MockClock) -> None:
    before = gc.get_threshold()
    world = World(10)
    try:
        with trio.move_on_after(60):
            await world.collector.run()
        assert gc.get_threshold()[2] == NEVER
    finally:
        gc.set_threshold(*before)
