"""Sorting and paging in steps give what sorting and slicing in one go give."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from node.monitor import ordered
from node.monitor.ordered import RUN, in_order, page

T = TypeVar("T")


def done(steps: Generator[None, None, T]) -> tuple[T, int]:
    """What it returns, and in how many breaks."""
    breaks = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value, breaks
        breaks += 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers())), st.booleans())
def test_sorted_in_runs(values: list[tuple[int, int]], reverse: bool) -> None:
    ordered.RUN, run = 3, RUN  # type: ignore[misc]
    try:
        found, breaks = done(in_order(values, lambda each: each[0], reverse=reverse))
    finally:
        ordered.RUN = run  # type: ignore[misc]
    assert list(found) == sorted(values, key=lambda each: each[0], reverse=reverse)
    assert breaks == -(-len(values) // 3)


@given(st.integers(0, 3 * RUN), st.integers(0, 2 * RUN), st.integers(1, 3 * RUN))
def test_pages(count: int, offset: int, limit: int) -> None:
    found, _ = done(page(iter(range(count)), offset, limit))
    assert found == list(range(count))[offset : offset + limit]


def test_a_long_page_has_breaks() -> None:
    _, breaks = done(page(iter(range(10 * RUN)), 4 * RUN, 5 * RUN))
    assert breaks >= 9
