"""The rate limit for changes of subscriptions, which typical applications don't notice."""

from __future__ import annotations

import pytest

from node.server.interest_rate import (
    BURST,
    CHANGES_PER_S,
    DEBT_MAX,
    ENDED_MAX,
    FREE_IN_DEBT_PER_S,
    FREE_PER_S,
    LEAVE_BUSY_S,
    LEAVE_S,
    PAUSE_MAX_S,
    REST,
    Allowance,
    InterestRate,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> InterestRate:
    return InterestRate(clock)


def test_a_burst_is_free_again_after_a_pause(rate: InterestRate, clock: Clock) -> None:
    assert rate.spend(BURST) == 0.0
    assert rate.spend(200) == pytest.approx(200 / CHANGES_PER_S)
    clock.now_s += (BURST + 200) / CHANGES_PER_S
    assert rate.spend(BURST) == pytest.approx(0.0)
    assert rate.spend(1) > 0.0


def test_the_average_is_at_most_the_rate(rate: InterestRate, clock: Clock) -> None:
    began_s, changed = clock.now_s, 0
    while clock.now_s < began_s + 5.0:
        clock.now_s += rate.spend(120) + 1e-6
        changed += 120
    assert changed <= BURST + 5.01 * CHANGES_PER_S + 120


def test_twenty_connections_share_the_rate(rate: InterestRate, clock: Clock) -> None:
    until_s = dict.fromkeys(range(20), clock.now_s)
    changed = dict.fromkeys(range(20), 0)
    began_s = clock.now_s
    while clock.now_s < began_s + 5.0:
        clock.now_s += 0.0001
        for one, due_s in until_s.items():
            if due_s <= clock.now_s:
                until_s[one] = clock.now_s + rate.spend(120)
                changed[one] += 120
    assert sum(changed.values()) <= BURST + 1.3 * 5.0 * CHANGES_PER_S
    assert max(changed.values()) < 1.5 * min(changed.values())


def test_a_connection_that_changes_little_never_waits(rate: InterestRate, clock: Clock) -> None:
    """Also while other connections have used all tokens."""
    one = Allowance()
    rate.spend(10 * BURST)
    assert rate.is_in_debt
    for _ in range(10):
        clock.now_s += 1.0
        rate.spend(10 * BURST)
        assert one.pause_s(rate, FREE_IN_DEBT_PER_S, due_s=clock.now_s, now_s=clock.now_s) == 0.0
    assert one.pause_s(rate, 1, due_s=clock.now_s, now_s=clock.now_s) > 0.0
    clock.now_s += 1.0
    rate.spend(BURST)
    assert not rate.is_in_debt
    assert one.pause_s(rate, FREE_PER_S, due_s=clock.now_s, now_s=clock.now_s) == 0.0


def test_a_pause_is_bounded(rate: InterestRate, clock: Clock) -> None:
    for _ in range(100):
        rate.spend(10_000)
    assert rate.spend(120) <= (DEBT_MAX + 120) / CHANGES_PER_S


def test_on_a_busy_machine_changes_take_a_quarter_of_the_time(rate: InterestRate, clock: Clock) -> None:
    one = Allowance()
    rate.spend(BURST)
    pause_s = one.pause_s(rate, BURST, due_s=clock.now_s - 0.03, now_s=clock.now_s)
    assert pause_s == pytest.approx(BURST / CHANGES_PER_S)
    clock.now_s += pause_s
    pause_s = one.pause_s(rate, 120, due_s=clock.now_s - 0.03, now_s=clock.now_s)
    assert pause_s == pytest.approx(REST * 0.03)
    assert rate.leave_pause_s(100, 1000, 0.02) == pytest.approx(REST * 0.02)
    assert rate.leave_pause_s(100, 1000, 5.0) == PAUSE_MAX_S


@pytest.mark.parametrize("left", [1_000, 50_000, 1_000_000])
def test_subscriptions_of_ended_connections_are_removed_in_time(
    rate: InterestRate, clock: Clock, left: int
) -> None:
    began_s, begun = clock.now_s, left
    while left > begun // 3:
        removed = min(128, left)
        left -= removed
        clock.now_s += rate.leave_pause_s(removed, left, 0.0)
    assert clock.now_s - began_s <= LEAVE_S * 1.2


def test_removal_leaves_half_the_rate_to_new_subscriptions(rate: InterestRate) -> None:
    rate.spend(2 * BURST)
    assert rate.leave_pause_s(100, 10_000, 0.0) == pytest.approx(100 / (CHANGES_PER_S / 2))


def test_ended_subscriptions_do_not_accumulate_on_a_slow_machine(rate: InterestRate, clock: Clock) -> None:
    """A client that connected and disconnected on a machine at load 30 used 170 MB in 75 s."""
    one, due_s, leave_s, live, ended, most = Allowance(), clock.now_s, clock.now_s, 0, 0, 0
    until_s = clock.now_s + 300.0
    while clock.now_s < until_s:
        clock.now_s = max(clock.now_s, min(due_s, leave_s if ended else due_s)) + 0.01
        if due_s <= clock.now_s:
            live += 120
            due_s = clock.now_s + one.pause_s(rate, 120, due_s=clock.now_s - 1.0, now_s=clock.now_s)
        if live >= 50_000:
            rate.add_ended(live)
            live, ended = 0, ended + live
        if ended and leave_s <= clock.now_s:
            removed = min(128, ended)
            ended -= removed
            leave_s = clock.now_s + rate.leave_pause_s(removed, ended, 1.0)
        most = max(most, ended)
    assert ENDED_MAX // 2 < most <= ENDED_MAX + 50_000
    assert LEAVE_BUSY_S > LEAVE_S
