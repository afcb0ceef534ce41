"""What a node has in the way of links to its peers: one for plain NATS traffic, or none at all."""

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
        """Nobody will ever call."""

    def send(self, peer: str, link: str, value: Any) -> bool:
        """There is nobody."""
        return False

    def queued_bytes(self, peer: str, link: str) -> int:
        """Nothing waits."""
        return 0

    def send_encoded(self, peer: str, link: str, frame: bytes) -> bool:
        """There is nobody."""
        return False

    def is_up(self, peer: str, link: str) -> bool:
        """There is nobody."""
        return False

    def drop(self, peer: str, link: str, reason: str) -> None:
        """There is nobody."""

    def connections(self, link: str) -> list[Any]:
        """There are none."""
        return []

    def serve_snapshots(self, serve: Any) -> None:
        """Nobody will ever need one."""

    def serve_remote_route(self, serve: Any) -> None:
        """Nobody can dial this node."""

    def serve_joiners(self, serve: Any) -> None:
        """Nobody can dial this node."""

    def open_snapshot(self, peer: str) -> Any:
        """There is nobody to need one."""
        raise UnavailableError(f"{peer} is no member")

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing to do."""
        task_status.started()
