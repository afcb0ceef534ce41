"""Serve clients while this node has no leader (R25).

The node goes on as a NATS server: connections and port stay open, and messages that are not streaming
requests are routed as usual. Streaming requests are refused (R8). After ``ALONE_S``:

- Clients are sent an INFO in lame duck mode with the addresses of the other nodes. Some clients move by
  themselves.
- The connections of streaming clients are drained if another node may serve them: the client libraries then
  connect to the next node. To find out, this node connects to the client ports of the others: does one
  answer, and is it not in lame duck mode itself? If all refuse the connection, as a machine does whose node
  has ended, no client is sent away. A client that returns is sent away again, after pauses that double.
- A node that has never caught up since its start begins to serve core NATS.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from node.config.values import parse_address

if TYPE_CHECKING:
    from node.server.node import Node

log = logging.getLogger("stanchion.node")

ALONE_S: Final = 5.0
"""After this time without a leader, a node of a cluster sends its clients to other nodes."""
LOOK_S: Final = 0.25
"""Interval of the checks whether there is a leader."""
ANSWER_S: Final = 1.0
"""Maximum time for another node to answer with its INFO."""
INFO_BYTES_MAX: Final = 4096
PAUSE_S: Final = 5.0
"""Time between the first two times that streaming clients are sent away."""
PAUSE_S_MAX: Final = 60.0


class Leaderless:
    """Watches whether there is a leader, and sends clients to other nodes if there is none.

    Args:
        node: the node whose clients are served.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.alone = False
        """True when there has been no leader for ``ALONE_S``."""
        self._next_s = 0.0
        self._pause_s = PAUSE_S

    async def run(self) -> None:
        """Watch until cancelled. Returns at once on a single node."""
        if self._node.is_alone:
            return
        while True:
            since_s = self._node.replica.leaderless_since_s
            now_s = self._node.monotonic_s()
            alone = since_s is not None and now_s - since_s >= ALONE_S
            if alone and not self.alone:
                self._begin(now_s)
            elif self.alone and not alone:
                self._end()
            if alone and now_s >= self._next_s:
                await self._send_away()
            if self._node.settings_sync.waits and self._node.replica.takes_requests:
                self._node.settings_sync.repeat()
            await trio.sleep(LOOK_S)

    def _begin(self, now_s: float) -> None:
        self.alone = True
        self._next_s, self._pause_s = now_s, PAUSE_S
        log.warning("no leader for %g s: only core NATS is served", ALONE_S)
        self._node.open_core()
        self._node.clients.announce(self._node.other_addresses(), lame_duck=True)

    async def _send_away(self) -> None:
        """Drain the connections of streaming clients if another node may serve them."""
        node = self._node
        self._next_s = node.monotonic_s() + self._pause_s
        if not node.replica.streaming_connections() or not await any_takes_clients(node.other_addresses()):
            return
        if node.replica.leaderless_since_s is None or node.stopping:
            return  # a leader has appeared, or the node is stopping, in the meantime
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        streaming = node.replica.streaming_connections()
        log.warning("no leader: sending %d streaming clients to other nodes", len(streaming))
        for connection in streaming:
            connection.drain("this node has no leader")

    def _end(self) -> None:
        self.alone = False
        log.info("there is a leader again: serving streaming clients")
        self._node.announce()


async def any_takes_clients(addresses: Sequence[str]) -> bool:
    """Return True if one of these nodes may serve streaming clients, or can't be asked."""
    found = [False]

    async def ask(address: str) -> None:
        found.append(await may_take_clients(address))

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(ask, address)
    return any(found)


async def may_take_clients(address: str) -> bool:
    """Return True if the node at ``address`` (``host:port``) may serve a client.

    Returns False only if the connection is refused or the node's INFO says lame duck mode. If the node
    doesn't answer, the result is True: clients on other machines may still reach it.
    """
    with trio.move_on_after(ANSWER_S):
        try:
            to = parse_address(address)
            async with await trio.open_tcp_stream(to.host, to.port) as stream:
                line = b""
                while b"\r\n" not in line and len(line) < INFO_BYTES_MAX:
                    data = await stream.receive_some(INFO_BYTES_MAX)
                    if not data:
                        return False
                    line += data
            info = json.loads(line.partition(b" ")[2].partition(b"\r\n")[0])
        except (ConnectionRefusedError, trio.BrokenResourceError):
            return False
        except (OSError, ValueError) as error:
            return not _refused(error)
        return isinstance(info, dict) and not info.get("ldm")
    return True


def _refused(error: Exception) -> bool:
    """Return True if all addresses of a host refused the connection; trio puts their errors into a group."""
    cause = error.__cause__
    errors = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
    return all(isinstance(one, ConnectionRefusedError) for one in errors)
