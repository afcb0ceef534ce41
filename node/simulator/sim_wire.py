"""A simulated client's socket: bytes in order with latency, and blocked while the client doesn't read."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from node.server.connection import Connection
from node.simulator.bound_counts import RESTED
from node.simulator.sim_steps import CLIENT_BYTE_S
from node.simulator.world import World

if TYPE_CHECKING:
    from node.simulator.sim_node import SimNode

DELAY_S = (0.0002, 0.002)
"""Latency in each direction."""

READ_BYTES = 4096
"""Maximum size of one read by a node; 256 KiB in production."""


class Owner(Protocol):
    """A client, as its connection uses it."""

    @property
    def reading(self) -> bool:
        """Whether it reads now."""

    def holds(self, session: int) -> bool:
        """Return True if ``session`` is its current connection."""

    def lost(self, session: int) -> None:
        """Handle the end of the connection."""

    def arrived(self, session: int, data: bytes) -> None:
        """Handle bytes from the node."""


class Wire:
    """Transfers bytes between a node and a client in both directions, as `node.server.clients` does."""

    connection: Connection

    def __init__(self, world: World, rng: random.Random, client: Owner, node: SimNode, session: int) -> None:
        self._world = world
        self._rng = rng
        self._client = client
        self._node = node
        self._session = session
        self._scheduled = False
        self._at_s = 0.0
        self._unread: deque[tuple[bytes, Callable[[SimNode], None] | None]] = deque()

    def output(self) -> None:
        """See `connection.Driver`."""
        world = self._world
        if self.connection.closed:
            world.after(0.001, lambda: self._client.lost(self._session))
        elif not self._scheduled:
            self._scheduled = True
            world.after(0.0, self._turn)

    def _turn(self) -> None:
        self._node.now_or_when_resumed(self._write)

    def _write(self) -> None:
        self._scheduled = False
        client, world = self._client, self._world
        current = client.holds(self._session)
        connection = self.connection
        if connection.closed:
            return
        if current and not client.reading:
            # The socket buffers are full.
            self._scheduled = True
            world.after(0.01, self._turn)
            return
        data = b"".join(connection.take())
        connection.sent(len(data))
        if current:
            self._at_s = max(self._at_s + 1e-7, world.now + self._rng.uniform(*DELAY_S))
            world.after(self._at_s - world.now, lambda: client.arrived(self._session, data))

    def input(self) -> None:
        """See `connection.Driver`. Continue reading in the next step."""
        self._node.in_next_step(self._read)

    def arrive(self, data: bytes, read: Callable[[SimNode], None] | None) -> None:
        """Queue bytes from the client; ``read`` is called when the node has read them."""
        idle = not self._unread
        pieces = [data[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES)]
        self._unread += [(piece, None) for piece in pieces[:-1]]
        self._unread.append((pieces[-1], read))
        if idle:
            self._node.now_or_when_resumed(self._read)

    def _read(self) -> None:
        """Read once, up to a bound. The rest is read in a later step, after other work that waits."""
        connection, unread = self.connection, self._unread
        if connection.resting:
            connection.go_on()
        elif connection.reading:
            size = 0
            while unread and size < READ_BYTES and connection.reading and not connection.resting:
                data, read = unread.popleft()
                size += len(data)
                connection.received(data)
                if read is not None and not connection.closed:
                    read(self._node)
            self._node.steps.spend(size * CLIENT_BYTE_S)
        if connection.resting:
            self._node.count(RESTED)
        if connection.closed:
            unread.clear()
        elif connection.resting or (unread and connection.reading):
            self._node.in_next_step(self._read)
