"""Checks that every decided delivery reaches its client's socket soon, whichever node crashes (R10, R15).

A delivery may be lost with its node or its connection. When there have been no faults for ``WITHIN_S``, and
the client is connected and reading, each message that the log says was sent must have been written to a
socket of that client: the current one or an earlier one. Without R10 and R15 such a message would wait for
its AckWait, which is longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.protocol.streaming import decode_message
from node.simulator.raft_checks import ViolationError

if TYPE_CHECKING:
    from node.server.connection import Connection
    from node.simulator.cluster import Cluster
    from node.simulator.reference_model import Held
    from node.simulator.sim_client import SimClient

WITHIN_S = 1.0
LOOK_EVERY_S = 0.1

Delivery = tuple[str, int, int]
"""Inbox, sequence, redelivery count."""


class DeliveryChecker:
    """Records what is written to sockets, and checks ten times a second that nothing is missing.

    Args:
        cluster: its reference model says what must be sent.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._handed: dict[Connection, list[Delivery]] = {}
        """The deliveries in a connection's outbox."""
        self._written: set[Delivery] = set()
        self._decided_s: dict[int, float] = {}
        """When an entry was first applied on any node."""
        self._calm_since_s = self._world.now
        self._read_since_s: dict[str, float] = {}
        self._led: tuple[str, int] | None = None
        self._appended = 0
        """The last index of the leader's log at the last check."""
        self._world.after(LOOK_EVERY_S, self._look)

    def decided(self, index: int) -> None:
        """Record that an entry was applied for the first time."""
        self._decided_s[index] = self._world.now

    def handed(self, connection: Connection, subject: bytes, payload: bytes) -> None:
        """Record that a message was put into a connection's outbox."""
        message = decode_message(payload)
        delivery = (subject.decode(), message.seq, message.redelivery_count)
        self._handed.setdefault(connection, []).append(delivery)

    def wrote(self, connection: Connection) -> None:
        """Record that a connection's outbox was written to its socket."""
        self._written.update(self._handed.pop(connection, ()))

    def _look(self) -> None:
        if self._cluster.checker.deliveries is not self:
            return  # the cluster was replaced by a new one
        self._world.after(LOOK_EVERY_S, self._look)
        now = self._world.now
        if not self._is_calm():
            self._calm_since_s = now
        for client in self._cluster.clients:
            node = client.node
            serves = node is not None and node.up and not node.paused and node.replica.caught_up
            if not (serves and client.connected and client.reading and client.subscribed):
                self._read_since_s[client.name] = now
            elif now - self._calm_since_s > WITHIN_S:
                self._check(client)

    def _is_calm(self) -> bool:
        """Return True if one leader keeps leading and committing, and no link, disk or node is slow."""
        nodes = [node for node in self._cluster.nodes if node.up]
        led, appended, self._led = self._led, self._appended, None
        leaders = [node for node in nodes if node.ready]
        if len(leaders) != 1:
            return False
        engine = leaders[0].engine
        self._led, self._appended = (leaders[0].name, engine.term), engine.last_index
        return (
            self._led == led
            and engine.commit_index >= appended  # otherwise no majority has its log
            and self._cluster.network_is_fine
            and not any(node.paused or node.storage.slowness != 1.0 for node in nodes)
        )

    def _check(self, client: SimClient) -> None:
        reference = self._cluster.checker.reference
        inbox = client.seen.inbox
        found = reference.by_inbox.get(inbox)
        state = next((node.state for node in self._cluster.nodes if node.ready), None)
        if found is None or state is None:
            return
        registered = state.clients.get(client.name)
        if registered is None or registered.unresponsive:
            return  # D25: an unresponsive client gets nothing more until it answers
        member, group = found
        since_s = max(self._calm_since_s, client.connected_s, self._read_since_s.get(client.name, 0.0))
        for seq, held in reference.groups[group].held.items():
            if (
                held.holder == member
                and self._is_late(held, since_s)
                and not self._is_written(inbox, seq, held)
            ):
                raise ViolationError(
                    "delivery",
                    f"{client.name} was sent {seq} by entry {held.entry}, no node has written it to a socket",
                )

    def _is_late(self, held: Held, since_s: float) -> bool:
        decided_s = self._decided_s.get(held.entry, self._world.now)
        return self._world.now - max(since_s, decided_s) > WITHIN_S

    def _is_written(self, inbox: str, seq: int, held: Held) -> bool:
        return (inbox, seq, held.deliveries - 1) in self._written
