"""The route link to peers, for plain NATS traffic, and the transport of a node without peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from node.errors import UnavailableError
from node.raft.links import LinkListener
from node.server.routing import Routing


class RouteLink(LinkListener):
    """The route link: interest and plain NATS traffic between nodes."""

    def __init__(self, routing: Routing, announce: Callable[[], None]) -> None:
        self._routing = routing
        self._announce = announce

    def on_up(self, peer: str, link: str, hello: Mapping[str, Any]) -> None:
        """See `LinkListener`."""
        self._routing.peer_up(peer)
        self._announce()

    def on_down(self, peer: str, link: str) -> None:
        """See `LinkListener`."""
        self._routing.peer_down(peer)

    def on_frames(self, peer: str, link: str, values: list[Any]) -> None:
        """See `LinkListener`."""
        for value in values:
            self._routing.peer_frame(peer, value)


class Alone:
    """The transport of a node without peers."""

    def attach(self, link: str, listener: LinkListener) -> None:
        """Do nothing: no event will come."""

    def send(self, peer: str, link: str, value: Any) -> bool:
        """Return False: there are no peers."""
        return False

    def queued_bytes(self, peer: str, link: str) -> int:
        """Return 0: there are no peers."""
        return 0

    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool:
        """Return False: there are no peers."""
        return False

    def is_up(self, peer: str, link: str) -> bool:
        """Return False: there are no peers."""
        return False

    def drop(self, peer: str, link: str, reason: str) -> None:
        """Do nothing: there are no links."""

    def connections(self, link: str) -> list[Any]:
        """Return an empty list."""
        return []

    def serve_snapshots(self, serve: Any) -> None:
        """Do nothing: no peer will request a snapshot."""

    def serve_remote_route(self, serve: Any) -> None:
        """Do nothing: no node can dial this one."""

    def serve_joiners(self, serve: Any) -> None:
        """Do nothing: no node can dial this one."""

    def open_snapshot(self, peer: str) -> Any:
        """Raise `UnavailableError`: there are no peers."""
        raise UnavailableError(f"{peer} is no member")

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Return at once."""
        task_status.started()
