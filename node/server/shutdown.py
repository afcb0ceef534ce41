"""How a node stops: on a signal or after its removal, at once or slowly, in steps and with a deadline.

Leadership is transferred first, so that no election is needed. Clients get the addresses of the other nodes.
Then the node reads nothing more from clients until every request that it read is answered. Then it drains
their connections: it ends its half, and requests that a client sends until it notices are still carried out.
Their answers reach the client at the node it connects to next (``moving``); if there is no other node, the
requests are refused. A last checkpoint makes the next start short. Steps that take too long are skipped: they
are not needed for safety, because a killed node loses nothing either.
"""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Final

import trio

from node.raft.links import ROUTE
from node.server import logs
from node.server.clients import DRAIN_QUIET_S, LAST_QUIET_S
from node.server.reload import reload
from node.units import SECOND

if TYPE_CHECKING:
    from node.server.external_nats.link import ExternalNats
    from node.server.node import Node

log = logging.getLogger("stanchion.node")

HAND_OVER_S: Final = 1.0
"""How long a stopping leader waits for a follower that has all entries."""
ANSWER_S: Final = 1.0
"""Maximum time to answer requests that were read from clients, before their connections are drained."""
MOVE_S: Final = 3.0
"""How long answers wait for clients that move to other nodes. Some client libraries wait 2 s before they
reconnect."""
CHECKPOINT_S: Final = 0.5
"""The part of ``LEAVE_S`` that is reserved for the last checkpoint."""
LEAVE_S: Final = 5.0
"""A node that was asked to stop ends after this time at the latest."""
POLL_S: Final = 0.001
"""Time between two checks whether everything is answered."""


class Shutdown:
    """Stops one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stop = trio.Event()
        self._slowly = trio.Event()
        self._clients_gone = trio.Event()
        self._clients_gone.set()
        self.begun = False
        """True if the node was asked to stop."""
        self.status = 0
        """The exit code."""

    def at_once(self) -> None:
        """Stop now, in steps, without the slow phase of a lame duck."""
        self.begun = True
        self._stop.set()

    async def serve_clients(self, task_status: trio.TaskStatus[int]) -> None:
        """Run the client listener and connections. A stopping node waits for their end."""
        self._clients_gone = trio.Event()
        try:
            await self._node.clients.run(task_status=task_status)
        finally:
            self._clients_gone.set()

    async def heed_signals(self) -> None:
        """Handle signals until cancelled."""
        ends = (signal.SIGTERM, signal.SIGINT)
        others = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        with trio.open_signal_receiver(*ends, *others) as received:
            for number in self._node.launch.early_signals():
                await self._heed(number)
            async for number in received:
                await self._heed(number)

    async def _heed(self, number: int) -> None:
        name = signal.Signals(number).name
        if number in (signal.SIGTERM, signal.SIGINT):
            log.info("%s: stopping", name)
            self.status = self._node.launch.terminated_status if number == signal.SIGTERM else 0
            self.at_once()
        elif number == signal.SIGHUP:
            await reload(self._node)
        elif number == signal.SIGUSR2:
            log.info("%s: stopping slowly (lame duck)", name)
            self.begun = True
            self._slowly.set()
        else:
            logs.reopen()
            log.info("%s: log file reopened", name)

    async def stop_when_asked(self, scope: trio.CancelScope) -> None:
        """Wait until the node is asked to stop, stop it, and cancel ``scope``."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_slowly)
            await self._stop.wait()
            nursery.cancel_scope.cancel()
        node = self._node
        with trio.move_on_after(LEAVE_S):
            with trio.move_on_after(LEAVE_S - CHECKPOINT_S):
                await self._hand_over()
                if node.external_nats is not None:
                    await self._leave_external(node.external_nats)
                await self._leave_clients()
            if node.takes_part:
                await node.checkpointer.checkpoint()
        log.info("stopped")
        scope.cancel()

    async def _leave_external(self, external_nats: ExternalNats) -> None:
        """Answer the requests that arrived through the external NATS server, and disconnect from it."""
        if not self._node.is_alone:
            with trio.move_on_after(ANSWER_S):
                await external_nats.drained()
                await self._answered()
        await external_nats.stop()

    async def _leave_clients(self) -> None:
        """Answer clients' requests, end their connections, and wait until later answers have reached them."""
        node = self._node
        moving = self._others_take_over
        node.clients.leave(node.other_addresses())
        with trio.move_on_after(ANSWER_S):
            await node.clients.quiesce()
            if not moving:
                node.replica.stop_requests(others_take_over=False)
            await self._answered()
        if moving:
            node.replica.stop_requests(others_take_over=True)
        node.clients.drain_all("this node stops", quiet_s=DRAIN_QUIET_S if moving else LAST_QUIET_S)
        with trio.move_on_after(MOVE_S):
            await self._clients_gone.wait()
            await self._answered()
            # There is no event to wait for: neither for interest of other nodes nor for finished writes.
            while self._undelivered or self._unwritten:  # noqa: ASYNC110
                await trio.sleep(POLL_S)
        if self._undelivered:
            log.warning(
                "%d answers were not delivered: their clients did not connect to another node within %g s",
                self._undelivered, MOVE_S,
            )  # fmt: skip

    @property
    def _others_take_over(self) -> bool:
        """Whether clients can move to other nodes, and there is a leader for their requests.

        Clients of an external NATS server stay connected to it.
        """
        node = self._node
        return node.external_nats is None and node.replica.takes_requests and bool(node.other_addresses())

    @property
    def _undelivered(self) -> int:
        moving = self._node.replica.streaming.moving
        return 0 if moving is None else moving.count

    @property
    def _unwritten(self) -> bool:
        """Whether answers to clients of other nodes are still queued on links."""
        return any(link.queued_bytes for link in self._node.transport.connections(ROUTE))

    async def _answered(self) -> None:
        """Wait until every request that was read so far is answered. Returns at once without a leader."""
        replica = self._node.replica
        asked = replica.asked()
        while replica.takes_requests and not replica.is_answered(asked):  # noqa: ASYNC110  # no event of ours
            await trio.sleep(POLL_S)

    async def _answered_in_time(self) -> None:
        with trio.move_on_after(ANSWER_S):
            await self._answered()

    async def _leave_slowly(self) -> None:
        """Stop as a lame duck: transfer leadership, inform clients, and drain them one by one."""
        await self._slowly.wait()
        node = self._node
        with trio.move_on_after(LEAVE_S):
            await self._hand_over()
        if self._others_take_over:
            node.replica.stop_requests(others_take_over=True)
        await node.clients.lame_duck(
            node.other_addresses(),
            answered=self._answered_in_time,
            grace_s=node.config.clients.lame_duck_grace_period_ns / SECOND,
            duration_s=node.config.clients.lame_duck_duration_ns / SECOND,
        )
        self._stop.set()

    async def hand_over(self) -> None:
        """Transfer leadership without stopping. If no follower takes over, this node continues to lead."""
        await self._hand_over()
        if self._node.engine.role == "leader":
            self._node.replica.proposer.resume()

    async def _hand_over(self) -> None:
        """If this node leads, ask a follower to take over and wait until it has."""
        node = self._node
        if node.engine.role != "leader" or len(node.engine.membership.voters) == 1:
            return
        node.replica.proposer.stop()
        with trio.move_on_after(HAND_OVER_S):
            while not node.engine.transfer_leadership():  # noqa: ASYNC110  # acks are no event of ours
                await trio.sleep(0.002)
        with trio.move_on_after(2 * node.config.raft.election_timeout_ns[1] / SECOND):
            await node.until(lambda: node.engine.leader not in {None, node.name})
