"""Splits work on very many items into steps of a few hundred.

A job is a generator that yields after each item. Anything may happen between two steps, so a job must check
everything again that it read in an earlier step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

STEP: Final = 256
"""Items in one step: one or two milliseconds, if each takes a few microseconds."""

_END: Final[Any] = object()


def ends(job: Iterator[None], step: int = STEP) -> bool:
    """Run one step of ``job``. Returns True if it has ended."""
    return any(next(job, _END) is _END for _ in range(step))
