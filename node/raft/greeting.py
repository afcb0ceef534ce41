"""The connections that have not shown yet who they are, and which of them goes when there are too many.

Anybody can open connections to the peer port and say nothing. So there is a bound on them, for each address
and for all, and a new connection is never turned away: an older one goes. It is one of the address that has
the most, if it can be one that hasn't sent a byte, and of those the oldest. A peer needs a few milliseconds
for its handshake, so whoever would keep peers out has to open a whole set of connections in that time,
again and again; and from another address than the peer's that doesn't help.

A connection leaves this as soon as its hello is judged. What it holds then is bounded by who it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Greeting:
    """One connection that is being greeted."""

    __slots__ = ("address", "has_spoken", "scope", "was_evicted")

    def __init__(self, address: str) -> None:
        self.address = address
        self.has_spoken = False
        """It has sent something."""
        self.was_evicted = False
        """It had to make room."""
        self.scope = trio.CancelScope()


class Greetings:
    """All of them, oldest first.

    Args:
        total_max: at most so many at a time.
        address_max: at most so many of one address.
    """

    def __init__(self, total_max: int, address_max: int) -> None:
        self._total_max = total_max
        self._address_max = address_max
        self._present: dict[Greeting, None] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._present)

    @contextmanager
    def admitted(self, address: str) -> Iterator[Greeting]:
        """Count a connection from ``address`` during the block, which another one may cancel."""
        if self._counts.get(address, 0) >= self._address_max:
            self._evict(address)
        elif len(self._present) >= self._total_max:
            self._evict(max(self._counts, key=lambda one: self._counts[one]))
        greeting = Greeting(address)
        self._present[greeting] = None
        self._counts[address] = self._counts.get(address, 0) + 1
        try:
            with greeting.scope:
                yield greeting
        finally:
            self._forget(greeting)

    def _evict(self, address: str) -> None:
        """End the oldest of an address, a silent one if there is any. It counts no more from now on."""
        own = [greeting for greeting in self._present if greeting.address == address]
        gone = next((greeting for greeting in own if not greeting.has_spoken), own[0])
        gone.was_evicted = True
        gone.scope.cancel()
        self._forget(gone)

    def _forget(self, greeting: Greeting) -> None:
        if greeting in self._present:
            del self._present[greeting]
            self._counts[greeting.address] -= 1
            if not self._counts[greeting.address]:
                del self._counts[greeting.address]
