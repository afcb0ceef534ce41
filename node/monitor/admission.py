"""Which connections to the monitoring port are kept when there are too many.

A new connection is always taken. If its address or all together hold as many as they may, another one is
closed for it, of the address that holds the most: the one that has been idle for longest; if none is idle,
the one whose page has taken longest; and only then one that has just come, or whose probe is being
answered. So connections that are merely held open, or that don't read what they have asked for, shut nobody
out.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Final

from node.monitor.gate import HEALTH

CONNECTIONS_MAX: Final = 64
"""At a time."""

ADDRESS_MAX: Final = 48
"""Of one address: others find places even if it takes as many as it can get."""

FRESH_S: Final = 0.5
"""So long a new connection may take to send its request before it counts as idle."""

PROBES: Final = HEALTH.encode()
"""What load balancers and container health checks ask for: their connections are closed last."""


class Seat:
    """One connection.

    Args:
        address: where it comes from.
        close: called when its place is needed.
        clock: seconds that only elapse.
    """

    __slots__ = ("_clock", "_is_new", "_rank", "_since_s", "address", "close")

    def __init__(self, address: str, close: Callable[[], None], clock: Callable[[], float]) -> None:
        self.address = address
        self.close = close
        self._clock = clock
        self._is_new = True
        self._rank = 0
        self._since_s = clock()

    def begin(self, target: bytes) -> None:
        """A request for ``target`` has come, and is being answered."""
        self._is_new = False
        self._rank = 2 if target.partition(b"?")[0].endswith(PROBES) else 1
        self._since_s = self._clock()

    def end(self) -> None:
        """The answer is written."""
        self._rank = 0
        self._since_s = self._clock()

    @property
    def order(self) -> tuple[int, float]:
        """Those with the lowest are closed first."""
        is_fresh = self._is_new and self._clock() - self._since_s < FRESH_S
        return 2 if is_fresh else self._rank, self._since_s


class Admission:
    """The connections there are.

    Args:
        clock: seconds that only elapse.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seats: set[Seat] = set()

    def admit(self, host: str, close: Callable[[], None]) -> Seat:
        """Take a connection from ``host``; another one is closed if there are too many.

        ``close`` is called when it is this one's turn to go.
        """
        address = address_key(host)
        held = Counter(seat.address for seat in self._seats)
        if held[address] >= ADDRESS_MAX:
            self._close_one(address)
        elif len(self._seats) >= CONNECTIONS_MAX:
            self._close_one(held.most_common(1)[0][0])
        seat = Seat(address, close, self._clock)
        self._seats.add(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """It has ended."""
        self._seats.discard(seat)

    def _close_one(self, address: str) -> None:
        seat = min((seat for seat in self._seats if seat.address == address), key=lambda seat: seat.order)
        self._seats.remove(seat)
        seat.close()


def address_key(host: str) -> str:
    """What counts as one address: one of IPv4, or a network of 64 bits of IPv6, for a machine may own it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
