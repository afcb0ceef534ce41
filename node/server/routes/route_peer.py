"""A linked routing peer, and the listener for the events of routing peers."""

from __future__ import annotations

from typing import Any, Protocol

from node.config.values import Address
from node.protocol.peer import encode_frame
from node.raft.connection import Connection
from node.raft.links import Hello, Limits

SOFT_BYTES = 1024 * 1024
"""Bytes queued to one peer above which deliveries wait."""

UNRESPONSIVE_MAX = 5
"""Closes the link after so many checks in a row without bytes from the peer."""


class Peer:
    """A routing peer, while it is linked.

    ``replica`` and ``effect_executor`` use it like a client connection: it may be not writable, and reading
    is paused while this node has too many unapplied requests.
    """

    def __init__(self, key: str, connection: Connection, limits: Limits) -> None:
        self.key = key
        self.connection = connection
        self.epoch = -connection.number
        """Negative, so it differs from every client's epoch."""
        self.subscriptions: dict[bytes, Any] = {}
        """Always empty: its clients' subscriptions are exchanged as interest."""
        self._limits = limits
        self._bytes_received = 0
        self._unresponsive = 0

    @property
    def written(self) -> int:
        """0, see `delivery_progress`: a delivery counts as written when it is queued."""
        return 0

    @property
    def outbox_bytes(self) -> int:
        return 0

    @property
    def hello(self) -> Hello:
        return self.connection.hello

    @property
    def closed(self) -> bool:
        return self.connection.closed is not None

    @property
    def writable(self) -> bool:
        return not self.closed and self.connection.queued_bytes < SOFT_BYTES

    def send(self, value: Any) -> None:
        """Queue a frame. Closes the link if too many bytes are queued."""
        self.connection.push(encode_frame(value), self._limits.outbox_bytes_max)

    def watch(self) -> None:
        """Send a sign of life, and close the link if the peer has sent nothing for too long."""
        self.send(["alive"])
        received = self.connection.counted.in_bytes
        is_unresponsive = received == self._bytes_received and not self.connection.is_paused
        self._unresponsive = self._unresponsive + 1 if is_unresponsive else 0
        self._bytes_received = received
        if self._unresponsive >= UNRESPONSIVE_MAX:
            self.connection.close("the peer no longer sends anything")

    def pause_reading(self) -> None:
        """Stop reading; further bytes stay in the socket (R21)."""
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        self.connection.resume_reading()


class Listener(Protocol):
    """Receives the events of routing peers. Called on the event loop; must not wait."""

    def up(self, peer: Peer) -> None:
        """The link is up, in both directions."""

    def down(self, peer: Peer) -> None:
        """The link is down; messages in transit are lost."""

    def frames(self, peer: Peer, values: list[Any]) -> None:
        """All frames of one read have arrived.

        Raises:
            RemoteProtocolError: the peer broke its protocol; the link is closed.
        """

    def drained(self, peer: Peer) -> None:
        """The link is writable again."""

    def member(self, name: str, address: Address) -> None:
        """A member of this cluster was found at this address."""
