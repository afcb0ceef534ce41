"""Limits the connections to the monitoring port, and chooses those to close when there are too many.

A new connection is always accepted. If its address, or all addresses together, have reached the limit,
another connection is closed, of the address that has the most: the one that has been idle for longest; if
none is idle, the one whose page has taken longest; and only then a new one, or one whose health probe is
being answered. So connections that are only held open, or that don't read their answers, can't keep others
out.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Final

from node.monitor.gate import HEALTH

CONNECTIONS_MAX: Final = 64
"""Most connections at a time."""

ADDRESS_MAX: Final = 48
"""Most connections of one address, so that others can connect even if it opens as many as possible."""

FRESH_S: Final = 0.5
"""How long a new connection may take to send its request before it counts as idle."""

PROBES: Final = HEALTH.encode()
"""The page of load balancers and container health checks: their connections are closed last."""


class Slot:
    """One admitted connection.

    Args:
        address: of the other end.
        close: called to close the connection for another one.
        clock: monotonic seconds.
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
        """A request for ``target`` has arrived, and is being answered."""
        self._is_new = False
        self._rank = 2 if target.partition(b"?")[0].endswith(PROBES) else 1
        self._since_s = self._clock()

    def end(self) -> None:
        """The answer has been written."""
        self._rank = 0
        self._since_s = self._clock()

    @property
    def order(self) -> tuple[int, float]:
        """Sort key: the connection with the lowest one is closed first."""
        is_fresh = self._is_new and self._clock() - self._since_s < FRESH_S
        return 2 if is_fresh else self._rank, self._since_s


class Admission:
    """All admitted connections.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: set[Slot] = set()

    def admit(self, host: str, close: Callable[[], None]) -> Slot:
        """Admit a connection from ``host``, and close another one if there are too many.

        ``close`` is called if this connection must be closed for another one.
        """
        address = address_key(host)
        held = Counter(slot.address for slot in self._slots)
        if held[address] >= ADDRESS_MAX:
            self._close_one(address)
        elif len(self._slots) >= CONNECTIONS_MAX:
            self._close_one(held.most_common(1)[0][0])
        slot = Slot(address, close, self._clock)
        self._slots.add(slot)
        return slot

    def leave(self, slot: Slot) -> None:
        """Forget a connection that has ended."""
        self._slots.discard(slot)

    def _close_one(self, address: str) -> None:
        slot = min((slot for slot in self._slots if slot.address == address), key=lambda slot: slot.order)
        self._slots.remove(slot)
        slot.close()


def address_key(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or a /64 network of IPv6, which one machine may
    own.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
