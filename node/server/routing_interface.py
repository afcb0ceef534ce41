"""The interface of routing for a node's services: of `Routing`, and of `ExternalNatsRouting` in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from node.server import presence, requests, streaming
from node.server.interest import InterestChange
from node.server.subscriptions import Deliverable, LocalSubscription, Receiver


class NodeRouting(requests.Routing, presence.Interest, streaming.Routing, Protocol):
    """Subjects, subscriptions and publishes of one node.

    Each part of a replica declares what it needs in its own protocol. This one combines them and adds what
    the replica itself needs. mypy checks every implementation where a `Replica` is created.
    """

    on_interest_change: Callable[[str, list[InterestChange]], None] | None
    """Called with a node's name and the changes of interest there. The replica sets it."""

    @property
    def sees_connections(self) -> bool:
        """Whether the node knows when a client's connection closes."""

    @property
    def works(self) -> bool:
        """Whether `work` has something to do."""

    def work(self) -> float | None:
        """Do one bounded step. Return the seconds until the next call, None if no more is needed."""

    def flush(self) -> None:
        """Send changes of interest that were collected to the other nodes."""

    def tick(self) -> None:
        """Forget what has expired. The replica calls it once a second."""

    def complete(self, peer: str, /) -> bool:
        """Return True if all interest of another node has arrived since its link came up."""

    def local_receivers(self, inbox: bytes) -> Sequence[Deliverable]:
        """Return the subscriptions at this node to which a delivery to ``inbox`` goes."""

    def matching(self, subject: bytes, /) -> Sequence[LocalSubscription]:
        """Return the clients' subscriptions at this node that match ``subject``."""

    def set_stuck(self, connection: Receiver, stuck: bool, /) -> None:
        """Note that a connection takes no data any more, or does again (R3)."""

    def is_held_up(self, source: Receiver, /) -> bool:
        """Return True if a message that the connection ``source`` published waits for another node."""
