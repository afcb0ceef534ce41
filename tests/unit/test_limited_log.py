"""Lines that others can cause are written a few times, then counted."""

from __future__ import annotations

import logging

import pytest

from node.limited_log import LINES_MAX, PER_S, SOURCES_MAX, LimitedLog

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


def test_one_source_does_not_hide_another(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger who comes a thousand times, and then somebody else: both are in the log."""
    log = LimitedLog(logger, clock=clock)
    for _ in range(1000):
        log.warning("refused %s", "10.0.0.1", source="10.0.0.1")
    assert log.warning("refused %s", "10.0.0.2", source="10.0.0.2")
    assert log.warning("refused %s", "nobody in particular")
    assert len(caplog.messages) == LINES_MAX + 2


def test_many_sources_are_bounded_lines_and_memory(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A whole network of strangers; when they have gone, others are counted apart again."""
    log = LimitedLog(logger, clock=clock)
    lines_max = (SOURCES_MAX + 1) * LINES_MAX
    for number in range(5000):
        for _ in range(LINES_MAX + 1):
            log.warning("refused %d", number, source=f"host {number}")
    assert len(caplog.messages) == lines_max
    (kind,) = log._kinds.values()
    assert len(kind.sources) == SOURCES_MAX
    clock.now_s += PER_S
    assert log.warning("refused %d", 1, source="host of another day")
    left_out = SOURCES_MAX
    assert caplog.messages[-1] == f"refused 1 ({left_out} more lines like this one were left out)"
    assert len(kind.sources) == 1
    assert log.warning("refused %d", 2)
    left_out = 5000 * (LINES_MAX + 1) - lines_max - left_out
    assert caplog.messages[-1] == f"refused 2 ({left_out} more lines like this one were left out)"
