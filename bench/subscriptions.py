"""Measure how quick nodes stay with very many streaming subscriptions, and print what was found as JSON.

Three nodes run from ``cluster-configs/three-node.yaml``. Clients on all of them open the subscriptions, each
with an inbox of its own. Then, idle and under load (one publisher at each node that waits for every
acknowledgement), each node is asked with a PING every few milliseconds: what it takes to answer is a round of
its event loop, and whatever time it waits for a processor. Changes of leader are counted from the first
subscription on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from bench.__main__ import folder_below, machine
from node import __version__
from node.demo.cluster import Cluster
from node.protocol import nats, streaming

TARGETS: Final = {"ping_p99_ms": 20.0, "leader_changes": 0}
PER_CLIENT: Final = 1000
"""Subscriptions of one client, all on its own channel."""
AT_ONCE: Final = 50
"""Requests of one client that wait for their answers."""
PING_EVERY_S: Final = 0.005
LOAD_CHANNEL: Final = "load"


def main() -> int:
    args = arguments().parse_args()
    with folder_below(args.dir) as folder:
        found = trio.run(bench, args, folder)
    text = json.dumps(found, indent=2) + "\n"
    if args.json:
        args.json.write_text(text)
    sys.stdout.write(text)
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.subscriptions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--subscriptions", type=int, default=100_000, metavar="N", help="so many (100000)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="idle, and under load (20)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the nodes keep their data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there too")
    return parser


class Client:
    """A streaming client on a connection of its own, which answers heartbeats and PINGs."""

    def __init__(self, name: str, cluster_id: str) -> None:
        self.name = name
        self._cluster = cluster_id
        self._parser = nats.ClientParser()
        self._stream: trio.SocketStream
        self._waiting: dict[bytes, Callable[[bytes], None]] = {}
        self._number = 0
        self._writing = trio.Lock()
        self._pinged: list[tuple[float, trio.Event]] = []
        self.pings_s: list[float] = []

    async def run(self, address: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and read until cancelled. Started once the node has answered."""
        host, _, port = address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as self._stream:
            await self._write(nats.connect({"verbose": False, "pedantic": False, "protocol": 1}))
            await self._write(nats.sub(b"_INBOX.%b.>" % self.name.encode(), b"", b"1"))
            task_status.started()
            async for data in self._stream:
                self._parser.feed(data)
                while operations := self._parser.ops():
                    for operation in operations:
                        await self._take(operation)
        raise AssertionError(f"{self.name} was disconnected")

    async def _take(self, operation: nats.Reply) -> None:
        if isinstance(operation, nats.Ping):
            await self._write(nats.PONG)
        elif isinstance(operation, nats.Pong) and self._pinged:
            sent_s, answered = self._pinged.pop(0)
            self.pings_s.append(trio.current_time() - sent_s)
            answered.set()
        elif isinstance(operation, nats.Msg):
            if operation.subject.endswith(b".hb"):
                await self._write(nats.pub(operation.reply, b"", b""))
            elif (answered_by := self._waiting.pop(operation.subject, None)) is not None:
                answered_by(operation.payload)

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            await self._stream.send_all(data)

    async def ping(self) -> None:
        """Ask, and note how long the answer took."""
        answered = trio.Event()
        self._pinged.append((trio.current_time(), answered))
        await self._write(nats.PING)
        await answered.wait()

    async def request(self, subject: str, payload: bytes, first: bytes = b"") -> bytes:
        """Send a request, behind ``first``, and return the answer."""
        self._number += 1
        reply = b"_INBOX.%b.%d" % (self.name.encode(), self._number)
        answered, answers = trio.Event(), list[bytes]()

        def take(answer: bytes) -> None:
            answers.append(answer)
            answered.set()

        self._waiting[reply] = take
        await self._write(first + nats.pub(subject.encode(), reply, payload))
        await answered.wait()
        return answers[0]

    async def register(self) -> None:
        """Become a streaming client."""
        heartbeat = f"_INBOX.{self.name}.hb"
        request = streaming.ConnectRequest(self.name, heartbeat, 1, self.name.encode(), 5, 88)
        first = nats.sub(heartbeat.encode(), b"", b"2")
        answer = await self.request(
            f"_STAN.discover.{self._cluster}", streaming.encode_connect(request), first
        )
        error = streaming.decode_connect_response(answer).error
        assert not error, error

    async def subscribe(self, channel: str, number: int) -> None:
        """Open one streaming subscription with an inbox of its own."""
        inbox = f"_IN.{self.name}.{number}"
        request = streaming.SubscriptionRequest(self.name, channel, "", inbox, 10, 30)
        first = nats.sub(inbox.encode(), b"", b"%d" % (number + 10))
        await self.request(f"_STAN.sub.{self._cluster}", streaming.encode_subscription(request), first)

    async def publish(self, channel: str) -> float:
        """Publish a message; returns the seconds until its acknowledgement."""
        self._number += 1
        guid = f"{self.name}.{self._number}"
        request = streaming.PublishRequest(self.name, guid, channel, "", b"x" * 128, b"")
        began_s = trio.current_time()
        answer = await self.request(f"_STAN.pub.{self._cluster}.{channel}", streaming.encode_publish(request))
        error = streaming.decode_pub_ack(answer).error
        assert not error, error
        return trio.current_time() - began_s


async def bench(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a cluster, open the subscriptions, measure, stop it."""
    async with trio.open_nursery() as logs:
        cluster = Cluster(folder, logs)
        text = cluster.config.read_text()
        assert "\nlimits:\n" in text
        limits = "\nlimits:\n  max_channels: 10000\n  max_subs: 10000\n"
        cluster.config.write_text(text.replace("\nlimits:\n", limits))
        try:
            with trio.fail_after(60):
                for name in cluster.nodes:
                    await cluster.start(name)
                await cluster.leader_after(0)
                for name in cluster.nodes:
                    await cluster.wait_healthy(name)
            async with trio.open_nursery() as clients:
                found = await _measure(args, cluster, clients)
                clients.cancel_scope.cancel()
            await cluster.stop()
        finally:
            cluster.kill_all()
        logs.cancel_scope.cancel()
    return {"version": __version__, "machine": machine(), **found}


async def _measure(args: argparse.Namespace, cluster: Cluster, nursery: trio.Nursery) -> dict[str, Any]:
    addresses = {name: node.client for name, node in cluster.nodes.items()}
    terms = [cluster.term]
    cluster.on_ready = lambda _node, term: terms.append(term)
    began_s = time.monotonic()
    async with trio.open_nursery() as opening:
        for first in range(0, args.subscriptions, PER_CLIENT):
            number = first // PER_CLIENT
            client = Client(f"bench{number}", cluster.id)
            await nursery.start(client.run, [*addresses.values()][number % len(addresses)])
            await client.register()
            opening.start_soon(_open, client, min(PER_CLIENT, args.subscriptions - first))
    opened_s = time.monotonic() - began_s
    askers = {name: Client(f"asker-{name}", cluster.id) for name in addresses}
    publishers = {name: Client(f"publisher-{name}", cluster.id) for name in addresses}
    for name, address in addresses.items():
        await nursery.start(askers[name].run, address)
        await nursery.start(publishers[name].run, address)
        await publishers[name].register()
    idle = await _ask(askers, args.seconds)
    acks: dict[str, list[float]] = {name: [] for name in addresses}
    async with trio.open_nursery() as load:
        for name, publisher in publishers.items():
            load.start_soon(_publish, publisher, acks[name])
        loaded = await _ask(askers, args.seconds)
        load.cancel_scope.cancel()
    return {
        "subscriptions": args.subscriptions,
        "opened_per_s": round(args.subscriptions / opened_s),
        "ping_idle": idle,
        "ping_under_load": loaded,
        "publish_ack": {name: _quantiles_ms(found) for name, found in acks.items()},
        "leader_changes": len(set(terms)) - 1,
        "targets": TARGETS,
    }


async def _open(client: Client, count: int) -> None:
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(number: int) -> None:
        async with limiter:
            await client.subscribe(client.name, number)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)


async def _ask(askers: dict[str, Client], seconds: float) -> dict[str, Any]:
    async def ask(asker: Client) -> None:
        asker.pings_s = []
        while True:
            await asker.ping()
            await trio.sleep(PING_EVERY_S)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for asker in askers.values():
                nursery.start_soon(ask, asker)
    return {name: _quantiles_ms(asker.pings_s) for name, asker in askers.items()}


async def _publish(publisher: Client, acks_s: list[float]) -> None:
    while True:
        acks_s.append(await publisher.publish(LOAD_CHANNEL))


def _quantiles_ms(values_s: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values_s, n=1000)
    shown = {"p50": cuts[499], "p99": cuts[989], "p999": cuts[998], "max": max(values_s)}
    return {"count": len(values_s)} | {key: round(1000 * value, 2) for key, value in shown.items()}


if __name__ == "__main__":
    sys.exit(main())
