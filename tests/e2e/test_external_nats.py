"""``-ns``: streaming clients of somebody else's NATS server, and of one of ours that is nothing more to them.

The server nobody here wrote is Debian's ``nats-server``; where it isn't installed, only ours is used.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e.conftest import MakeProgram
from e2e.harness import STANCHION, Child, until
from e2e.ports import Guard, Ports
from e2e.wire import Wire

from node.client.streaming import Client, Message, connect
from node.protocol import nats

COMMAND = str(STANCHION.with_name("nats-streaming-server"))
REMOTE_ROUTE = os.environ.get("STANCHION_NATS_SERVER") or shutil.which(
    "nats-server", path=f"{os.environ['PATH']}:/usr/sbin"
)
READY = "STREAM: Streaming Server is ready"
RECONNECT = "connected to NATS server"


class Nats:
    """A NATS server on a port of its own, to be killed and started again."""

    def __init__(self, kind: str, folder: Path, guard: Guard, port: int, *flags: str) -> None:
        self.port = port
        self.log = folder / f"nats-{port}.log"
        self._guard = guard
        program = [str(REMOTE_ROUTE)] if kind == "foreign" else [COMMAND, "-cid", "elsewhere"]
        self._command = [*program, "-a", "127.0.0.1", "-p", str(port), *flags]
        self._folder = folder
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.child = Child("nats", self._command, self.log, self._guard, cwd=self._folder)
        until("the NATS server", self._listens)

    def _listens(self) -> bool:
        try:
            Wire(self.port).socket.close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        self.child.end()


class Service:
    """A streaming server attached to a NATS server."""

    def __init__(self, folder: Path, guard: Guard, http_port: int, url: str, *flags: str) -> None:
        self.http_port = http_port
        self.log = folder / f"service-{http_port}.log"
        self._guard = guard
        self._command = [COMMAND, "-ns", url, "-m", str(http_port), *flags]
        self._folder = folder
        self.start()

    def start(self) -> None:
        self.child = Child("service", self._command, self.log, self._guard, cwd=self._folder)

    def said(self) -> str:
        return self.log.read_text()

    def ready(self, times: int = 1) -> Service:
        until("the ready line", lambda: self.said().count(READY) == times or not self.child.is_running)
        assert self.child.is_running, self.said()
        return self

    def page(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def kill(self) -> None:
        self.child.end()


@pytest.fixture
def server_kind() -> str:
    """A server that nobody here wrote, where there is one."""
    if REMOTE_ROUTE is None and os.environ.get("STANCHION_REQUIRE_CLIENTS"):
        pytest.fail("nats-server is not installed")
    return "foreign" if REMOTE_ROUTE is not None else "ours"


@pytest.fixture(params=["foreign", "ours"])
def each_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if kind == "foreign" and REMOTE_ROUTE is None:
        pytest.skip("nats-server is not installed")
    return kind


Start = Callable[..., Any]


@pytest.fixture
def started(tmp_path: Path, guard: Guard, ports: Ports) -> Iterator[tuple[Start, Start]]:
    """Start NATS servers and services; they end with the test."""
    ended: list[Any] = []

    def server(kind: str, *flags: str) -> Nats:
        ended.append(Nats(kind, tmp_path, guard, ports.take(), *flags))
        return ended[-1]

    def service(url: str, *flags: str) -> Service:
        ended.append(Service(tmp_path, guard, ports.take(), url, *flags))
        return ended[-1]

    yield server, service
    for one in ended:
        one.kill()


@pytest.fixture
def server(server_kind: str, started: tuple[Start, Start]) -> Nats:
    found: Nats = started[0](server_kind)
    return found


@pytest.fixture
def each_server(each_kind: str, started: tuple[Start, Start]) -> Nats:
    found: Nats = started[0](each_kind)
    return found


@pytest.fixture
def service(started: tuple[Start, Start]) -> Start:
    return started[1]


async def has(condition: Callable[[], Any], what: str, instead: Callable[[], Any] = str) -> None:
    """Wait until it is so. Where it isn't, the failure tells what is ``instead``."""
    with trio.move_on_after(15) as scope:
        while not condition():  # noqa: ASYNC110  # of messages that come in by callback
            await trio.sleep(0.01)
    assert not scope.cancelled_caught, f"{what}; instead {instead()}"


def as_client(server: Nats, client_id: str, talk: Callable[[Client], Any]) -> None:
    """Run ``talk`` with a streaming client that is connected to ``server``."""

    async def run() -> None:
        async with connect([server.address], "test-cluster", client_id) as client:
            await talk(client)

    trio.run(run)


def test_a_session(each_server: Nats, service: Start) -> None:
    """Publish, deliver, acknowledge, redeliver and leave, through a server that knows nothing of it."""
    one = service(f"nats://{each_server.address}").ready()

    async def talk(client: Client) -> None:
        got: list[Message] = []
        sub = await client.subscribe("foo", got.append, ack_wait_s=2, manual_ack=True)
        for number in range(50):
            await client.publish("foo", b"%d" % number)
        await has(
            lambda: len({message.seq for message in got}) == 50,
            "all messages",
            lambda: (
                [(message.seq, message.redelivery_count) for message in got],
                [one.page(path) for path in ("/streaming/channelsz?channel=foo&subs=1", "/healthz")],
                (client.lost, client.nats.connected.is_set(), client.nats.reconnects),
            ),
        )
        news = [message.data for message in got if not message.redelivered]
        assert news == [b"%d" % number for number in range(50)]
        for seq in range(2, 51):
            sub.ack(seq)
        await has(
            lambda: [message for message in got if message.redelivered and message.seq == 1], "the other"
        )
        sub.ack(1)
        status, found = one.page("/streaming/channelsz?channel=foo&subs=1")
        assert (status, found["msgs"], len(found["subscriptions"])) == (200, 50, 1)
        await sub.close()

    as_client(each_server, "me", talk)
    assert one.page("/streaming/serverz")[1]["clients"] == 0
    assert one.page("/subsz")[1]["num_subscriptions"] >= 7
    assert one.page("/varz")[1]["in_msgs"] > 100
    one.child.signal(signal.SIGTERM)
    assert one.child.wait(5) == 128 + signal.SIGTERM


def test_the_nats_server_is_killed(server: Nats, service: Start) -> None:
    """Sessions, subscriptions and what is unacknowledged outlive it; nobody has to ask for anything again."""
    one = service(f"nats://{server.address}", "-hbi", "300ms", "-hbt", "300ms", "-hbf", "2").ready()

    async def talk(client: Client) -> None:
        got: list[Message] = []
        await client.subscribe("foo", got.append, ack_wait_s=30, manual_ack=True)
        await client.publish("foo", b"before")
        await has(lambda: len(got) == 1, "the first message")
        server.kill()
        await has(lambda: one.page("/healthz")[0] == 503, "an unhealthy service")
        # Far longer than a client may miss its heartbeats.
        gone_s = trio.current_time()
        await has(lambda: trio.current_time() - gone_s > 3.0, "some time")
        server.start()
        await has(client.nats.connected.is_set, "the client's new connection")
        await has(lambda: one.page("/healthz")[0] == 200, "a healthy service")
        await has_published(client, b"after")
        await has(lambda: b"after" in [message.data for message in got], "the next message")
        assert one.page("/streaming/serverz")[1]["clients"] == 1
        for message in got:
            message.ack()
        await has(
            lambda: (
                one.page("/streaming/channelsz?channel=foo&subs=1")[1]["subscriptions"][0]["pending_count"]
                == 0
            ),
            "all acknowledged",
        )

    as_client(server, "me", talk)
    assert one.said().count(RECONNECT) == 2


async def has_published(client: Client, data: bytes) -> None:
    """Publish as an application does: again, if nothing comes of it."""
    while True:
        stored: list[str] = []
        if client.nats.connected.is_set():
            client.publish_async("foo", data, stored.append)
        with trio.move_on_after(1.0):
            while not stored:  # noqa: ASYNC110
                await trio.sleep(0.01)
        if stored:
            assert stored == [""]
            return


def test_one_of_several_nats_servers_is_killed(
    each_kind: str, started: tuple[Start, Start], ports: Ports
) -> None:
    """The service goes on at another one that it was only told of; a client there hardly notices."""
    start, service = started
    routes = [f"nats://127.0.0.1:{ports.take()}" for _ in range(2)]
    name = ["--cluster_name", "both"] if each_kind == "foreign" else []
    first = start(each_kind, "--cluster", routes[0], *name)
    # Of ours each needs a cluster ID of its own; the last that is given counts.
    other_id = [] if each_kind == "foreign" else ["-cid", "somewhere"]
    second = start(each_kind, "--cluster", routes[1], "--routes", routes[0], *name, *other_id)
    until("the addresses of both", lambda: all(len(told(each)) == 2 for each in (first, second)))
    one = service(f"nats://{first.address}", "-hbi", "500ms", "-hbt", "500ms").ready()

    async def talk(client: Client) -> None:
        client.nats.servers[1:] = []
        got: list[Message] = []
        await client.subscribe("foo", got.append)
        await client.publish("foo", b"before")
        first.kill()
        await has(lambda: one.said().count(RECONNECT) == 2, "the service's next connection")
        await has_published(client, b"after")
        await has(lambda: [message.data for message in got] == [b"before", b"after"], "both messages")
        assert client.nats.reconnects == 0

    as_client(second, "me", talk)


def told(server: Nats) -> list[str]:
    """Where clients of ``server`` are told to connect."""
    with Wire(server.port) as wire:
        urls: list[str] = json.loads(wire.info.partition(b" ")[2]).get("connect_urls", [])
    return urls


def test_the_service_is_killed(server: Nats, service: Start) -> None:
    """Its clients' connections are not even touched; with the file store the session goes on."""
    one = service(f"nats://{server.address}", "-st", "FILE", "--dir", "data").ready()

    async def talk(client: Client) -> None:
        got: list[Message] = []
        await client.subscribe("foo", got.append, manual_ack=True, durable="d")
        await client.publish("foo", b"1")
        await has(lambda: len(got) == 1, "the message")
        one.kill()
        one.start()
        one.ready(2)
        await has(lambda: len(got) == 2, "the message again: a server alone starts cold")
        assert (got[1].seq, got[1].redelivered) == (1, True)
        await has_published(client, b"2")
        await has(lambda: got[-1].data == b"2", "the next message")
        assert client.nats.reconnects == 0

    as_client(server, "me", talk)


def test_a_queue_member_is_gone(each_server: Nats, service: Start) -> None:
    """A heartbeat that nobody listens to tells: its messages go to another member, long before AckWait."""
    one = service(f"nats://{each_server.address}", "-hbi", "500ms").ready()

    async def run() -> None:
        got: list[Message] = []
        async with connect([each_server.address], "test-cluster", "stays") as stays:
            async with connect([each_server.address], "test-cluster", "goes") as goes:
                lost: list[Message] = []
                await goes.subscribe("foo", lost.append, queue="q", ack_wait_s=600, manual_ack=True)
                for number in range(10):
                    await stays.publish("foo", b"%d" % number)
                await has(lambda: len(lost) == 10, "the messages")
                await stays.subscribe("foo", got.append, queue="q", ack_wait_s=600)
                goes.lost = "it leaves without a word"
            assert one.page("/streaming/serverz")[1]["clients"] == 2
            await has(lambda: len(got) == 10, "the other's messages")
            assert all(message.redelivered for message in got)

    trio.run(run)
    assert one.page("/streaming/serverz")[1]["total_msgs"] == 10


@pytest.mark.parametrize("flags", [["--user", "ann", "--pass", "s3cret"], ["--auth", "s3cret"]])
def test_credentials(server_kind: str, started: tuple[Start, Start], flags: list[str]) -> None:
    """In the URL or beside it; wrong ones end the start with 1, and no log shows them."""
    start, service = started
    server = start(server_kind, *flags)
    inside = "ann:s3cret@" if "--user" in flags else "s3cret@"
    right = service(f"nats://{inside}{server.address}").ready()
    right.child.signal(signal.SIGTERM)
    right.child.wait(5)
    beside = service(server.address, *flags).ready()
    wrong = service(f"nats://ann:other@{server.address}")
    assert wrong.child.wait(15) == 1
    assert "Authorization Violation" in wrong.said()
    for one in (right, beside, wrong):
        assert "s3cret" not in one.said()
        assert "other" not in one.said()


def test_tls(started: tuple[Start, Start], tmp_path: Path) -> None:
    """A server that asks for TLS, and for a certificate: trusted by its authority, or not at all."""
    if REMOTE_ROUTE is None:
        pytest.skip("nats-server is not installed")
    start, service = started
    init = [str(STANCHION), "certs", "init", str(tmp_path / "certs"), "--nodes", "server,service"]
    subprocess.run([*init], check=True, timeout=60)
    subprocess.run(
        [str(STANCHION), "certs", "init", str(tmp_path / "others"), "--nodes", "x"], check=True, timeout=60
    )
    certs = tmp_path / "certs"
    server = start(
        "foreign", "--tlsverify", "--tlscert", f"{certs}/server.pem", "--tlskey", f"{certs}/server.key",
        "--tlscacert", f"{certs}/ca.pem",
    )  # fmt: skip

    def with_tls(cid: str, authority: str, name: str) -> Service:
        file = tmp_path / f"{cid}.conf"
        file.write_text(
            f"streaming {{ cid: {cid}, tls {{ client_cert: '{certs}/service.pem', server_name: {name},"
            f" client_key: '{certs}/service.key', client_ca: '{tmp_path}/{authority}/ca.pem' }} }}"
        )
        found: Service = service(f"tls://{server.address}", "-c", str(file))
        return found

    with_tls("right", "certs", "server").ready()
    for cid, authority, name in (("authority", "others", "server"), ("name", "certs", "another")):
        wrong = with_tls(cid, authority, name)
        until("a complaint", lambda wrong=wrong: "no connection with NATS server" in wrong.said())
        assert "certificate verify failed" in wrong.said()
    plain = service(f"nats://{server.address}", "-cid", "plain")
    assert plain.child.wait(15) == 1
    assert "it requires TLS" in plain.said()


def test_another_service_of_the_same_id(server: Nats, service: Start) -> None:
    """Two would both answer every request: the second does not start."""
    first = service(f"nats://{server.address}").ready()
    second = service(f"nats://{server.address}")
    assert second.child.wait(15) == 1
    assert 'discovered another streaming server with cluster ID "test-cluster"' in second.said()
    service(f"nats://{server.address}", "-cid", "other").ready()
    assert first.page("/streaming/serverz")[1]["clients"] == 0, "asking leaves nothing behind"


def test_it_waits_for_the_server(
    server_kind: str, started: tuple[Start, Start], guard: Guard, tmp_path: Path, ports: Ports
) -> None:
    """Both started at once: the service is there when the server is, whichever of several comes first."""
    port = ports.take()
    one = started[1](f"nats://127.0.0.1:{ports.take()},127.0.0.1:{port}")
    until("a complaint", lambda: "no connection with NATS server" in one.said())
    server = Nats(server_kind, tmp_path, guard, port)
    try:
        one.ready()
        with Wire(port) as wire:
            wire.hello()
            assert wire.register("me").pub_prefix == "_STAN.pub.test-cluster"
            # Plain subscribers see the streaming clients' traffic as on any server.
            wire.send(nats.sub(b"_STAN.close.>", b"", b"99"))
    finally:
        server.kill()


class AtNats:
    """What the programs of other clients want to know of a cluster."""

    cluster_id = "test-cluster"

    def __init__(self, server: Nats) -> None:
        self._server = server

    def addresses(self, _first: str) -> list[str]:
        return [self._server.address]


def test_clients_nobody_here_wrote(server: Nats, service: Start, kind: str, program: MakeProgram) -> None:
    """Their own libraries, through a NATS server: published, delivered in order, acknowledged."""
    one = service(f"nats://{server.address}").ready()
    client = program(kind)
    client.connect(AtNats(server), "me", "")  # type: ignore[arg-type]
    client.call("subscribe", sub="s", channel="foo")
    client.publish("foo", 50)
    assert [message.seq for message in client.wait("s", 50)] == list(range(1, 51))
    client.call("close")
    until("no client", lambda: one.page("/streaming/serverz")[1]["clients"] == 0)
