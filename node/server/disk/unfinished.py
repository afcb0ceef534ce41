"""Snapshots whose transfer was interrupted. The same copy is offered again, so that the transfer can resume.

A new copy differs as soon as a message was published meanwhile. With a large store and a poor link no copy
would ever arrive. A copy is useful only while the log continues after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Copy = TypeVar("Copy")


class Unfinished(Generic[Copy]):
    """Records the copy of which each peer has a part.

    Args:
        first_readable: the first entry that can be sent from the log.
    """

    def __init__(self, first_readable: Callable[[], int]) -> None:
        self._first_readable = first_readable
        self._copies: dict[str, tuple[int, Copy]] = {}

    def begun(self, peer: str, index: int, copy: Copy) -> None:
        """Record that the copy of entry ``index`` is being sent to ``peer``."""
        self._copies[peer] = (index, copy)

    def ended(self, peer: str) -> None:
        """Forget the copy of ``peer``: it is complete, or the peer needs another one."""
        self._copies.pop(peer, None)

    def of(self, peer: str) -> Copy | None:
        """Return the copy to continue with; None if a new one is needed."""
        index, copy = self._copies.get(peer, (-1, None))
        if index + 1 < self._first_readable():
            self.ended(peer)
            return None
        return copy
