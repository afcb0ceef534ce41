"""The length of event loop rounds, and the time in which the process did not run."""

from __future__ import annotations

import time

import pytest
import trio

from node.server.loop_watch import BUCKETS, WINDOW_S, WINDOWS, LoopWatch


class Clocks:
    def __init__(self) -> None:
        self.now_s = 50.0
        self.cpu_s = 3.0

    def work(self, seconds: float, *, waited_s: float = 0.0) -> None:
        self.now_s += seconds + waited_s
        self.cpu_s += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def watch(clocks: Clocks) -> LoopWatch:
    return LoopWatch(lambda: clocks.now_s, lambda: clocks.cpu_s)


def sleep(watch: LoopWatch, clocks: Clocks, timeout_s: float, took_s: float) -> None:
    watch.before_io_wait(timeout_s)
    clocks.now_s += took_s
    watch.after_io_wait(timeout_s)


def test_own_work_does_not_count_as_standing_still(watch: LoopWatch, clocks: Clocks) -> None:
    """However long the work takes: it only shows in the length of the round."""
    clocks.work(5.0)
    assert watch.stood_s() == pytest.approx(0)
    sleep(watch, clocks, 1.0, 1.001)
    assert watch.stood_s() == pytest.approx(0)
    assert watch.longest_s == pytest.approx(5.0)


def test_a_round_in_which_other_processes_had_the_processor(watch: LoopWatch, clocks: Clocks) -> None:
    clocks.work(0.1, waited_s=0.3)
    assert watch.stood_s() == pytest.approx(0.3), "in the middle of the round"
    sleep(watch, clocks, 0.0, 0.0)
    assert watch.stood_s() == pytest.approx(0.3), "and after it"


def test_a_wait_that_ends_too_late(watch: LoopWatch, clocks: Clocks) -> None:
    """As after SIGSTOP: the timer had expired long before."""
    sleep(watch, clocks, 0.5, 2.5)
    sleep(watch, clocks, 60.0, 59.0)
    assert watch.stood_s() == pytest.approx(2.0)


def test_work_of_threads_does_not_reduce_the_time(watch: LoopWatch, clocks: Clocks) -> None:
    clocks.work(0.1, waited_s=0.3)
    sleep(watch, clocks, 0.0, 0.0)
    clocks.cpu_s += 10
    clocks.work(0.1)
    sleep(watch, clocks, 0.0, 0.0)
    assert watch.stood_s() == pytest.approx(0.3)


def test_quantiles_of_rounds(watch: LoopWatch, clocks: Clocks) -> None:
    assert watch.quantile_ms(0.99) == 0
    for _ in range(98):
        clocks.work(0.0005)
        sleep(watch, clocks, 0.0, 0.0)
    for seconds in (0.0195, 9.0):
        clocks.work(seconds)
        sleep(watch, clocks, 0.0, 0.0)
    assert [watch.quantile_ms(part) for part in (0.5, 0.98, 0.99, 1.0)] == [1, 1, 20, BUCKETS]
    assert watch.rounds == 100


def test_rounds_of_the_last_minute_count(watch: LoopWatch, clocks: Clocks) -> None:
    """A figure since the start of the node would not show the present."""
    clocks.work(0.1505)
    sleep(watch, clocks, 0.0, 0.0)
    assert (watch.quantile_ms(0.99), watch.longest_s) == (151, pytest.approx(0.1505))
    for _ in range(WINDOWS + 1):
        assert len(watch._windows) <= WINDOWS
        sleep(watch, clocks, WINDOW_S, WINDOW_S)
        clocks.work(0.0035)
        sleep(watch, clocks, 0.0, 0.0)
    assert watch.longest_s == pytest.approx(0.0035)
    assert watch.quantile_ms(0.99) == 4
    clocks.now_s += 2 * WINDOWS * WINDOW_S
    assert (watch.quantile_ms(0.99), watch.longest_s) == (0, 0.0)


async def test_a_loop_is_watched_only_once() -> None:
    watch = LoopWatch()
    with watch.installed():
        with watch.installed():
            await trio.lowlevel.checkpoint()
        before = watch.rounds
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert watch.rounds - before == 5
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass
        await trio.lowlevel.checkpoint()
        assert watch.longest_s >= 0.05
    rounds = watch.rounds
    await trio.lowlevel.checkpoint()
    assert watch.rounds == rounds
