"""``-ns`` with ``--clustered``: three nodes behind somebody else's NATS cluster, as in the official chart.

Clients connect to the NATS servers; the nodes' Raft links are their own. One node at a time serves. The
NATS servers are Debian's, three of them in a cluster, where that is installed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e.harness import until
from e2e.ports import Guard, Ports
from e2e.test_external_nats import READY, REMOTE_ROUTE, Nats, Service, has

from node.cli.reference import TERMINATED
from node.client.streaming import Client, Message, connect
from node.errors import UnavailableError

NODES = 3


class Behind:
    """Three NATS servers in a cluster, and three nodes of one streaming cluster attached to them."""

    def __init__(self, folder: Path, guard: Guard, ports: Ports) -> None:
        routes = [ports.take() for _ in range(NODES)]
        urls = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
        self.servers = [
            Nats(
                "foreign",
                folder,
                guard,
                ports.take(),
                "--cluster",
                f"nats://127.0.0.1:{port}",
                "--cluster_name",
                "nats",
                "--routes",
                urls,
            )
            for port in routes
        ]
        peers = {f"n{number + 1}": ports.take() for number in range(NODES)}
        where = ",".join(f"nats://{server.address}" for server in self.servers)
        self.nodes = {
            name: Service(
                folder,
                guard,
                ports.take(),
                where,
                "--clustered",
                "--cluster_node_id",
                name,
                "-st",
                "FILE",
                "--dir",
                str(folder / name),
                "--cluster",
                f"nats://127.0.0.1:{port}",
                "--cluster_peers",
                ",".join(f"{other}=127.0.0.1:{at}" for other, at in peers.items() if other != name),
                "-hbi",
                "2s",
                "-hbt",
                "1s",
                "-hbf",
                "3",
            )
            for name, port in peers.items()
        }

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]

    def ready(self) -> Behind:
        for node in self.nodes.values():
            node.ready(node.said().count(READY) or 1)
        until("a leader", self.leader)
        return self

    def leader(self) -> str:
        """The node that leads now, or nothing."""
        for name, node in self.nodes.items():
            if node.child.is_running:
                try:
                    status, page = node.page("/raftz")
                except OSError:
                    continue
                if status == 200 and page["role"] == "Leader" and page["is_ready"]:
                    return name
        return ""

    def kill(self) -> None:
        for one in (*self.nodes.values(), *self.servers):
            one.kill()


@pytest.fixture
def behind(tmp_path: Path, guard: Guard, ports: Ports) -> Iterator[Behind]:
    if REMOTE_ROUTE is None:
        if os.environ.get("STANCHION_REQUIRE_CLIENTS"):
            pytest.fail("nats-server is not installed")
        pytest.skip("nats-server is not installed")
    made = Behind(tmp_path, guard, ports)
    yield made
    made.kill()


def talking(behind: Behind, talk: Callable[[Client], Any], name: str = "me") -> None:
    async def run() -> None:
        async with connect(behind.addresses, "test-cluster", name) as client:
            await talk(client)

    trio.run(run)


async def store(client: Client, data: bytes) -> None:
    """Publish until it is acknowledged, as an application does."""
    while True:
        try:
            with trio.move_on_after(2.0):
                await client.publish("foo", data)
                return
        except UnavailableError:
            await trio.sleep(0.05)


def test_a_session_behind_a_nats_cluster(behind: Behind) -> None:
    behind.ready()

    async def talk(client: Client) -> None:
        got: list[Message] = []
        sub = await client.subscribe("foo", got.append, durable="d", manual_ack=True, ack_wait_s=2)
        for number in range(100):
            await client.publish("foo", b"%d" % number)
        await has(lambda: len({message.seq for message in got}) == 100, "all messages")
        assert [message.seq for message in got if not message.redelivered] == list(range(1, 101))
        for seq in range(2, 101):
            sub.ack(seq)
        await has(lambda: [m for m in got if m.redelivered and m.seq == 1], "the unacknowledged one again")
        sub.ack(1)
        await sub.close()

    talking(behind, talk)
    pages = [node.page("/streaming/channelsz?channel=foo")[1] for node in behind.nodes.values()]
    assert {page["msgs"] for page in pages} == {100}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_leader_goes(behind: Behind, number: signal.Signals) -> None:
    """Another node serves; what is acknowledged is stored once, and nothing acknowledged comes again."""
    behind.ready()

    async def talk(client: Client) -> None:
        got: list[Message] = []
        await client.subscribe("foo", got.append, durable="d", ack_wait_s=30)
        for number_ in range(20):
            await store(client, b"before %d" % number_)
        await has(lambda: len(got) == 20, "the first messages")
        first = behind.leader()
        behind.nodes[first].child.signal(number)
        for number_ in range(20):
            await store(client, b"after %d" % number_)
        wanted = [b"%s %d" % (when, n) for when in (b"before", b"after") for n in range(20)]
        await has(
            lambda: {message.data for message in got} == {*wanted},
            "every message",
            lambda: [(m.seq, m.data, m.redelivery_count) for m in got],
        )
        assert behind.leader() not in {"", first}
        assert client.nats.reconnects == 0

    talking(behind, talk)


def test_a_leader_that_is_asked_to_stop_answers_everything(behind: Behind) -> None:
    """Publishers never pause and never repeat; each acknowledgement comes, the node ends well."""
    behind.ready()
    slowest_s = 0.0
    acked: list[bytes] = []
    got: list[Message] = []

    async def publish(client: Client, name: str, scope: trio.CancelScope) -> None:
        nonlocal slowest_s
        number = 0
        while not scope.cancel_called:
            began_s = trio.current_time()
            data = f"{name} {number}".encode()
            await client.publish("foo", data)
            acked.append(data)
            slowest_s = max(slowest_s, trio.current_time() - began_s)
            number += 1

    async def talk(client: Client) -> None:
        await client.subscribe("foo", got.append, durable="d", ack_wait_s=30)
        scope = trio.CancelScope()  # tells publishers to stop; what they wait for still comes
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(publish, client, f"p{number}", scope)
            for _ in range(2):
                count = len(acked)
                await has(lambda count=count: len(acked) > count + 50, "publishes")
                first = await trio.to_thread.run_sync(behind.leader)
                node = behind.nodes[first]
                node.child.signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(node.child.wait, 15) == TERMINATED
                count = len(acked)
                await has(lambda count=count: len(acked) > count + 50, "publishes after the hand-over")
                assert "Traceback" not in node.said()
                starts = node.said().count(READY) + 1
                node.start()
                await trio.to_thread.run_sync(node.ready, starts)
            scope.cancel()
        await has(lambda: {message.data for message in got} >= set(acked), "every message")

    talking(behind, talk)
    stored = [message.data for message in {message.seq: message for message in got}.values()]
    assert sorted(stored) == sorted(acked), "stored once each"
    assert slowest_s < 5.0, "no client's patience is over"


def test_what_waits_for_its_acknowledgement_outlives_the_leader(behind: Behind) -> None:
    """A member that is gone is noticed by its heartbeats, and the other gets its messages."""
    behind.ready()

    async def run() -> None:
        async with connect(behind.addresses, "test-cluster", "stays") as stays:
            async with connect(behind.addresses, "test-cluster", "goes") as goes:
                held: list[Message] = []
                kept: list[Message] = []
                await goes.subscribe("foo", held.append, queue="q", ack_wait_s=600, manual_ack=True)
                for number in range(10):
                    await stays.publish("foo", b"%d" % number)
                await has(lambda: len(held) == 10, "the messages")
                await stays.subscribe("foo", kept.append, queue="q", ack_wait_s=600)
                behind.nodes[behind.leader()].kill()
                goes.lost = "it leaves without a word"
            await has(lambda: len(kept) == 10, "the other's messages", lambda: [m.seq for m in kept])
            assert all(message.redelivered for message in kept)

    trio.run(run)


def test_a_nats_server_goes(behind: Behind) -> None:
    """The leader moves to another NATS server within moments; nobody else takes over."""
    behind.ready()
    leader = behind.leader()
    node = behind.nodes[leader]

    def connected_to() -> str:
        lines = [line for line in node.said().splitlines() if "connected to NATS server" in line]
        return lines[-1].rpartition("server ")[2]

    async def talk(client: Client) -> None:
        got: list[Message] = []
        await client.subscribe("foo", got.append)
        await store(client, b"before")
        lost = next(server for server in behind.servers if server.address in connected_to())
        lost.kill()
        await store(client, b"after")
        await has(lambda: {m.data for m in got} == {b"before", b"after"}, "both messages")
        assert behind.leader() == leader
        assert lost.address not in connected_to()

    talking(behind, talk)


def test_nats_servers_restart_one_after_another(behind: Behind) -> None:
    """As when the NATS cluster is upgraded: nodes and clients move each time, and nothing stored is lost."""
    behind.ready()

    async def talk(client: Client) -> None:
        got: list[Message] = []
        await client.subscribe("foo", got.append, durable="d", ack_wait_s=2)
        wanted: set[bytes] = set()
        for number, server in enumerate(behind.servers):
            server.kill()
            await store(client, b"without %d" % number)
            await trio.to_thread.run_sync(server.start)
            await store(client, b"with %d" % number)
            wanted |= {b"without %d" % number, b"with %d" % number}
            await has(
                lambda: wanted <= {message.data for message in got},  # noqa: B023  # waited for at once
                f"all messages after server {number}",
                lambda: sorted({message.data for message in got}),
            )
        assert not client.lost

    talking(behind, talk)


def test_a_leader_without_nats_servers_hands_over(
    behind: Behind, tmp_path: Path, guard: Guard, ports: Ports
) -> None:
    """Its peers reach one: clients are served again by one of them."""
    behind.ready()
    first = behind.leader()
    node = behind.nodes[first]
    # Its own server only, so that it alone is cut off.
    node.kill()
    alone = Nats("foreign", tmp_path, guard, ports.take())
    node._command[node._command.index("-ns") + 1] = f"nats://{alone.address}"
    try:
        node.start()
        node.ready(2)
        others = [name for name in behind.nodes if name != first]
        for name in others:  # until it leads again
            if behind.leader() == first:
                break
            behind.nodes[name].child.signal(signal.SIGTERM)
            behind.nodes[name].child.wait(10)
            until("another leader", behind.leader)
            behind.nodes[name].start()
            until("the node back", lambda name=name: behind.nodes[name].said().count(READY) >= 2)  # type: ignore[misc]
        if behind.leader() == first:
            alone.kill()
            until("another leader", lambda: behind.leader() not in {"", first})

        async def talk(client: Client) -> None:
            await store(client, b"after")

        talking(behind, talk)
    finally:
        alone.kill()
