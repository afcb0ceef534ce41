"""Sorting in steps, for lists of unbounded length."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

T = TypeVar("T")

RUN: Final = 1024
"""Number of values that are sorted, or skipped, between two yields."""


def in_order(
    values: Iterable[T], key: Callable[[T], Any] = lambda value: value, *, reverse: bool = False
) -> Generator[None, None, Iterator[T]]:
    """Sort ``values``, stably. Yields where other tasks may run.

    Returns an iterator over them; taking a value from it costs some microseconds.
    """
    runs: list[list[T]] = []
    source = iter(values)
    while run := list(islice(source, RUN)):
        run.sort(key=key, reverse=reverse)
        runs.append(run)
        yield
    return iter(runs[0]) if len(runs) == 1 else heapq.merge(*runs, key=key, reverse=reverse)


def page(values: Iterable[T], offset: int, limit: int) -> Generator[None, None, list[T]]:
    """Return at most ``limit`` values from ``offset`` on. Yields where other tasks may run."""
    source = iter(values)
    left = offset
    while left > 0:
        passed = sum(1 for _ in islice(source, min(left, RUN)))
        if passed < min(left, RUN):
            return []
        left -= passed
        yield
    found: list[T] = []
    while len(found) < limit:
        some = list(islice(source, min(limit - len(found), RUN)))
        if not some:
            break
        found += some
        yield
    return found
