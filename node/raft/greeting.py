"""Connections that have not completed their handshake, and which of them is evicted when there are too many.

Any process can open connections to the peer port and send nothing. So their number is limited, per address
and in total. A new connection is never refused: an older one is evicted, the oldest of the address that has
the most, preferably one that has not sent a byte. A peer needs a few milliseconds for its handshake. To keep
peers out, an attacker must open a whole set of connections within that time, again and again, and this has no
effect from another address than the peer's.

A connection is no longer counted here once its hello is accepted or refused. After that its sender is known,
and other bounds apply.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Greeting:
    """One connection that has not completed its handshake."""

    __slots__ = ("address", "has_sent", "scope", "was_evicted")

    def __init__(self, address: str) -> None:
        self.address = address
        self.has_sent = False
        """True if it has sent at least one byte."""
        self.was_evicted = False
        """True if it was closed in favour of a newer connection."""
        self.scope = trio.CancelScope()


class Greetings:
    """All connections in their handshake, oldest first.

    Args:
        total_max: maximum number at a time.
        address_max: maximum number at a time from one address.
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
        """Count a connection from ``address`` during the block. A newer connection may cancel the block."""
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
        """Cancel the oldest connection of an address, preferably one that has sent nothing, and stop counting
        it.
        """
        own = [greeting for greeting in self._present if greeting.address == address]
        gone = next((greeting for greeting in own if not greeting.has_sent), own[0])
        gone.was_evicted = True
        gone.scope.cancel()
        self._forget(gone)

    def _forget(self, greeting: Greeting) -> None:
        if greeting in self._present:
            del self._present[greeting]
            self._counts[greeting.address] -= 1
            if not self._counts[greeting.address]:
                del self._counts[greeting.address]
