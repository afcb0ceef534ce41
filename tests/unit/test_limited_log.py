"""Lines that others can cause are written a few times, then counted."""

from __future__ import annotations

import logging

import pytest

from node.limited_log import LINES_MAX, PER_S, LimitedLog

logger = logging.getLogger("stanchion.test")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, logger="stanchion.test")
    return Clock()


def test_a_flood_of_one_kind_is_a_few_lines(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, clock=clock)
    written = [log.info("client %d: %s", number, "invalid") for number in range(10_000)]
    assert sum(written) == LINES_MAX == len(caplog.messages)
    assert caplog.messages[0] == "client 0: invalid"


def test_tracebacks_are_limited_too(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, lines_max=1, clock=clock)
    for _ in range(3):
        try:
            raise ZeroDivisionError("a mistake of ours")
        except ZeroDivisionError:
            log.exception("it failed")
    assert caplog.messages == ["it failed"]
    assert "a mistake of ours" in caplog.text


def test_kinds_are_limited_apart(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, lines_max=1, clock=clock)
    assert log.info("one %s", "a")
    assert not log.info("one %s", "b")
    assert log.warning("two %s", "a")
    assert caplog.messages == ["one a", "two a"]


def test_the_next_while_says_how_many_were_left_out(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, lines_max=2, clock=clock)
    for _ in range(9):
        log.info("refused %s", "x")
    clock.now_s += PER_S
    assert log.info("refused %s", "y")
    assert caplog.messages[-1] == "refused y (7 more lines like this one were left out)"
    assert log.info("refused %s", "z")
    assert caplog.messages[-1] == "refused z"


def test_lines_below_the_level_are_not_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, lines_max=1, clock=clock)
    assert not log.log(logging.DEBUG, "seen %d", 1)
    caplog.set_level(logging.DEBUG, logger="stanchion.test")
    assert log.log(logging.DEBUG, "seen %d", 2)


def test_the_line_names_its_caller(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    LimitedLog(logger, clock=clock).info("here")
    assert caplog.records[0].funcName == "test_the_line_names_its_caller"
