"""Routing peers: nodes of other clusters, with plain NATS traffic both ways and each other's services.

``routing`` treats a remote node as one more node, named ``CLUSTER/NODE``: interest and messages are exchanged
in the same frames. The streaming service differs. Each node of a cluster serves its own clients itself; but a
request of a remote node's client must be served by exactly one of them, in order, and a delivery to that
client must be made by exactly one. So every node chooses one linked node of each other cluster as its
*gateway* there. Requests of its clients to that cluster go to the gateway, and the gateway delivers to them
as if the whole node were one of its client connections: a *remote client*. If the link to the gateway breaks,
another node of that cluster becomes the gateway. Messages in transit are then lost, as when a client's
connection breaks, and redelivered after their AckWait.

Frames, beside those of ``routing`` and ``interest``::

    ["serves", [pattern, …]]   all patterns that this node's cluster serves, after each change
    ["home", bool]             whether the receiver is the sender's gateway to the receiver's cluster
    ["ask", subject, reply, headers, payload, to_plain, queues]   like "msg", but services receive it too

Patterns that a peer claims and `offered_services` does not grant its cluster are ignored. Requests to
patterns that this node serves itself go to no peer. A remote node receives no log entry and nothing of the
replicated state.

A plain object without I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from node.errors import RemoteProtocolError
from node.protocol.subjects import Interest, valid_subject
from node.server.routes.offered_services import is_ack_inbox

log = logging.getLogger("stanchion.routes")

PATTERNS_MAX = 64
"""Most patterns of one cluster's services; there are eight."""


STARTED, BOOTSTRAPPED = "started", "founded"
"""Values in the hello of a cluster that one node bootstraps alone: the sender was started to do so, or
another was."""


def cluster_of(peer: str) -> str:
    """Return the cluster of a remote node; empty for a member of this node's cluster."""
    cluster, separator, _ = peer.partition("/")
    return cluster if separator else ""


class Link(Protocol):
    """The link to a remote node, as used for deliveries."""

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def send(self, value: Any) -> None: ...


class RemoteClient:
    """All clients of a remote node that has this node as its gateway, as one receiver of deliveries."""

    __slots__ = ("connection",)

    def __init__(self, connection: Link) -> None:
        self.connection = connection

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send one message to the subscribers at the remote node."""
        self.connection.send(["msg", subject, b"", b"", payload, True, []])


class RemoteRoutes:
    """The linked remote nodes, the services of their clusters, and the gateways in both directions.

    Args:
        send: sends a frame to a remote node.
        changed: called when requests or deliveries take another route.
        offers: returns whether clients of other clusters may use a cluster's service at a pattern.
    """

    def __init__(
        self,
        send: Callable[[str, Any], None],
        changed: Callable[[], None],
        offers: Callable[[str, bytes], bool],
    ) -> None:
        self._send = send
        self._changed = changed
        self._offers = offers
        self._links: dict[str, Link] = {}
        self._served: dict[str, tuple[bytes, ...]] = {}
        """For each node, the patterns that its cluster serves."""
        self._gateways: dict[str, str] = {}
        """For each cluster, the node that is this node's gateway to it."""
        self._remote_clients: dict[str, RemoteClient] = {}
        self._remote_routes: Interest[str] = Interest()
        """Clusters by the patterns that their gateways serve."""
        self._own: tuple[bytes, ...] = ()
        self._warned: set[str] = set()
        """Peers whose claims have been logged since their links came up."""

    # --- this node's part -------------------------------------------------------------------------

    def offer(self, patterns: Iterable[bytes]) -> None:
        """Set the patterns that this node's cluster serves."""
        own = tuple(patterns)
        if own != self._own:
            self._own = own
            for peer in self._links:
                self._send(peer, ["serves", list(own)])

    def up(self, peer: str, link: Link) -> None:
        """Record a new link to a remote node, also if it replaces another."""
        self._forget(peer)
        self._links[peer] = link
        self._send(peer, ["serves", list(self._own)])

    def down(self, peer: str) -> None:
        """Forget a remote node: its link is down."""
        self._forget(peer)

    def received(self, peer: str, frame: Sequence[Any]) -> bool:
        """Handle a frame of a remote node if it is ``serves`` or ``home``. Returns True if it was.

        Raises:
            RemoteProtocolError: the frame is malformed.
        """
        match frame:
            case ["serves", [*patterns]] if len(patterns) <= PATTERNS_MAX and all(map(_is_pattern, patterns)):
                self._set_served(peer, tuple(patterns))
            case ["home", bool(is_gateway)]:
                self._add_remote_client(peer, is_gateway)
            case ["serves" | "home", *_]:
                raise RemoteProtocolError(f"{peer}: not a frame of a routing peer")
            case _:
                return False
        return True

    # --- routes -----------------------------------------------------------------------------------

    def serving(self, subject: bytes) -> tuple[str, ...]:
        """Return the nodes that requests to ``subject`` go to: the gateways to the clusters that serve it."""
        found = dict.fromkeys(self._remote_routes.match(subject))
        return tuple(self._gateways[cluster] for cluster in found if cluster in self._gateways)

    def remote_clients(self, peers: Iterable[str]) -> Iterator[RemoteClient]:
        """Yield the remote clients for those of ``peers`` that have this node as their gateway."""
        for peer in peers:
            remote_client = self._remote_clients.get(peer)
            if remote_client is not None:
                yield remote_client

    def home(self, cluster: str) -> str | None:
        """Return this node's gateway to another cluster."""
        return self._gateways.get(cluster)

    # --- inside -----------------------------------------------------------------------------------

    def _set_served(self, peer: str, patterns: tuple[bytes, ...]) -> None:
        if peer not in self._links:
            return  # the link is down since
        cluster = cluster_of(peer)
        patterns = self._granted(peer, cluster, patterns)
        is_gateway = self._gateways.get(cluster) == peer
        if is_gateway:
            self._remove_patterns(cluster)
        self._served[peer] = patterns
        if is_gateway:
            self._add_patterns(cluster)
            self._changed()
        elif cluster not in self._gateways:
            self._choose(cluster)

    def _granted(self, peer: str, cluster: str, patterns: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the patterns that a peer may serve, of those it claims: each once, and only one inbox."""
        own = [pattern for pattern in dict.fromkeys(patterns) if self._offers(cluster, pattern)]
        inboxes = [pattern for pattern in own if is_ack_inbox(pattern)]
        granted = tuple(pattern for pattern in own if pattern not in inboxes[1:] and pattern not in self._own)
        refused = sorted({*patterns} - {*granted})
        if refused and peer not in self._warned:
            self._warned.add(peer)
            log.warning("routing peer %s claims to serve %.100r, which it may not: ignored", peer, refused[0])
        return granted

    def _add_remote_client(self, peer: str, is_gateway: bool) -> None:
        link = self._links.get(peer)
        if is_gateway and link is not None:
            self._remote_clients[peer] = RemoteClient(link)
        else:
            self._remote_clients.pop(peer, None)
        self._changed()

    def _choose(self, cluster: str) -> None:
        """Choose a gateway to ``cluster``: its first node that is linked and serves."""
        peer = next((peer for peer in self._served if cluster_of(peer) == cluster), None)
        if peer is not None:
            self._gateways[cluster] = peer
            self._add_patterns(cluster)
            self._send(peer, ["home", True])
        self._changed()

    def _forget(self, peer: str) -> None:
        was_linked = self._links.pop(peer, None) is not None
        cluster = cluster_of(peer)
        if self._gateways.get(cluster) == peer:
            self._remove_patterns(cluster)
            del self._gateways[cluster]
            self._served.pop(peer, None)
            self._choose(cluster)
        self._served.pop(peer, None)
        self._remote_clients.pop(peer, None)
        self._warned.discard(peer)
        if was_linked:
            self._changed()

    def _add_patterns(self, cluster: str) -> None:
        for pattern in self._served[self._gateways[cluster]]:
            self._remote_routes.insert(pattern, cluster)

    def _remove_patterns(self, cluster: str) -> None:
        for pattern in self._served[self._gateways[cluster]]:
            self._remote_routes.remove(pattern, cluster)


def _is_pattern(value: Any) -> bool:
    return isinstance(value, bytes) and valid_subject(value)
