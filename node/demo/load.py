"""The load: publishers and subscribers on real sockets, which record what they observe in the history.

Each client is a *station*: one client ID with its connection. It reconnects when its node dies, as any client
of the protocol does, and records when its link breaks. All stations run in this process, so all times are of
one clock.

====================  =======================================================================
publishers            one per node; together `Rates.orders` messages per second, and a few
                      to the channel of the holders
durable               a durable subscription to the orders; acknowledges at once
queue group           three members; each works on an order for a moment, then acknowledges
holders               one per node, with a subscription for each measured AckWait; they
                      acknowledge only redelivered messages
replay                at the end: reads everything again, from the first sequence
====================  =======================================================================
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import trio

from node.client import Client, Message, connect
from node.client.nats import Server
from node.client.streaming import Callback
from node.demo.checker import why
from node.demo.history import Ack, Cursor, Delivery, History, Link
from node.errors import RefusedError, UnavailableError
from node.protocol.positions import StartPosition

ORDERS: Final = "demo.orders"
HELD: Final = "demo.held"
RECEIPTS: Final = "demo.receipts"
"""The channel to which subscribers publish in order to find out what is committed."""

RECEIPT_EVERY_S: Final = 0.1

DURABLE: Final = "orders, durable"
GROUP: Final = "orders, group"

UNANSWERED_MAX: Final = 2000
"""A publisher with this many unanswered publishes pauses."""

PAUSE_S: Final = 0.010
"""Interval of the publishers."""

CONNECT_S: Final = 60.0
"""How long a client tries to connect; long enough for a busy machine."""

SUBSCRIBE_AGAIN_S: Final = 0.1
"""Pause before a client repeats an unanswered subscribe."""

DECLINED: Final = ": nothing was stored or changed; try again"
"""Part of the error of a node that has no leader or is shutting down (R8)."""

MAX_IN_FLIGHT: Final = 4096

ACK_AFTER: Final = {1: 3, 5: 1, 30: 1}
"""By AckWait in seconds: the number of redeliveries after which holders acknowledge."""

OnRedelivery = Callable[[str, str, str, int], None]
"""Called for each redelivery: reason, subscriber, cursor, sequence."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second, and bytes per message."""

    orders: float = 600.0
    held: float = 3.0
    payload: int = 128


@dataclass(slots=True)
class Station:
    """A client that records its connections."""

    client: Client
    history: History
    nodes: dict[int, str]
    """Names of the nodes by their client port."""
    link: Link | None = None

    @property
    def name(self) -> str:
        return self.client.client_id

    def watch(self) -> None:
        """Start recording new and broken connections."""
        self.client.nats.on_connect = self._connected
        self.client.nats.on_disconnect = self._disconnected
        if self.client.nats.connected.is_set():
            self._connected()

    def _connected(self) -> None:
        server = self.client.nats.server
        assert server is not None
        self.link = Link(self.name, self.client.nats.reconnects, self.nodes[server.port])
        self.history.link_made(self.link, trio.current_time())

    def _disconnected(self) -> None:
        if self.link is not None:
            self.history.link_broke(self.link, trio.current_time())
        self.link = None
        self.client.forget_unanswered()


@dataclass(slots=True)
class Counts:
    """Counters for the picture."""

    published: int = 0
    stored: int = 0
    delivered: int = 0
    acked: int = 0


class Load:
    """All clients of the demo.

    Args:
        servers: address for clients, ``host:port``, by name of the node.
        cluster_id: the cluster ID.
        history: records all events.
        on_redelivery: called for every redelivery.
        rng: random sizes and pauses.
    """

    def __init__(
        self,
        servers: dict[str, str],
        cluster_id: str,
        history: History,
        on_redelivery: OnRedelivery,
        rng: random.Random,
        rates: Rates | None = None,
    ) -> None:
        self.history = history
        self.stations: dict[str, Station] = {}
        self.counts = Counts()
        self.last_stored_s = 0.0
        self._servers = servers
        self._names = {int(address.rpartition(":")[2]): name for name, address in servers.items()}
        self._cluster_id = cluster_id
        self._on_redelivery = on_redelivery
        self._rng = rng
        self._rates = rates or Rates()
        self.healthy = set(servers)
        """Nodes that publishers may use; the script removes those that are killed or paused."""
        self._publishing = True
        self._holding = True
        self._release = trio.Event()
        self._members: dict[str, trio.CancelScope] = {}
        self._numbers = count(1)

    # --- stations ---------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Connect and subscribe all stations, then start the publishers."""
        names = list(self._servers)
        durable = self.history.add_cursor(Cursor(DURABLE, ORDERS, 5))
        self.history.add_cursor(Cursor(GROUP, ORDERS, 30, is_group=True))
        await nursery.start(self._durable, "durable", names[0], durable)
        for name in names:
            await self.join(nursery, name)
        for number, name in enumerate(names, 1):
            await nursery.start(self._holder, f"holder-{number}", name)
        for number, name in enumerate(names, 1):
            nursery.start_soon(self._publisher, f"publisher-{number}", name)

    async def join(self, nursery: trio.Nursery, home: str) -> str:
        """Add a member to the queue group, connected to ``home`` at first; return its name."""
        name = f"member-{next(self._numbers)}"
        await nursery.start(self._member, name, home)
        return name

    @property
    def members(self) -> dict[str, str]:
        """The living members of the queue group, and the node each is connected to."""
        return {name: self.node_of(name) for name in self._members}

    def node_of(self, station: str) -> str:
        """Return the node a station is connected to, or an empty text."""
        found = self.stations.get(station)
        return found.link.node if found is not None and found.link is not None else ""

    def kill_member(self, name: str) -> None:
        """End a member's connection without closing its session, as if its process had been killed."""
        station = self.stations[name]
        now = trio.current_time()
        self.history.ended[name] = now
        if station.link is not None:
            self.history.link_broke(station.link, now)
        station.client.lost = "killed"  # prevents the close request
        self._members.pop(name).cancel()

    def stop_publishing(self) -> None:
        self._publishing = False

    def release_held(self) -> None:
        """Make holders acknowledge their messages, and all further ones."""
        self._holding = False
        self._release.set()

    @property
    def unanswered(self) -> int:
        """Publishes that wait for their acknowledgement."""
        return sum(station.client.unanswered for station in self.stations.values())

    @asynccontextmanager
    async def _station(self, name: str, home: str) -> AsyncIterator[Station]:
        # Start with one address so that clients are spread; INFO has the other addresses.
        async with connect([self._servers[home]], self._cluster_id, name, attempts_s=CONNECT_S) as client:
            station = self.stations[name] = Station(client, self.history, self._names)
            station.watch()
            yield station

    # --- publishing -------------------------------------------------------------------------------

    async def _publisher(self, name: str, home: str) -> None:
        share = 1 / len(self._servers)
        async with self._station(name, home) as station:
            owed_orders, owed_held = 0.0, self._rng.random()
            before = trio.current_time()
            while self._publishing:
                await trio.sleep(PAUSE_S)
                if self._may_go_home(station, home):
                    if not station.client.unanswered:
                        station.client.nats.move(Server.parse(self._servers[home]))
                    continue
                now = trio.current_time()
                # After a delay, a publisher does not catch up in one burst.
                passed, before = min(now - before, 10 * PAUSE_S), now
                owed_orders += passed * self._rates.orders * share
                owed_held += passed * self._rates.held * share
                while owed_orders >= 1:
                    owed_orders -= 1
                    self._publish(station, ORDERS)
                while owed_held >= 1:
                    owed_held -= 1
                    self._publish(station, HELD)
            await trio.sleep_forever()

    def _may_go_home(self, station: Station, home: str) -> bool:
        """Return whether to reconnect to the own node: with all publishers at one node, a pause stops all."""
        return station.link is not None and station.link.node != home and home in self.healthy

    def _publish(self, station: Station, channel: str) -> None:
        if station.link is None or station.client.unanswered >= UNANSWERED_MAX:
            return
        self.counts.published += 1
        message = f"{station.name}.{self.counts.published}"
        size = self._rng.randint(self._rates.payload // 2, self._rates.payload * 3 // 2)

        def answered(error: str) -> None:
            self.last_stored_s = trio.current_time()
            self.counts.stored += not error
            if _is_declined(error):
                self.history.was_declined(channel, message)
            else:
                self.history.answered(channel, message, error, self.last_stored_s)

        self.history.publishing(channel, message, trio.current_time())
        try:
            station.client.publish_async(channel, message.encode().ljust(size, b" "), answered)
        except UnavailableError:
            return  # the connection broke just now

    # --- receiving --------------------------------------------------------------------------------

    async def _subscribe(self, station: Station, channel: str, callback: Callback, **options: Any) -> None:
        """Subscribe; repeat if there is no answer or no leader, as applications do.

        The caller bounds the time.
        """
        while True:
            try:
                await station.client.subscribe(channel, callback, **options)
            except UnavailableError:
                await trio.sleep(SUBSCRIBE_AGAIN_S)
            except RefusedError as error:
                if not _is_declined(str(error)):
                    raise
                await trio.sleep(SUBSCRIBE_AGAIN_S)
            else:
                return

    def _received(self, station: Station, cursor: Cursor, message: Message) -> Delivery:
        link = station.link
        assert link is not None
        delivery = Delivery(
            message.received_s, station.name, link, message.redelivery_count, message.redelivered
        )
        text = message.data.split(b" ", 1)[0].decode(errors="replace")
        before = self.history.received(cursor, message.seq, text, delivery)
        self.counts.delivered += 1
        if message.redelivered:
            self._on_redelivery(
                why(self.history, cursor, before, delivery), station.name, cursor.name, message.seq
            )
        return delivery

    async def _receipts(self, station: Station) -> None:
        """Publish one receipt after another: an answer shows that everything written before is committed."""
        while True:
            await trio.sleep(RECEIPT_EVERY_S)
            link = station.link
            if link is None:
                continue
            sent_s = trio.current_time()
            try:
                await station.client.publish(RECEIPTS, b"")
            except UnavailableError:
                continue  # the connection broke, or there is no leader: no receipt
            except RefusedError as error:
                if not _is_declined(str(error)):
                    self.history.refused.append(f"{RECEIPTS}: {error}")
                continue
            if station.link == link:
                self.history.receipt(link, sent_s, trio.current_time())

    def _ack(self, station: Station, cursor: Cursor, message: Message) -> None:
        """Acknowledge if there is a connection; otherwise the message is redelivered."""
        if station.link is None:
            return
        self.history.acked(cursor, message.seq, Ack(trio.current_time(), station.name, station.link))
        self.counts.acked += 1
        message.ack()

    async def _durable(
        self, name: str, home: str, cursor: Cursor, *, task_status: trio.TaskStatus[None]
    ) -> None:
        async with self._station(name, home) as station:

            def received(message: Message) -> None:
                self._received(station, cursor, message)
                self._ack(station, cursor, message)

            await self._subscribe(
                station,
                cursor.channel,
                received,
                durable="demo",
                start=StartPosition.FIRST,
                max_in_flight=MAX_IN_FLIGHT,
                ack_wait_s=int(cursor.ack_wait_s),
                manual_ack=True,
            )
            task_status.started()
            await self._receipts(station)

    async def _member(self, name: str, home: str, *, task_status: trio.TaskStatus[None]) -> None:
        cursor = self.history.cursors[GROUP]
        takes_s = self._rng.uniform(0.15, 0.35)
        with trio.CancelScope() as scope:
            async with self._station(name, home) as station:
                self._members[name] = scope
                work = Work(lambda message: self._ack(station, cursor, message))

                def received(message: Message) -> None:
                    self._received(station, cursor, message)
                    work.add(message.received_s + takes_s, message)

                await self._subscribe(
                    station,
                    cursor.channel,
                    received,
                    queue="demo",
                    start=StartPosition.FIRST,
                    max_in_flight=MAX_IN_FLIGHT,
                    ack_wait_s=int(cursor.ack_wait_s),
                    manual_ack=True,
                )
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receipts, station)
                    await work.run()

    async def _holder(self, name: str, home: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._station(name, home) as station, trio.open_nursery() as nursery:
            for ack_wait_s, resends in ACK_AFTER.items():
                cursor = self.history.add_cursor(
                    Cursor(f"{name}, {ack_wait_s} s", HELD, ack_wait_s, is_measured=True)
                )
                await self._hold(nursery, station, cursor, resends)
            nursery.start_soon(self._receipts, station)
            task_status.started()

    async def _hold(self, nursery: trio.Nursery, station: Station, cursor: Cursor, resends: int) -> None:
        held: dict[int, Message] = {}

        def received(message: Message) -> None:
            self._received(station, cursor, message)
            if self._holding and message.redelivery_count < resends:
                held[message.seq] = message
            else:
                held.pop(message.seq, None)
                self._ack(station, cursor, message)

        async def release_held() -> None:
            await self._release.wait()
            for message in held.values():
                self._ack(station, cursor, message)

        await self._subscribe(
            station,
            cursor.channel,
            received,
            start=StartPosition.FIRST,
            max_in_flight=MAX_IN_FLIGHT,
            ack_wait_s=int(cursor.ack_wait_s),
            manual_ack=True,
        )
        nursery.start_soon(release_held)

    # --- the end ----------------------------------------------------------------------------------

    async def replay(self, home: str, lasts: dict[str, int]) -> None:
        """Read everything again from the first sequence. The caller bounds the time.

        Args:
            home: the node to read from.
            lasts: the last sequence of each channel.
        """
        async with self._station("replay", home) as station:
            for channel, last in lasts.items():
                await self._replay_channel(station, channel, last)

    async def _replay_channel(self, station: Station, channel: str, last: int) -> None:
        cursor = self.history.add_cursor(Cursor(f"replay of {channel}", channel, 30))
        done = trio.Event()

        def received(message: Message) -> None:
            self._received(station, cursor, message)
            self._ack(station, cursor, message)
            if len(cursor.events) >= last:
                done.set()

        await self._subscribe(
            station,
            channel,
            received,
            start=StartPosition.FIRST,
            max_in_flight=MAX_IN_FLIGHT,
            manual_ack=True,
        )
        if last:
            await done.wait()

    def missing(self, lasts: dict[str, int]) -> int:
        """Return how many sequences, up to the last of each channel, have not arrived at a cursor yet."""
        cursors = self.history.cursors.values()
        return sum(max(0, lasts.get(cursor.channel, 0) - len(cursor.events)) for cursor in cursors)


def _is_declined(error: str) -> bool:
    """Return whether a node refused a request because there was no leader: nothing was stored."""
    return DECLINED in error


@dataclass(slots=True)
class Work:
    """Messages that are being worked on; they are acknowledged when the work is done."""

    done: Callable[[Message], None]
    _queue: deque[tuple[float, Message]] = field(default_factory=deque)
    _wake: trio.Event = field(default_factory=trio.Event)

    def add(self, until_s: float, message: Message) -> None:
        """Add a message. All take equally long, so they are done in the order of arrival."""
        self._queue.append((until_s, message))
        self._wake.set()

    async def run(self) -> None:
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep_until(self._queue[0][0])
            now = trio.current_time()
            while self._queue and self._queue[0][0] <= now:
                self.done(self._queue.popleft()[1])
