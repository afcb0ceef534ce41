"""Passes the frames of routing peers to routing and to the streaming service.

Clients of a routing peer use this cluster's service like this node's own clients: the requests of one read go
to the leader as one batch, and reading stops while too many are unapplied (R21).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node.config.values import Address
from node.server.replica import Replica
from node.server.routes.route_peer import Listener, Peer
from node.server.routing import Routing


class RouteTraffic(Listener):
    """The listener that `route_links` calls.

    Args:
        routing: receives messages and interest.
        replica: the streaming service, which also executes deliveries.
        member: called with the address at which a member of this cluster was found.
        announce: called when the addresses for clients may have changed.
    """

    def __init__(
        self,
        routing: Routing,
        replica: Replica,
        member: Callable[[str, Address], None],
        announce: Callable[[], None],
    ) -> None:
        self._routing = routing
        self._replica = replica
        self._member = member
        self._announce = announce

    def up(self, peer: Peer) -> None:
        """See `Listener`."""
        self._routing.remote_up(peer.key, peer)
        self._announce()

    def down(self, peer: Peer) -> None:
        """See `Listener`."""
        self._routing.remote_down(peer.key)
        self._replica.closed(peer)
        self._announce()

    def frames(self, peer: Peer, values: list[Any]) -> None:
        """See `Listener`."""
        for value in values:
            self._routing.remote_frame(peer.key, value)
        self._replica.read_done(peer)

    def drained(self, peer: Peer) -> None:
        """See `Listener`."""
        self._replica.drained(peer)

    def member(self, name: str, address: Address) -> None:
        """See `Listener`."""
        self._member(name, address)
