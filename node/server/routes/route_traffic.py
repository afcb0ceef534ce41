"""What comes over the links to routing peers, handed to routing and to the streaming service.

A routing peer's clients use this cluster's service as this node's own clients do: what they asked for in one
read goes to the leader as one batch, and reading stops when too much is unapplied (R21).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node.config.values import Address
from node.server.replica import Replica
from node.server.routes.route_peer import Listener, Peer
from node.server.routing import Routing


class RouteTraffic(Listener):
    """Told of routing peers by `route_links`.

    Args:
        routing: where messages and interest go.
        replica: the service, and who delivers.
        member: told where a member of this cluster was found.
        announce: called when there may be other addresses for clients.
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
