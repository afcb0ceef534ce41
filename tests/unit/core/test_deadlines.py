"""The heap of deadlines."""

from __future__ import annotations

from node.core.deadlines import Deadlines


def test_they_fire_by_number_once_they_have_passed() -> None:
    """R30: sorted by number; never early; each once."""
    deadlines = Deadlines()
    for number, deadline in ((7, 30), (3, 20), (5, 10)):
        deadlines.arm(number, deadline)
    assert deadlines.earliest() == 10
    assert deadlines.fire(9) == []
    assert deadlines.fire(20) == [3, 5]
    assert 3 not in deadlines
    assert 7 in deadlines
    assert deadlines.fire(99) == [7]
    assert deadlines.earliest() is None


def test_disarmed_and_rearmed() -> None:
    """What is disarmed doesn't fire; armed again, only the new deadline counts."""
    deadlines = Deadlines()
    deadlines.arm(1, 10)
    deadlines.arm(2, 11)
    deadlines.disarm(1)
    deadlines.disarm(99)
    assert deadlines.earliest() == 11
    deadlines.arm(2, 5)
    assert deadlines.earliest() == 5
    assert deadlines.fire(50) == [2]


def test_popped_one_by_one_in_order_of_time() -> None:
    deadlines = Deadlines()
    for number, deadline in ((1, 30), (2, 10), (3, 10), (4, 20)):
        deadlines.arm(number, deadline)
    deadlines.disarm(3)
    assert [deadlines.pop(25), deadlines.pop(25), deadlines.pop(25)] == [(10, 2), (20, 4), None]
    assert deadlines.armed(2) is None
    assert deadlines.armed(1) == 30


def test_stale_items_do_not_pile_up() -> None:
    """Ten thousand subscriptions that come and go leave a heap of the few that are there."""
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.arm(number, 1000 + number)
        if number >= 10:
            deadlines.disarm(number)
    assert len(deadlines._heap) < 200
    assert deadlines.fire(99_999) == list(range(10))
