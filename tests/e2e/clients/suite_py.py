"""What asyncio-nats-streaming's own tests try, written anew and named as there: its package has none.

Run by the client's own interpreter: ``suite_py.py URL``, with a server of cluster ID test-cluster. Channels
and client IDs are new for each test, so one server does for all.
"""

from __future__ import annotations

# ruff: noqa: PT009, PT027 - unittest it is: the client's interpreter has nothing else
import asyncio
import itertools
import os
import sys
import time
import unittest
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client as Nats
from stan.aio.client import Client as Stan
from stan.aio.errors import ErrConnectReqTimeout, StanError

URL = sys.argv.pop()
CLUSTER = "test-cluster"
PATIENCE_S = 10.0

_numbers = itertools.count(1)


def unique(what: str) -> str:
    return f"{what}-{os.getpid()}-{next(_numbers)}"


async def connect_nats() -> Nats:
    nats = Nats()
    await nats.connect(servers=[URL])
    return nats


@asynccontextmanager
async def connected(client_id: str | None = None, **options: Any) -> AsyncIterator[Stan]:
    """A session, closed in the end, as is its connection."""
    nats, stan = await connect_nats(), Stan()
    try:
        await stan.connect(CLUSTER, client_id or unique("client"), nats=nats, **options)
        yield stan
        await stan.close()
    finally:
        await nats.close()


class Inbox:
    """What came in."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def seqs(self) -> list[int]:
        return [message.sequence for message in self.messages]

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]


async def until(check: Callable[[], bool]) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while not check():  # noqa: ASYNC110 - the library tells nobody
            await asyncio.sleep(0.01)


async def publish(stan: Stan, channel: str, first: int, last: int) -> None:
    for number in range(first, last + 1):
        await stan.publish(channel, f"hi-{number}".encode())


class Case(unittest.IsolatedAsyncioTestCase):
    """With the event loop as applications have it: its debug mode makes everything slower."""

    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().set_debug(False)


class ClientTest(Case):
    async def test_connect(self) -> None:
        nats, stan = await connect_nats(), Stan()
        await stan.connect(CLUSTER, unique("client"), nats=nats)
        for subject in (
            stan._pub_prefix,
            stan._sub_req_subject,
            stan._unsub_req_subject,
            stan._close_req_subject,
            stan._sub_close_req_subject,
        ):
            self.assertTrue(subject)
        await stan.close()
        self.assertTrue(nats.is_connected)
        with self.assertRaises(StanError):
            await stan.close()
        await nats.close()

    async def test_sync_publish_and_acks(self) -> None:
        async with connected() as stan:
            channel = unique("hi")
            for _ in range(1024):
                ack = await stan.publish(channel, b"hello")
                self.assertTrue(ack.guid)
                self.assertEqual(ack.error, "")
            self.assertEqual(len(stan._pub_ack_map), 0)

    async def test_async_publish_and_acks(self) -> None:
        acks = []

        async def on_ack(ack: Any) -> None:
            acks.append(ack.guid)

        async with connected() as stan:
            channel = unique("hi")
            for _ in range(1024):
                await stan.publish(channel, b"hello", ack_handler=on_ack)
            await until(lambda: len(acks) == 1024)
            self.assertEqual(len(set(acks)), 1024)
            self.assertEqual(len(stan._pub_ack_map), 0)

    async def test_async_publish_and_max_acks_inflight(self) -> None:
        """The client waits for acks when five publishes have none yet."""
        held = asyncio.Event()
        acks = []

        async def on_ack(ack: Any) -> None:
            acks.append(ack)
            await held.wait()

        async with connected(max_pub_acks_inflight=5) as stan:
            channel = unique("hi")
            begun = 0
            with self.assertRaises(asyncio.TimeoutError):
                for begun in range(1024):  # noqa: B007
                    await asyncio.wait_for(stan.publish(channel, b"hello", ack_handler=on_ack), 0.3)
            self.assertLessEqual(begun, 10)
            held.set()
            await until(lambda: len(acks) >= begun)

    async def test_subscribe_receives_new_messages(self) -> None:
        """Each message is there before the ack of its publish, on one connection."""
        inbox = Inbox()
        async with connected() as stan:
            channel = unique("hi")
            await stan.subscribe(channel, cb=inbox)
            await publish(stan, channel, 1, 10)
            self.assertEqual(inbox.seqs, list(range(1, 11)))

    async def test_unsubscribe_from_new_messages(self) -> None:
        inbox = Inbox()
        async with connected() as stan:
            channel = unique("hi")
            sub = await stan.subscribe(channel, cb=inbox)
            await publish(stan, channel, 1, 5)
            await sub.unsubscribe()
            await publish(stan, channel, 6, 10)
            self.assertEqual(inbox.seqs, [1, 2, 3, 4, 5])

    async def test_receiving_multiple_subscriptions(self) -> None:
        """A slow callback holds up no other subscription."""
        slow: list[Any] = []
        held = asyncio.Event()

        async def on_slow(message: Any) -> None:
            await held.wait()
            slow.append(message)

        one, two = Inbox(), Inbox()
        async with connected() as stan:
            channel = unique("hi")
            subs = [await stan.subscribe(channel, cb=callback) for callback in (on_slow, one, two)]
            await publish(stan, channel, 1, 5)
            await until(lambda: len(one) == len(two) == 5)
            self.assertEqual(slow, [])
            held.set()
            await until(lambda: len(slow) == 5)
            for sub in subs:
                await sub.unsubscribe()
            await publish(stan, channel, 6, 10)
            self.assertEqual((len(slow), len(one), len(two)), (5, 5, 5))

    async def test_closes_cleans_subscriptions(self) -> None:
        inbox, nats, stan = Inbox(), await connect_nats(), Stan()
        await stan.connect(CLUSTER, unique("client"), nats=nats)
        channel = unique("hi")
        await stan.subscribe(channel, cb=inbox)
        await publish(stan, channel, 1, 10)
        self.assertEqual(inbox.seqs, list(range(1, 11)))
        await stan.close()
        self.assertLessEqual(len(nats._subs), 1)  # that for answers to requests is the connection's own
        self.assertIsNone(stan._hb_inbox)
        self.assertIsNone(stan._ack_subject)
        await nats.close()

    async def test_connecting_with_dup_id(self) -> None:
        client_id, inbox = unique("client"), Inbox()
        async with connected(client_id) as stan:
            other = Stan()
            with self.assertRaises(StanError):
                await other.connect(CLUSTER, client_id, nats=stan._nc)
            channel = unique("hi")
            await stan.subscribe(channel, cb=inbox)
            await publish(stan, channel, 1, 10)
            self.assertEqual(len(inbox), 10)

    async def test_connect_timeout_wrong_cluster(self) -> None:
        nats, stan = await connect_nats(), Stan()
        with self.assertRaises(ErrConnectReqTimeout):
            await stan.connect("test-cluster-missing", unique("client"), nats=nats, connect_timeout=0.1)
        await nats.close()

    async def test_missing_hb_response_replaces_client(self) -> None:
        class Deaf(Stan):  # type: ignore[misc]
            async def _process_heartbeats(self, _: Any) -> None:
                """Answers none."""

        nats, deaf, stan, client_id = await connect_nats(), Deaf(), Stan(), unique("client")
        await deaf.connect(CLUSTER, client_id, nats=nats)
        await stan.connect(CLUSTER, client_id, nats=nats)
        inbox, channel = Inbox(), unique("hi")
        await stan.subscribe(channel, cb=inbox)
        await publish(stan, channel, 1, 10)
        self.assertEqual(len(inbox), 10)
        await stan.close()
        with self.assertRaises(StanError):  # it was that ID's, and the ID has been closed
            await deaf.close()
        await nats.close()

    async def test_reconnect_without_graceful_close(self) -> None:
        """Who is gone is asked for half a second, so 0.25 s are too few, and a second is enough."""
        client_id, stan, nats = unique("client"), Stan(), await connect_nats()
        await stan.connect(CLUSTER, client_id, nats=nats)
        await nats.close()
        nats = await connect_nats()
        with self.assertRaises(ErrConnectReqTimeout):
            await Stan().connect(CLUSTER, client_id, nats=nats, connect_timeout=0.25)
        with self.assertRaises(StanError):  # the request before it is still asking
            await Stan().connect(CLUSTER, client_id, nats=nats, connect_timeout=1)
        await nats.close()
        await asyncio.sleep(1)
        nats = await connect_nats()
        with self.assertRaises(ErrConnectReqTimeout):
            await Stan().connect(CLUSTER, client_id, nats=nats, connect_timeout=0.25)
        await nats.close()
        await asyncio.sleep(1)
        inbox, channel = Inbox(), unique("hi")
        async with connected(client_id, connect_timeout=1) as stan:
            await stan.subscribe(channel, cb=inbox)
            await publish(stan, channel, 1, 10)
            self.assertEqual(len(inbox), 10)


class SubscriptionsTest(Case):
    def setUp(self) -> None:
        self.channel = unique("foo")
        self.durable, self.durable_queue, self.queue, self.plain = Inbox(), Inbox(), Inbox(), Inbox()

    async def subscribe_all(self, stan: Stan, **start: Any) -> list[Any]:
        """In the four ways there are."""
        return [
            await stan.subscribe(self.channel, durable_name="quux", cb=self.durable, **start),
            await stan.subscribe(
                self.channel, queue="bar", durable_name="quux", cb=self.durable_queue, **start
            ),
            await stan.subscribe(self.channel, queue="bar", cb=self.queue, **start),
            await stan.subscribe(self.channel, cb=self.plain, **start),
        ]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return len(self.durable), len(self.durable_queue), len(self.queue), len(self.plain)

    async def test_subscribe_start_at_last_received(self) -> None:
        client_id = unique("client")
        async with connected(client_id) as stan:
            await self.subscribe_all(stan)
            await publish(stan, self.channel, 0, 4)
            await until(lambda: self.counts == (5, 5, 5, 5))
        async with connected(client_id) as stan:
            await publish(stan, self.channel, 5, 9)
            start = {"start_at": "last_received"}  # which a durable that goes on doesn't look at
            await stan.subscribe(self.channel, durable_name="quux", cb=self.durable, **start)
            await stan.subscribe(self.channel, start_at="first", cb=self.plain)
            await publish(stan, self.channel, 10, 13)
            with self.assertRaises(StanError):
                await stan.subscribe(self.channel, durable_name="quux", cb=self.durable)
            await until(lambda: self.counts == (14, 5, 5, 19))

    async def test_close_durable_subscriptions(self) -> None:
        async with connected() as stan:
            subs = await self.subscribe_all(stan)
            await publish(stan, self.channel, 0, 4)
            await until(lambda: self.counts == (5, 5, 5, 5))
            for sub in subs:
                await sub.close()
            await publish(stan, self.channel, 5, 9)
            self.assertEqual(self.counts, (5, 5, 5, 5))
            with self.assertRaises(StanError) as caught:
                await subs[0].close()
            self.assertIn("stan: invalid subscription", str(caught.exception))

    async def test_distribute_queue_messages(self) -> None:
        """Five members, 2,048 messages: more than 400 for each.

        The next few go out when the last have come, for on a busy machine one of the members, all of this
        process, would otherwise be heard long before the others, and who is quicker gets more.
        """
        channel = unique("tasks")
        inboxes = [Inbox() for _ in range(5)]
        nats = [await connect_nats() for _ in inboxes]
        stans = [Stan() for _ in inboxes]
        for connection, stan, inbox in zip(nats, stans, inboxes, strict=True):
            await stan.connect(CLUSTER, unique("client"), nats=connection)
            await stan.subscribe(channel, queue="group", cb=inbox)

        async def on_ack(_: Any) -> None:
            """Nothing to do."""

        for published in range(32, 2048 + 1, 32):
            for number in range(published - 32, published):
                await stans[-1].publish(channel, f"task-{number}".encode(), ack_handler=on_ack)
            await until(lambda published=published: sum(map(len, inboxes)) >= published)
        shares = [len(inbox) for inbox in inboxes]
        self.assertEqual(sum(shares), 2048)
        self.assertGreater(min(shares), 400, shares)
        for connection, stan in zip(nats, stans, strict=True):
            await stan.close()
            await connection.close()

    async def test_subscribe_start_at_timestamp(self) -> None:
        """Between the moment that is meant and messages before and behind it there is room for rounding."""
        async with connected() as stan:
            beginning = time.time() - 1
            await publish(stan, self.channel, 0, 10)
            await asyncio.sleep(1)
            middle = time.time()
            await asyncio.sleep(1)
            await publish(stan, self.channel, 11, 15)
            await self.subscribe_all(stan, start_at="time", time=middle)
            await until(lambda: self.counts == (5, 5, 5, 5))
            everything = Inbox()
            await stan.subscribe(self.channel, start_at="time", time=beginning, cb=everything)
            await until(lambda: len(everything) == 16)
            self.assertEqual(everything.data, [f"hi-{number}".encode() for number in range(16)])
            self.assertEqual(self.counts, (5, 5, 5, 5))


if __name__ == "__main__":
    unittest.main(verbosity=2)
