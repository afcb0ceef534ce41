"""A simulated client's socket: bytes in order, a little late, or stuck while nobody reads."""

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
"""How long bytes take, either way."""

READ_BYTES = 4096
"""A node reads so much at a time; in production 256 KiB."""


class Owner(Protocol):
    """A client, as far as its connection goes."""

    @property
    def reading(self) -> bool:
        """Whether it takes what comes."""

    def holds(self, session: int) -> bool:
        """Whether this is its present connection."""

    def lost(self, session: int) -> None:
        """The connection has ended."""

    def arrived(self, session: int, data: bytes) -> None:
        """Bytes of the node have come."""


class Wire:
    """Moves what a node writes to a client, and what that has sent, as `node.server.clients` does."""

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
            # The sockets between them are full.
            self._scheduled = True
            world.after(0.01, self._turn)
            return
        data = b"".join(connection.take())
        connection.sent(len(data))
        if current:
            self._at_s = max(self._at_s + 1e-7, world.now + self._rng.uniform(*DELAY_S))
            world.after(self._at_s - world.now, lambda: client.arrived(self._session, data))

    def input(self) -> None:
        """See `connection.Driver`: it reads again."""
        self._node.in_next_step(self._read)

    def arrive(self, data: bytes, read: Callable[[SimNode], None] | None) -> None:
        """Bytes of the client have come to the node; ``read`` is told when that has read them."""
        idle = not self._unread
        pieces = [data[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES)]
        self._unread += [(piece, None) for piece in pieces[:-1]]
        self._unread.append((pieces[-1], read))
        if idle:
            self._node.now_or_when_resumed(self._read)

    def _read(self) -> None:
        """One read: what has come, up to a bound. The rest has its turn after what others want."""
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
