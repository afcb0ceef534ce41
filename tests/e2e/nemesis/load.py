"""The clients of a run: while nodes are hurt they publish, receive, forget acks, die and are replaced."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import trio
from e2e.external_cluster import ExternalCluster
from e2e.harness import Cluster
from e2e.load import abandoned
from e2e.nemesis.faults import leaves
from e2e.nemesis.history import WHOEVER_LEADS, Cursor, History

from node.client.streaming import Client, Message, connect
from node.demo.history import Ack, Delivery, Link
from node.errors import RefusedError, UnavailableError
from node.protocol.positions import StartPosition

CHANNELS = ("orders", "stock.eu", "audit")
PUBLISHERS = 3
RATE = 50  # publishes a second and publisher
ACK_WAIT_S = 2
ALONE_ACK_WAIT_S = 6
"""AckWait of subscriptions outside queue groups: longer than `history.PROMPT_S` times the greatest factor,
so that a message which waited for it is late (`pace.py`)."""
HELD = 0.10  # of the messages are acknowledged late
FORGOTTEN = 0.03  # not at all, so they come again
HELD_MAX_S = 1.5
MEMBER_LIFE_S = (4.0, 12.0)
TRY_AGAIN_S = 0.2
IN_FLIGHT_MAX = 4000


@dataclass(slots=True)
class Linked:
    """A client whose connections are noted."""

    client: Client
    link: Link


class Load:
    """All clients of one run.

    Args:
        seed: decides who forgets what, and who dies when.
    """

    def __init__(self, cluster: Cluster, history: History, seed: int, note: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._history = history
        self._note = note
        self._chance = random.Random(seed)
        own = not isinstance(cluster, ExternalCluster)
        self._nodes = {cluster.address(name): name if own else WHOEVER_LEADS for name in cluster.names}
        self._numbers = itertools.count(1)
        self._calm = trio.Event()
        self.is_calm = False
        """Everything is acknowledged at once, and nobody dies any more."""
        self._nursery: trio.Nursery

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled. Started when all have subscribed."""
        async with trio.open_nursery() as self._nursery:
            for channel in CHANNELS:
                await self._nursery.start(self._single, channel, "")
                await self._nursery.start(self._single, channel, "d")
                for number in range(2):
                    await self._nursery.start(
                        self._member, channel, "", f"{channel.replace('.', '-')}-q{number}"
                    )
                self._nursery.start_soon(self._mortals, channel, "")
            for number in range(2):
                await self._nursery.start(self._member, CHANNELS[0], "dq", f"{CHANNELS[0]}-dq{number}")
            self._nursery.start_soon(self._mortals, CHANNELS[0], "dq")
            for number in range(PUBLISHERS):
                self._nursery.start_soon(self._publisher, f"p{number}")
            task_status.started()

    def calm(self) -> None:
        """No more publishes, forgotten acks and deaths: what is there is to be delivered."""
        self.is_calm = True
        self._calm.set()

    # --- links ------------------------------------------------------------------------------------

    def _linked(self, client: Client, lost: Callable[[], None] | None = None) -> Linked:
        numbers = itertools.count(1)
        linked = Linked(client, self._link(client, 0))

        def made() -> None:
            linked.link = self._link(client, next(numbers))
            self._history.made_s[linked.link] = trio.current_time()

        def broke() -> None:
            self._history.broken_s[linked.link] = trio.current_time()
            if lost is not None:
                lost()

        client.nats.on_connect, client.nats.on_disconnect = made, broke
        return linked

    def _link(self, client: Client, number: int) -> Link:
        server = client.nats.server
        node = "" if server is None else self._nodes[f"{server.host}:{server.port}"]  # "": broken by now
        return Link(client.client_id, number, node)

    async def _watch(self, client: Client) -> None:
        await client.ended.wait()
        self._history.broke(trio.current_time(), "session", f"{client.client_id}: {client.lost}")

    # --- publishers -------------------------------------------------------------------------------

    async def _publisher(self, name: str) -> None:
        async with (
            connect(self._cluster.addresses(), self._cluster.cluster_id, name, attempts_s=30) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._watch, client)
            self._linked(client, lambda: client.forget_unanswered() and None)
            await self._publish(name, client)
            await trio.sleep_forever()  # for the answers that are still to come

    async def _publish(self, name: str, client: Client) -> None:
        due_s = trio.current_time()
        for number in itertools.count(1):
            due_s = max(due_s + 1 / RATE, trio.current_time() - 0.1)
            await trio.sleep_until(due_s)
            if self.is_calm:
                return
            if client.nats.connected.is_set() and client.unanswered < IN_FLIGHT_MAX:
                self._begin(client, CHANNELS[number % len(CHANNELS)], f"{name}-{number}")

    def _begin(self, client: Client, channel: str, message: str) -> None:
        def answered(error: str) -> None:
            self._history.answered(channel, message, error, trio.current_time())

        self._history.published_s[message] = trio.current_time()
        client.publish_async(channel, message.encode(), answered)

    async def probe(self, channel: str) -> str:
        """Publish and wait for the acknowledgement; the message. Raises UnavailableError, RefusedError."""
        name = f"probe{next(self._numbers)}"
        async with connect(self._cluster.addresses(), self._cluster.cluster_id, name) as client:
            self._history.published_s[name] = trio.current_time()
            await client.publish(channel, name.encode())
            self._history.answered(channel, name, "", trio.current_time())
        return name

    # --- subscribers ------------------------------------------------------------------------------

    async def _single(self, channel: str, durable: str, task_status: trio.TaskStatus[None]) -> None:
        """A plain or durable subscription."""
        name = f"{channel.replace('.', '-')}-{durable or 'plain'}"
        cursor = self._history.cursor(name, channel, ALONE_ACK_WAIT_S)
        async with (
            connect(self._cluster.addresses(), self._cluster.cluster_id, name) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._watch, client)
            await self._consume(client, cursor, nursery, durable=durable)
            task_status.started()
            await self._until_the_end(name)

    async def _member(
        self, channel: str, durable: str, name: str, task_status: trio.TaskStatus[None]
    ) -> None:
        """A member of a queue group that lives to the end."""
        cursor = self._history.cursor(f"{channel}-{durable}group", channel, ACK_WAIT_S, is_group=True)
        async with (
            connect(self._cluster.addresses(), self._cluster.cluster_id, name) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._watch, client)
            await self._consume(client, cursor, nursery, durable=durable, queue="group")
            task_status.started()
            await self._until_the_end(name)

    async def _until_the_end(self, name: str) -> None:
        """Note when the run ends: the client is closed then, and what it holds goes to others at once."""
        try:
            await trio.sleep_forever()
        finally:
            self._history.gone_s[name] = trio.current_time()

    async def _mortals(self, channel: str, durable: str) -> None:
        """One more member of a group, killed after a while, and the next in its place."""
        cursor = self._history.cursor(f"{channel}-{durable}group", channel, ACK_WAIT_S, is_group=True)
        while not self.is_calm:
            name = f"mortal{next(self._numbers)}"
            try:
                async with (
                    abandoned(self._cluster.addresses(), self._cluster.cluster_id, name) as client,
                    trio.open_nursery() as nursery,
                ):
                    await self._consume(client, cursor, nursery, durable=durable, queue="group")
                    with trio.move_on_after(self._chance.uniform(*MEMBER_LIFE_S)):
                        await self._calm.wait()
                    nursery.cancel_scope.cancel()
            except* (UnavailableError, RefusedError) as errors:
                self._note(f"{name}: {', '.join(str(error) for error in leaves(errors))}")
                await trio.sleep(TRY_AGAIN_S)
            self._history.gone_s[name] = trio.current_time()

    async def _consume(
        self, client: Client, cursor: Cursor, nursery: trio.Nursery, *, durable: str = "", queue: str = ""
    ) -> None:
        linked = self._linked(client)

        def take(message: Message) -> None:
            delivery = Delivery(
                message.received_s,
                client.client_id,
                linked.link,
                message.redelivery_count,
                message.redelivered,
            )
            self._history.received(cursor, message.seq, message.data.decode(), delivery)
            chance = self._chance.random()
            if self.is_calm or chance > HELD + FORGOTTEN:
                self._ack(cursor, linked, message)
            elif chance > FORGOTTEN:
                nursery.start_soon(self._ack_later, cursor, linked, message)

        await client.subscribe(
            cursor.channel,
            take,
            queue=queue,
            durable=durable,
            start=StartPosition.FIRST,
            ack_wait_s=int(cursor.ack_wait_s),
            manual_ack=True,
        )

    def _ack(self, cursor: Cursor, linked: Linked, message: Message) -> None:
        if linked.client.nats.connected.is_set():
            message.ack()
            ack = Ack(trio.current_time(), linked.client.client_id, linked.link)
            cursor.events[message.seq].append(ack)

    async def _ack_later(self, cursor: Cursor, linked: Linked, message: Message) -> None:
        await trio.sleep(self._chance.uniform(0, HELD_MAX_S))
        self._ack(cursor, linked, message)
