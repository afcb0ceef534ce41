"""Snapshots whose sending was cut off: the same one is offered again, or nothing of it could be gone on with.

A copy made anew is another one as soon as anything was published meanwhile, and of a large store and a
poor link no copy would ever arrive. But a copy is of use only while the log goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Copy = TypeVar("Copy")


class Unfinished(Generic[Copy]):
    """Which copy each peer has a part of.

    Args:
        first_readable: the first entry that can be sent from the log.
    """

    def __init__(self, first_readable: Callable[[], int]) -> None:
        self._first_readable = first_readable
        self._copies: dict[str, tuple[int, Copy]] = {}

    def begun(self, peer: str, index: int, copy: Copy) -> None:
        """``peer`` is being sent a copy of entry ``index``."""
        self._copies[peer] = (index, copy)

    def ended(self, peer: str) -> None:
        """It has it, or is to get another."""
        self._copies.pop(peer, None)

    def of(self, peer: str) -> Copy | None:
        """The copy to go on with; None: a new one is needed."""
        index, copy = self._copies.get(peer, (-1, None))
        if index + 1 < self._first_readable():
            self.ended(peer)
            return None
        return copy
