"""Sorting in steps, for lists whose length nobody bounds."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

T = TypeVar("T")

RUN: Final = 1024
"""So many values are sorted, or passed over, between two breaks."""


def in_order(
    values: Iterable[T], key: Callable[[T], Any] = lambda value: value, *, reverse: bool = False
) -> Generator[None, None, Iterator[T]]:
    """Sort ``values``; equal ones stay in their order. Yields where others may run.

    Returns an iterator over them: each value costs some microseconds when it is taken.
    """
    runs: list[list[T]] = []
    source = iter(values)
    while run := list(islice(source, RUN)):
        run.sort(key=key, reverse=reverse)
        runs.append(run)
        yield
    return iter(runs[0]) if len(runs) == 1 else heapq.merge(*runs, key=key, reverse=reverse)


def page(values: Iterable[T], offset: int, limit: int) -> Generator[None, None, list[T]]:
    """The values from ``offset`` on, ``limit`` at most. Yields where others may run."""
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
