"""Load from our own client, and the checker of what became of it.

Everything is noted with trio's clock, which is the machine's monotonic one: what was published and
when it was acked, what was delivered and when that was acked. `History.check` then demands what a
cluster promises, whatever was killed meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from node.client.nats import Nats, Options, Server
from node.client.streaming import Client, Message, connect
from node.protocol.positions import StartPosition

BURST_S = 0.01
FORGOTTEN_ACK_S = 1.0  # an ack so near to a kill may have died with the node it was sent to


@dataclass(slots=True)
class Delivery:
    seq: int
    data: bytes
    redelivered: bool
    count: int
    at_s: float


@dataclass(slots=True)
class History:
    """What happened. Times are seconds of trio's clock."""

    acked_s: dict[bytes, float] = field(default_factory=dict)
    unknown: set[bytes] = field(default_factory=set)
    """Published, and the connection broke before the answer."""
    refused: list[str] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    kills_s: list[float] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    def note(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def delivered(self, message: Message) -> None:
        """A callback for the subscription that is checked. The client acks behind it."""
        at_s = message.received_s
        self.deliveries.append(
            Delivery(message.seq, message.data, message.redelivered, message.redelivery_count, at_s)
        )
        self.note()

    @property
    def delivered_data(self) -> set[bytes]:
        return {delivery.data for delivery in self.deliveries}

    async def wait_acked(self, count: int, timeout_s: float = 10.0) -> None:
        """Until ``count`` more publishes are acked."""
        target = len(self.acked_s) + count
        with trio.fail_after(timeout_s):
            while len(self.acked_s) < target:
                await self.changed.wait()

    async def wait_all_delivered(self, timeout_s: float = 15.0) -> None:
        """Until everything acked has been delivered."""
        with trio.move_on_after(timeout_s):
            while not self.acked_s.keys() <= self.delivered_data:
                await self.changed.wait()

    def longest_gap_s(self, since_s: float, until_s: float) -> float:
        """The longest time without a publish ack between the two moments."""
        acks = sorted(at for at in self.acked_s.values() if since_s <= at <= until_s)
        return max(b - a for a, b in itertools.pairwise([since_s, *acks, until_s]))

    def check(self) -> None:
        """Nothing lost, nothing doubled that may not be, no gaps."""
        assert not self.refused, self.refused[:5]
        lost = self.acked_s.keys() - self.delivered_data
        assert not lost, f"{len(lost)} acked and never delivered: {sorted(lost)[:10]}"
        latest: dict[int, Delivery] = {}
        for delivery in self.deliveries:
            earlier = latest.get(delivery.seq)
            if earlier is not None:
                self._check_repeat(earlier, delivery)
            latest[delivery.seq] = delivery
        assert sorted(latest) == list(range(1, len(latest) + 1)), "sequences have gaps"
        twice = len(latest) - len(self.delivered_data)
        assert twice == 0, f"{twice} messages were stored twice"

    def _check_repeat(self, earlier: Delivery, again: Delivery) -> None:
        """It was acked when it came ``earlier``. The ack may have died with a node, nothing else excuses."""
        assert again.data == earlier.data, f"{again.seq} was {earlier.data!r}, now {again.data!r}"
        assert again.redelivered, f"{again.seq} came again without its flag"
        assert again.count > earlier.count, f"{again.seq}: count {earlier.count}, then {again.count}"
        acked_s = earlier.at_s
        assert any(abs(kill_s - acked_s) < FORGOTTEN_ACK_S for kill_s in self.kills_s), (
            f"{again.seq} came again {again.at_s - acked_s:.3f} s after its ack; kills, from the ack on: "
            f"{[round(kill_s - acked_s, 3) for kill_s in self.kills_s]}\n{self._around(acked_s)}"
        )

    def _around(self, at_s: float) -> str:
        """What was delivered within a tenth of a second of a moment."""
        return "\n".join(
            f"{delivery.at_s - at_s:+.4f} s: {delivery.seq} {delivery.data!r} count {delivery.count}"
            for delivery in self.deliveries
            if abs(delivery.at_s - at_s) < 0.1
        )


async def publish_for_ever(client: Client, history: History, channel: str, prefix: str, rate: int) -> None:
    """Publish ``rate`` messages a second without waiting for acks, until cancelled."""
    numbers = itertools.count()
    waiting: set[bytes] = set()

    def lost() -> None:
        client.forget_unanswered()
        history.unknown |= waiting
        waiting.clear()

    def begin(data: bytes) -> None:
        def answered(error: str) -> None:
            waiting.discard(data)
            if error:
                history.refused.append(error)
            else:
                history.acked_s[data] = trio.current_time()
            history.note()

        client.publish_async(channel, data, answered)
        waiting.add(data)

    client.nats.on_disconnect = lost
    due = trio.current_time()
    while True:
        due = max(due + BURST_S, trio.current_time() - 0.1)
        await trio.sleep_until(due)
        if client.nats.connected.is_set():
            for _ in range(round(rate * BURST_S)):
                begin(f"{prefix}-{next(numbers)}".encode())


@asynccontextmanager
async def abandoned(servers: Sequence[str], cluster_id: str, client_id: str) -> AsyncIterator[Client]:
    """A client whose sockets just close at the end of the block, as if its process had been killed."""
    connection = Nats([Server.parse(server) for server in servers], Options(name=client_id))
    client = Client(connection, cluster_id, client_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await client.open()
        yield client
        nursery.cancel_scope.cancel()


async def replay(
    server: str, cluster_id: str, client_id: str, channel: str, last: int
) -> list[tuple[int, bytes]]:
    """The whole channel up to ``last`` as one node tells it."""
    found: list[tuple[int, bytes]] = []
    done = trio.Event()

    def take(message: Message) -> None:
        found.append((message.seq, message.data))
        if message.seq >= last:
            done.set()

    async with connect([server], cluster_id, client_id) as client:
        await client.subscribe(channel, take, start=StartPosition.FIRST)
        with trio.fail_after(20):
            await done.wait()
    return found
