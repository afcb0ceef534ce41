"""The way from a node to a simulated client: bytes in order, a little late, or stuck while nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.server.connection import Connection

if TYPE_CHECKING:
    from node.simulator.sim_client import SimClient
    from node.simulator.sim_node import SimNode

DELAY_S = (0.0002, 0.002)
"""How long bytes take, either way."""


class Wire:
    """Moves what a node writes to a client."""

    connection: Connection

    def __init__(self, client: SimClient, node: SimNode, session: int) -> None:
        self._client = client
        self._node = node
        self._session = session
        self._scheduled = False
        self._at_s = 0.0

    @property
    def _current(self) -> bool:
        return self._client._session == self._session and self._client._connection is not None

    def output(self) -> None:
        """See `connection.Driver`."""
        world = self._client._world
        if self.connection.closed:
            world.after(0.001, lambda: self._client.lost(self._session))
        elif not self._scheduled:
            self._scheduled = True
            world.after(0.0, self._turn)

    def _turn(self) -> None:
        self._node.now_or_when_resumed(self._write)

    def _write(self) -> None:
        self._scheduled = False
        client, world = self._client, self._client._world
        connection = self.connection
        if connection.closed:
            return
        if self._current and not client.reading:
            # The sockets between them are full.
            self._scheduled = True
            world.after(0.01, self._turn)
            return
        data = b"".join(connection.take())
        connection.sent(len(data))
        if self._current:
            self._at_s = max(self._at_s + 1e-7, world.now + client._rng.uniform(*DELAY_S))
            world.after(self._at_s - world.now, lambda: client.arrived(self._session, data))

    def input(self) -> None:
        """See `connection.Driver`: what came while reading was stopped has been kept."""
