"""Work over a hundred thousand things, a few hundred at a time.

A job is a generator that yields after each thing. Between two steps everything else may happen, so a job
builds on nothing that it has read before without asking whether it is still so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

STEP: Final = 256
"""Things in one step: one or two milliseconds, where each takes some microseconds."""

_END: Final[Any] = object()


def ends(job: Iterator[None], step: int = STEP) -> bool:
    """Take one step of ``job``. Returns whether it has come to its end."""
    return any(next(job, _END) is _END for _ in range(step))
