"""Routes: servers of different cluster IDs, whose clients use each other and each other's services."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e.harness import STANCHION, Child, until
from e2e.ports import Guard, Ports
from e2e.wire import Wire

from node.client.streaming import Client, Message, connect
from node.protocol import nats

COMMAND = str(STANCHION.with_name("nats-streaming-server"))
READY = "STREAM: Streaming Server is ready"


class Server:
    """One process of the command, with routes."""

    def __init__(self, folder: Path, guard: Guard, ports: Ports, *flags: str) -> None:
        self.port, self.route, self.http = (ports.take() for _ in range(3))
        self.log = folder / f"{self.port}.log"
        self.flags = list(flags)
        self._folder = folder
        self._guard = guard

    def start(self) -> Server:
        ports = ["-p", str(self.port), "-m", str(self.http), "--cluster", f"nats://127.0.0.1:{self.route}"]
        command = [COMMAND, "-a", "127.0.0.1", *ports, *self.flags]
        self.child = Child("server", command, self.log, self._guard, cwd=self._folder)
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """For ``--routes``."""
        return f"nats://127.0.0.1:{self.route}"

    def said(self) -> str:
        return self.log.read_text()

    def ready(self, times: int = 1) -> Server:
        until("the ready line", lambda: self.said().count(READY) >= times or not self.child.is_running)
        assert self.child.is_running, self.said()
        return self

    def page(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def linked(self) -> set[str]:
        """Whom it has routes with."""
        return {route["remote_id"] for route in self.page("/routez")["routes"]}

    def wire(self) -> Wire:
        wire = Wire(self.port)
        wire.hello()
        return wire

    def kill(self) -> None:
        if hasattr(self, "child"):
            self.child.end()


Make = Callable[..., Server]


@pytest.fixture
def make(tmp_path: Path, guard: Guard, ports: Ports) -> Iterator[Make]:
    """Make a server; it is not started."""
    made: list[Server] = []

    def one(*flags: str) -> Server:
        made.append(Server(tmp_path, guard, ports, *flags))
        return made[-1]

    yield one
    for server in made:
        server.kill()


def are_linked(*servers: Server) -> None:
    """Wait until each has a route with each of the others."""
    for server in servers:
        server.ready()
    until("all routes", lambda: all(len(server.linked()) >= len(servers) - 1 for server in servers))


async def has(condition: Callable[[], Any], what: str) -> None:
    """Wait until it is so."""
    with trio.move_on_after(15) as scope:
        while not condition():  # noqa: ASYNC110  # of messages that come in by callback
            await trio.sleep(0.01)
    assert not scope.cancelled_caught, what


def test_two_servers(make: Make) -> None:
    """Only one is told of the other. Subjects, queue groups, requests and replies, and no responders."""
    east = make("-cid", "east").start()
    west = make("-cid", "west", "--routes", east.url).start()
    are_linked(east, west)
    assert (east.linked(), west.linked()) == ({"west/n1"}, {"east/n1"})
    with east.wire() as here, west.wire() as there:
        there.send(nats.sub(b"news.>", b"", b"1") + nats.sub(b"jobs", b"q", b"2"))
        assert there.answers()
        until("the interest", lambda: asked(here, b"news.x") != b"")
        here.send(nats.pub(b"news.today", b"", b"hello") + nats.pub(b"jobs", b"", b"work"))
        assert [there.message() for _ in range(3)][-2:] == [b"hello", b"work"]
        there.send(nats.sub(b"ask", b"", b"3"))
        assert there.answers()
        here.send(nats.sub(b"answer", b"", b"9") + nats.pub(b"nobody", b"answer", b""))
        assert here.line().startswith(b"HMSG answer 9 16 16")


def asked(wire: Wire, subject: bytes) -> bytes:
    """Ask; empty if nobody listens there, else whatever comes."""
    wire.send(nats.sub(b"_INBOX.asked", b"", b"90") + nats.pub(subject, b"_INBOX.asked", b"?") + nats.PING)
    line = wire.line()
    if line == b"PONG":
        wire.send(nats.unsub(b"90", None))
        return b"heard"
    while line != b"PONG":
        line = wire.line()
    wire.send(nats.unsub(b"90", None))
    return b""


def test_a_session_with_the_other_cluster(make: Make) -> None:
    """A client of one server uses the other's service: publish, deliver, acknowledge, redeliver, restart."""
    east = make("-cid", "east", "-st", "FILE", "--dir", "east").start()
    west = make("-cid", "west", "--routes", east.url).start()
    are_linked(east, west)

    async def talk() -> None:
        async with connect([west.address], "east", "me") as client:
            client.nats.servers[1:] = []  # only here, whatever else it was told of
            got: list[Message] = []
            await client.subscribe("foo", got.append, ack_wait_s=1, manual_ack=True, durable="d")
            for number in range(50):
                await client.publish("foo", b"%d" % number)
            await has(lambda: len({message.seq for message in got}) == 50, "all messages")
            news = [message.data for message in got if not message.redelivered]
            assert news == [b"%d" % number for number in range(50)]
            await has(lambda: [message for message in got if message.redelivered], "a redelivery")
            for message in got:
                message.ack()
            await has(lambda: pending(east, "foo") == 0, "all acknowledged")
            # The service goes away and comes back; the client's connection isn't even touched.
            east.kill()
            east.start().ready(2)
            are_linked(east, west)
            count = len(got)
            await has_published(client, b"after")
            await has(lambda: len(got) > count, "a message after the restart")
            assert got[-1].data == b"after"
            assert client.nats.reconnects == 0

    trio.run(talk)
    assert east.page("/streaming/serverz")["clients"] == 0
    assert west.page("/streaming/serverz")["total_msgs"] == 0


def pending(server: Server, channel: str) -> int:
    subscriptions = server.page(f"/streaming/channelsz?channel={channel}&subs=1")["subscriptions"]
    return sum(sub["pending_count"] for sub in subscriptions)


async def has_published(client: Client, data: bytes) -> None:
    """Publish as an application does: again, if nothing comes of it."""
    while True:
        stored: list[str] = []
        client.publish_async("foo", data, stored.append)
        with trio.move_on_after(1.0):
            while not stored:  # noqa: ASYNC110
                await trio.sleep(0.01)
        if stored:
            assert stored == [""]
            return


def test_three_servers_find_each_other(make: Make) -> None:
    """Two know of the first only. One that is started anew is linked again by those that remember it."""
    first = make("-cid", "one").start()
    second = make("-cid", "two", "--routes", first.url).start()
    third = make("-cid", "three", "--routes", first.url).start()
    are_linked(first, second, third)
    assert second.linked() == {"one/n1", "three/n1"}
    with second.wire() as here, third.wire() as there:
        there.send(nats.sub(b"x", b"", b"1"))
        assert there.answers()
        until("the interest", lambda: asked(here, b"x") != b"")
    first.kill()
    until("the loss", lambda: second.linked() == {"three/n1"})
    first.start().ready(2)
    are_linked(first, second, third)


def test_clients_are_told_of_all(make: Make) -> None:
    """NET-36: connect_urls lists routing peers too, but for those that don't want to be told of."""
    east = make("-cid", "east").start()
    west = make("-cid", "west", "--routes", east.url, "-no_advertise").start()
    south = make("-cid", "south", "--routes", f"{east.url},{west.url}").start()
    are_linked(east, west, south)
    with Wire(west.port) as wire:
        urls = json.loads(wire.info.partition(b" ")[2])["connect_urls"]
    assert set(urls) == {west.address, east.address, south.address}
    with Wire(east.port) as wire:
        urls = json.loads(wire.info.partition(b" ")[2])["connect_urls"]
    assert set(urls) == {east.address, south.address}


def test_who_listens_on_all_interfaces_is_told_by_their_addresses(make: Make) -> None:
    """A client elsewhere that dials 0.0.0.0 dials itself. The Go server tells the interfaces' addresses
    too."""
    everywhere = make("-cid", "east", "-a", "0.0.0.0").start()  # what is tested
    other = make("-cid", "west", "--routes", everywhere.url).start()
    are_linked(everywhere, other)
    for server in (everywhere, other):
        told = until("both told", lambda at=server: len(found := told_by(at)) >= 2 and found)
        assert not [url for url in told if url.startswith(("0.0.0.0", "[::]"))], told
        assert [url for url in told if url.endswith(f":{everywhere.port}")], told


def told_by(server: Server) -> list[str]:
    """The addresses that a server tells its clients."""
    with Wire(server.port) as wire:
        urls: list[str] = json.loads(wire.info.partition(b" ")[2]).get("connect_urls", [])
    return urls


def test_the_same_id_twice_is_declined(make: Make) -> None:
    """Both would answer every request. Both say so, and go on without each other."""
    one = make("-cid", "same").start()
    other = make("-cid", "same", "--routes", one.url).start()
    for server in (one, other):
        server.ready()
        until(
            "the complaint",
            lambda server=server: 'another streaming server with cluster ID "same"' in server.said(),
        )
    assert (one.linked(), other.linked()) == (set(), set())


def test_routez(make: Make) -> None:
    """The reference's fields with figures that move; num_routes and /varz count the links."""
    east = make("-cid", "east").start()
    west = make("-cid", "west", "--routes", east.url).start()
    are_linked(east, west)
    with east.wire() as here, west.wire() as there:
        there.send(nats.sub(b"x", b"", b"1"))
        assert there.answers()
        until("the interest", lambda: asked(here, b"x") != b"")
        for _ in range(100):
            here.send(nats.pub(b"x", b"", b"y" * 100))
        for _ in range(101):
            there.message()
    page = east.page("/routez")
    (route,) = page["routes"]
    assert (page["num_routes"], east.page("/varz")["routes"], east.page("/varz")["remotes"]) == (1, 1, 1)
    assert set(page) == {"server_id", "now", "num_routes", "routes"}
    seen = west.page("/varz")["cluster"]
    assert (seen["name"], seen["cluster_port"], seen["urls"]) == (
        "west",
        west.route,
        [f"127.0.0.1:{east.route}"],
    )
    kinds = {
        "rid": int, "remote_id": str, "did_solicit": bool, "is_configured": bool, "ip": str, "port": int,
        "start": str, "last_activity": str, "rtt": str, "uptime": str, "idle": str, "pending_size": int,
        "in_msgs": int, "out_msgs": int, "in_bytes": int, "out_bytes": int, "subscriptions": int,
        "dropped_msgs": int,
    }  # fmt: skip
    assert {key: type(value) for key, value in route.items()} == kinds
    assert (route["remote_id"], route["did_solicit"], route["is_configured"]) == ("west/n1", False, False)
    assert (route["ip"], route["out_msgs"] >= 100, route["out_bytes"] >= 10_000) == ("127.0.0.1", True, True)
    (there_route,) = west.page("/routez")["routes"]
    assert (there_route["did_solicit"], there_route["is_configured"], there_route["port"]) == (
        True,
        True,
        east.route,
    )
    assert there_route["in_msgs"] >= 100
    assert there_route["subscriptions"] >= 1


def test_clusters_of_three(make: Make) -> None:
    """--clustered as the Go server's: names in --cluster_peers, addresses found on the routes.

    One route leads from cluster to cluster. A client of one goes on with the other's service while each node
    of that is killed once: the one that serves it, the leader, the third.
    """
    names = ("n1", "n2", "n3")
    clusters: dict[str, dict[str, Server]] = {}
    for cid in ("north", "south"):
        nodes = clusters[cid] = {name: make() for name in names}
        for name, server in nodes.items():
            others = ",".join(other for other in names if other != name)
            server.flags += ["-cid", cid, "--clustered", "--cluster_node_id", name, "--cluster_peers", others]
            server.flags += ["-st", "FILE", "--dir", f"{cid}-{name}"]
            routes = [nodes["n1"].url if name != "n1" else nodes["n2"].url]
            if (cid, name) == ("south", "n1"):
                routes.append(clusters["north"]["n1"].url)
            server.flags += ["--routes", ",".join(routes)]
    north, south = clusters["north"], clusters["south"]
    everybody = [*north.values(), *south.values()]
    for server in everybody:
        server.start()
    for server in everybody:
        server.ready()
    until("all links", lambda: all(len(server.linked()) == 5 for server in everybody), 30)

    async def talk() -> None:
        async with connect([south["n2"].address], "north", "me") as client:
            got: dict[bytes, int] = {}

            def count(message: Message) -> None:
                got[message.data] = got.get(message.data, 0) + 1

            await client.subscribe("foo", count, ack_wait_s=2, durable="d")
            sent = 0
            for victim in (None, *names):
                if victim is not None:
                    north[victim].kill()
                for _ in range(50):
                    await has_published(client, b"%d" % sent)
                    sent += 1
                await has(lambda sent=sent: len(got) == sent, f"all messages after the kill of {victim}")
                if victim is not None:
                    north[victim].start().ready(2)
                    until("it is back", lambda: all(len(server.linked()) == 5 for server in everybody), 30)

            # Stopped, a process keeps its sockets: whoever had it for a home finds another.
            for stopped in names:
                north[stopped].child.signal(signal.SIGSTOP)
                await has_published(client, b"while %s is stopped" % stopped.encode())
                north[stopped].child.signal(signal.SIGCONT)
                until("it is back", lambda: all(len(server.linked()) == 5 for server in everybody), 30)

    trio.run(talk)


def test_certificates(make: Make, tmp_path: Path) -> None:
    """Off the loopback both need one of the same authority, or are declined."""
    for authority in ("certs", "others"):
        subprocess.run(
            [str(STANCHION), "certs", "init", str(tmp_path / authority), "--nodes", "n1"],
            check=True,
            timeout=60,
        )

    def with_certificates(cid: str, authority: str, *routes: str) -> Server:
        server = make()
        file = tmp_path / f"{cid}.conf"
        folder = tmp_path / authority
        tls = (
            f'tls {{ cert_file: "{folder}/n1.pem", key_file: "{folder}/n1.key", ca_file: "{folder}/ca.pem" }}'
        )
        listed = ", ".join(f'"{route}"' for route in routes)
        file.write_text(f"cluster {{ {tls}, routes: [{listed}] }}\nstreaming {{ cid: {cid} }}")
        server.flags += ["-c", str(file)]
        return server.start()

    east = with_certificates("east", "certs")
    west = with_certificates("west", "certs", east.url)
    stranger = with_certificates("stranger", "others", east.url)
    plain = make("-cid", "plain", "--routes", east.url).start()
    are_linked(east, west)
    until("a complaint", lambda: "no routing peer at" in stranger.ready().said())
    until("a complaint", lambda: "no routing peer at" in plain.ready().said())
    assert east.linked() == {"west/n1"}


def test_yaml(tmp_path: Path, guard: Guard, ports: Ports) -> None:
    """`cluster.routes`, in two files; without the key nobody is let in."""
    children = {}
    addresses = {
        cid: {kind: f"127.0.0.1:{ports.take()}" for kind in ("client", "peer", "http")} for cid in "abc"
    }
    routes = {"a": [], "b": [addresses["a"]["peer"], addresses["c"]["peer"]], "c": None}
    for cid, mine in addresses.items():
        cluster: dict[str, Any] = {"id": cid, "nodes": {"n1": mine}}
        if routes[cid] is not None:
            cluster["routes"] = routes[cid]
        file = tmp_path / f"{cid}.yaml"
        file.write_text(json.dumps({"cluster": cluster, "store": {"dir": f"data-{cid}"}}))
        command = [str(STANCHION), "node", "--config", str(file), "--name", "n1"]
        children[cid] = Child(cid, command, tmp_path / f"{cid}.log", guard)
    try:
        until("the link", lambda: "routing peer b/n1 is linked" in (tmp_path / "a.log").read_text())
        until("the refusal", lambda: "no routing peer at" in (tmp_path / "b.log").read_text())
        logs = [tmp_path / f"{cid}.log" for cid in children]  # who hasn't started yet refuses too
        until("all", lambda: all("ready: taking clients" in log.read_text() for log in logs))
        for child in children.values():
            child.signal(signal.SIGTERM)
        assert {child.wait(10) for child in children.values()} == {0}
    finally:
        for child in children.values():
            child.end()
