"""One routing peer, for as long as the link to it stands; and who is told of it."""

from __future__ import annotations

from typing import Any, Protocol

from node.config.values import Address
from node.protocol.peer import encode_frame
from node.raft.connection import Connection
from node.raft.links import Hello, Limits

SOFT_BYTES = 1024 * 1024
"""Queued to one peer from which on deliveries wait."""

UNRESPONSIVE_MAX = 5
"""So many times in a row nothing may have come from a peer when it is looked at."""


class Peer:
    """The link to one routing peer, for as long as it stands.

    To ``replica`` and ``execute`` it is a connection as a client's is: it has room or hasn't, and reading can
    be paused while this node has too much unapplied.
    """

    def __init__(self, key: str, connection: Connection, limits: Limits) -> None:
        self.key = key
        self.connection = connection
        self.epoch = -connection.number
        """No client's."""
        self.subscriptions: dict[bytes, Any] = {}
        """None: what its clients listen to is in the exchange of interest."""
        self._limits = limits
        self._bytes_heard = 0
        self._unresponsive = 0

    @property
    def written(self) -> int:
        """See `delivery_progress`: what is handed over counts as written."""
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
        """Queue a frame; too much, and the link is closed."""
        self.connection.push(encode_frame(value), self._limits.outbox_bytes_max)

    def watch(self) -> None:
        """Say that this node lives, and give the peer up if it has said nothing for long."""
        self.send(["alive"])
        received = self.connection.counted.in_bytes
        is_unresponsive = received == self._bytes_heard and not self.connection.is_paused
        self._unresponsive = self._unresponsive + 1 if is_unresponsive else 0
        self._bytes_heard = received
        if self._unresponsive >= UNRESPONSIVE_MAX:
            self.connection.close("it says nothing any more")

    def pause_reading(self) -> None:
        """Leave further bytes in the socket (R21)."""
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self.connection.resume_reading()


class Listener(Protocol):
    """Who is told of routing peers. Called on the loop; must not wait."""

    def up(self, peer: Peer) -> None:
        """The link is there, both ways."""

    def down(self, peer: Peer) -> None:
        """It is gone, and what was on its way is lost."""

    def frames(self, peer: Peer, values: list[Any]) -> None:
        """Everything that one read brought.

        Raises:
            RemoteProtocolError: the peer broke its protocol; the link is closed.
        """

    def drained(self, peer: Peer) -> None:
        """There is room again."""

    def member(self, name: str, address: Address) -> None:
        """A member of this cluster is to be found at this address."""
