"""Routing peers: nodes of other clusters, with plain NATS traffic both ways, and each other's services.

To ``routing`` a foreign node is one more node, called ``CLUSTER/NODE``: its clients' interest is told in the
same frames, messages go there in the same frames. What differs is the streaming service. Each node of a
cluster serves its own clients itself; but a request that a foreign node's client makes must be served by one
of them only, in order, and a delivery to that client must be made by one of them only. So every node chooses
of each other cluster one node that it has a link with, its *home* there. What its clients ask of that cluster
goes home, and the home delivers to them, as if the whole node were one of its client connections: it is the
home's *guest*. If the link home breaks, another node of that cluster becomes the home. What was on its way
then is lost, as when a client's connection breaks, and comes again after its AckWait.

Frames, beside those of ``routing`` and ``interest``::

    ["serves", [pattern, …]]   what this node's cluster serves, all of it, each time it changes
    ["home", whether]          whether the receiver is the sender's home in the receiver's cluster
    ["ask", subject, reply, headers, payload, to_plain, queues]   like "msg"; services take it too

A peer serves what `offered` grants its cluster; what else it claims is left out. What this node serves itself
no other is asked. No entry of the log and nothing of the replicated state goes to a foreign node.

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
"""Of one cluster's services: there are eight."""


STARTED, BOOTSTRAPPED = "started", "founded"
"""What a hello says of a cluster that one node founds alone: its sender was started to, or another has."""


def cluster_of(peer: str) -> str:
    """The cluster of a foreign node; empty for a member of the own one."""
    cluster, separator, _ = peer.partition("/")
    return cluster if separator else ""


class Link(Protocol):
    """The link to a foreign node, as far as deliveries need it."""

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def send(self, value: Any) -> None: ...


class RemoteClient:
    """All clients of a foreign node whose home this node is, as one receiver of deliveries."""

    __slots__ = ("connection",)

    def __init__(self, connection: Link) -> None:
        self.connection = connection

    def deliver(self, subject: bytes, payload: bytes) -> None:
        """Send one message to whoever listens there."""
        self.connection.send(["msg", subject, b"", b"", payload, True, []])


class RemoteRoutes:
    """Which foreign nodes there are, what their clusters serve, and who is whose home.

    Args:
        send: puts a frame on the link to a foreign node.
        changed: told when requests or deliveries go another way than before.
        offers: whether a cluster's service at a pattern is for clients of other clusters.
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
        """By node, what its cluster serves."""
        self._gateways: dict[str, str] = {}
        """By cluster, the node that is this node's home there."""
        self._remote_clients: dict[str, RemoteClient] = {}
        self._remote_routes: Interest[str] = Interest()
        """Clusters by the patterns their homes serve."""
        self._own: tuple[bytes, ...] = ()
        self._warned: set[str] = set()
        """Whose claims were complained of since their links came up."""

    # --- this node's part -------------------------------------------------------------------------

    def offer(self, patterns: Iterable[bytes]) -> None:
        """These are what this node's cluster serves now."""
        own = tuple(patterns)
        if own != self._own:
            self._own = own
            for peer in self._links:
                self._send(peer, ["serves", list(own)])

    def up(self, peer: str, link: Link) -> None:
        """The link to a foreign node is there, new or anew."""
        self._forget(peer)
        self._links[peer] = link
        self._send(peer, ["serves", list(self._own)])

    def down(self, peer: str) -> None:
        """It is gone."""
        self._forget(peer)

    def received(self, peer: str, frame: Sequence[Any]) -> bool:
        """Take a frame of a foreign node if it is one of those above. Whether it was.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        match frame:
            case ["serves", [*patterns]] if len(patterns) <= PATTERNS_MAX and all(map(_is_pattern, patterns)):
                self._note_served(peer, tuple(patterns))
            case ["home", bool(is_gateway)]:
                self._add_remote_client(peer, is_gateway)
            case ["serves" | "home", *_]:
                raise RemoteProtocolError(f"{peer}: not a frame of a routing peer")
            case _:
                return False
        return True

    # --- where things go --------------------------------------------------------------------------

    def serving(self, subject: bytes) -> tuple[str, ...]:
        """The nodes that requests to ``subject`` go to: this node's homes in the clusters serving it."""
        found = dict.fromkeys(self._remote_routes.match(subject))
        return tuple(self._gateways[cluster] for cluster in found if cluster in self._gateways)

    def remote_clients(self, peers: Iterable[str]) -> Iterator[RemoteClient]:
        """Those of ``peers`` that this node delivers to."""
        for peer in peers:
            remote_client = self._remote_clients.get(peer)
            if remote_client is not None:
                yield remote_client

    def home(self, cluster: str) -> str | None:
        """This node's home in another cluster."""
        return self._gateways.get(cluster)

    # --- inside -----------------------------------------------------------------------------------

    def _note_served(self, peer: str, patterns: tuple[bytes, ...]) -> None:
        if peer not in self._links:
            return  # the link has gone since
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
        """Of what a peer claims to serve, what it may: once each, and of inboxes one."""
        own = [pattern for pattern in dict.fromkeys(patterns) if self._offers(cluster, pattern)]
        inboxes = [pattern for pattern in own if is_ack_inbox(pattern)]
        granted = tuple(pattern for pattern in own if pattern not in inboxes[1:] and pattern not in self._own)
        refused = sorted({*patterns} - {*granted})
        if refused and peer not in self._warned:
            self._warned.add(peer)
            log.warning("routing peer %s claims to serve %.100r, which isn't its service's", peer, refused[0])
        return granted

    def _add_remote_client(self, peer: str, is_gateway: bool) -> None:
        link = self._links.get(peer)
        if is_gateway and link is not None:
            self._remote_clients[peer] = RemoteClient(link)
        else:
            self._remote_clients.pop(peer, None)
        self._changed()

    def _choose(self, cluster: str) -> None:
        """A home among the nodes of ``cluster``: the first that has a link and serves."""
        peer = next((peer for peer in self._served if cluster_of(peer) == cluster), None)
        if peer is not None:
            self._gateways[cluster] = peer
            self._add_patterns(cluster)
            self._send(peer, ["home", True])
        self._changed()

    def _forget(self, peer: str) -> None:
        known = self._links.pop(peer, None) is not None
        cluster = cluster_of(peer)
        if self._gateways.get(cluster) == peer:
            self._remove_patterns(cluster)
            del self._gateways[cluster]
            self._served.pop(peer, None)
            self._choose(cluster)
        self._served.pop(peer, None)
        self._remote_clients.pop(peer, None)
        self._warned.discard(peer)
        if known:
            self._changed()

    def _add_patterns(self, cluster: str) -> None:
        for pattern in self._served[self._gateways[cluster]]:
            self._remote_routes.insert(pattern, cluster)

    def _remove_patterns(self, cluster: str) -> None:
        for pattern in self._served[self._gateways[cluster]]:
            self._remote_routes.remove(pattern, cluster)


def _is_pattern(value: Any) -> bool:
    return isinstance(value, bytes) and valid_subject(value)
