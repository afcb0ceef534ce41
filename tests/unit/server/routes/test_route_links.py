"""Links to routing peers over real sockets on the loopback: who finds whom, who stays, who is declined."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from node.config.values import Address
from node.errors import ConfigError, IdentityError, RemoteProtocolError
from node.protocol.peer import encode_frame
from node.raft.links import Limits
from node.raft.security import Plaintext
from node.raft.transport import Transport
from node.server.routes import route_links, route_peer
from node.server.routes.remote_routes import BOOTSTRAPPED, STARTED
from node.server.routes.route_links import RivalError, RouteLinks
from node.server.routes.route_peer import Listener, Peer

SOON = 5.0  # seconds until a test that hangs is given up; nothing waits for it


class Heard(Listener):
    """Writes everything down, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self._news = trio.Event()

    def _add(self, kind: str, what: Any) -> None:
        self.events.append((kind, what))
        self._news.set()
        self._news = trio.Event()

    def up(self, peer: Peer) -> None:
        self._add("up", peer.key)

    def down(self, peer: Peer) -> None:
        self._add("down", peer.key)

    def frames(self, peer: Peer, values: list[Any]) -> None:
        for value in values:
            if value == ("bad",):
                raise RemoteProtocolError("a bad frame")
            self._add("frame", value)

    def drained(self, peer: Peer) -> None:
        self._add("drained", peer.key)

    def member(self, name: str, address: Address) -> None:
        self._add("member", (name, address.port))

    def of(self, kind: str) -> list[Any]:
        return [what for each, what in self.events if each == kind]

    async def until(self, satisfied: Callable[[], bool]) -> None:
        with trio.fail_after(SOON):
            while not satisfied():
                await self._news.wait()


class Node:
    """A transport and its links to foreign nodes."""

    def __init__(
        self,
        cluster: str,
        name: str,
        *routes: Node,
        members: tuple[str, ...] = (),
        bootstrap: str = "",
        limits: Any = None,
    ) -> None:
        self.received = Heard()
        self.members = dict.fromkeys((name, *members))
        addresses = [node.address for node in routes]
        self.transport = Transport(
            name, {}, Address("127.0.0.1", 0), Plaintext(), lambda _link: {}, lambda _link, _hello: None
        )
        self.links = RouteLinks(
            cluster,
            name,
            listen=None,
            client=f"client-of-{cluster}:1",
            routes=addresses,
            security=Plaintext(),
            members=lambda: self.members,
            listener=self.received,
            bootstrap=lambda: bootstrap,
            exclusive=lambda: bootstrap == STARTED and not members,
            limits=limits,
        )
        self.transport.serve_remote_route(self.links.accept)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.transport.listening[0][1])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.transport.run)
            self.links.listen = self.address
            nursery.start_soon(self.links.run)
            yield self
            nursery.cancel_scope.cancel()

    async def linked(self, *keys: str) -> None:
        await self.received.until(lambda: self.links.peers.keys() == set(keys))


async def test_the_dialed_node_learns_the_dialing_node() -> None:
    """One of two is told; frames flow both ways, and both know where the other takes clients."""
    async with Node("a", "n1").running() as one, Node("b", "n1", one).running() as two:
        await one.linked("b/n1")
        await two.linked("a/n1")
        one.links.send("b/n1", ["x", 1])
        two.links.send("a/n1", ["y", 2])
        await two.received.until(lambda: two.received.of("frame") == [("x", 1)])
        await one.received.until(lambda: one.received.of("frame") == [("y", 2)])
        assert (one.links.client_addresses(), two.links.client_addresses()) == (
            ["client-of-b:1"],
            ["client-of-a:1"],
        )
        assert (one.links.is_configured("b/n1"), two.links.is_configured("a/n1")) == (False, True)
        one.links.send("nobody/n1", ["z"])


async def test_a_link_that_breaks_is_dialed_again() -> None:
    async with Node("a", "n1").running() as one, Node("b", "n1", one).running() as two:
        for times in (1, 2, 3):
            await one.received.until(lambda times=times: len(one.received.of("up")) == times)  # type: ignore[misc]
            await two.linked("a/n1")
            one.links.peers["b/n1"].connection.close("a test")
        await one.received.until(lambda: len(one.received.of("up")) == 4)
        assert one.received.of("down") == ["b/n1"] * 3


async def test_both_dial_and_one_link_stays() -> None:
    """Whoever comes first, and however often."""
    async with Node("a", "n1").running() as one, Node("b", "n1", one).running() as two:
        await two.linked("a/n1")
        again = Node("a", "n1")
        async with again.running():
            pass
        for _ in range(5):
            one.links._learn([["b", "n1", str(two.address)]])
            two.links.peers["a/n1"].connection.close("a test")
            await one.received.until(lambda: one.received.events[-1] == ("up", "b/n1"))
            await two.received.until(lambda: two.received.events[-1] == ("up", "a/n1"))
        for node in (one, two):
            assert len(node.received.of("up")) == len(node.received.of("down")) + 1
            assert len(node.links.peers) == 1


async def test_three_find_each_other() -> None:
    """Two are told of the first: what it knows it says, in its hello and when a third comes."""
    async with (
        Node("a", "n1").running() as one,
        Node("b", "n1", one).running() as two,
        Node("b", "n2", one, members=("n1",)).running() as three,
        Node("c", "n1", one).running() as four,
    ):
        two.members["n2"] = None
        await one.linked("b/n1", "b/n2", "c/n1")
        await two.linked("a/n1", "c/n1")
        await three.linked("a/n1", "c/n1")
        await four.linked("a/n1", "b/n1", "b/n2")


async def test_a_member_is_no_routing_peer() -> None:
    """It only says where it is; and so does who knows it."""
    async with (
        Node("a", "n1", members=("n2",)).running() as one,
        Node("a", "n2", one, members=("n1",)).running() as two,
    ):
        await two.received.until(lambda: ("n1", one.address.port) in two.received.of("member"))
        await one.received.until(lambda: ("n2", two.address.port) in one.received.of("member"))
        assert not one.links.peers
        assert not two.links.peers


async def test_the_same_cluster_id_is_declined(caplog: pytest.LogCaptureFixture) -> None:
    """Who has our ID and is no member would answer the same requests."""
    async with Node("a", "n1").running() as one, Node("a", "n1", one).running() as two:
        with trio.fail_after(SOON):
            while caplog.text.count('another streaming server with cluster ID "a"') < 2:
                await trio.lowlevel.checkpoint()
        assert not one.links.peers
        assert not two.links.peers


async def test_a_learned_address_without_answer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was only heard of; a configured one is dialed for ever."""
    monkeypatch.setattr(route_links, "REACHABLE_TRIES", 2)
    async with Node("a", "n1").running() as one:
        async with Node("b", "n1").running() as gone:
            nowhere = gone.address
        one.links._learn([["b", "n1", str(nowhere)], ["c", "n1", "no address"], ["d", "n1", "10.0.0.1:1"]])
        assert list(one.links._routes) == [nowhere], "of use is only what may be dialed without TLS"
        with trio.fail_after(SOON):
            while one.links._routes:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_bad_frame_ends_the_link() -> None:
    async with Node("a", "n1").running() as one, Node("b", "n1", one).running() as two:
        await two.linked("a/n1")
        two.links.send("a/n1", ["bad"])
        await one.received.until(lambda: one.received.of("down") == ["b/n1"])
        await two.received.until(lambda: len(two.received.of("up")) == 2)
        two.links.send("a/n1", ["peers", [["x", "y"]]])
        await one.received.until(lambda: one.received.of("down") == ["b/n1"] * 2)


async def test_a_slow_reader_is_disconnected() -> None:
    """Above the soft bound deliveries wait, above the hard one the link ends."""
    limits = Limits(outbox_bytes_max=4 * route_peer.SOFT_BYTES)
    async with Node("a", "n1", limits=limits).running() as one, Node("b", "n1", one).running() as two:
        await one.linked("b/n1")
        await two.linked("a/n1")
        peer = one.links.peers["b/n1"]
        two.links.peers["a/n1"].pause_reading()  # in the middle of a read: what that brings waits
        frame = ["x", b"y" * 65536]
        while peer.writable:
            peer.send(frame)
        assert not peer.closed
        two.links.peers["a/n1"].resume_reading()
        await one.received.until(lambda: one.received.of("drained") == ["b/n1"])
        assert peer.writable
        while not peer.closed:
            peer.send(frame)
        assert peer.connection.queued_bytes + len(encode_frame(frame)) > limits.outbox_bytes_max
        await one.received.until(lambda: one.received.of("down") == ["b/n1"])


async def test_an_unresponsive_peer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped keeps its sockets; nobody may wait for it."""
    monkeypatch.setattr(route_links, "ALIVE_S", 0.01)
    async with Node("a", "n1").running() as one, Node("b", "n1", one).running() as two:
        await one.linked("b/n1")
        await two.linked("a/n1")
        peer = two.links.peers["a/n1"]
        with trio.fail_after(SOON):
            while peer.connection.counted.in_frames < 3 * route_peer.UNRESPONSIVE_MAX:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert not one.received.of("down"), "both live"
        monkeypatch.setattr(peer, "send", lambda _value: None)
        await one.received.until(lambda: one.received.of("down") == ["b/n1"])
        assert one.received.of("frame") == []


async def test_a_transport_without_routes_declines() -> None:
    """Closed unless somebody opened it."""
    async with trio.open_nursery() as nursery:
        transport = Transport(
            "n1", {}, Address("127.0.0.1", 0), Plaintext(), lambda _link: {}, lambda _link, _hello: None
        )
        await nursery.start(transport.run)
        port = transport.listening[0][1]
        route = route_links._Route(Address("127.0.0.1", port), True)
        with pytest.raises(IdentityError, match="is no foreign peer of 'n1'"):
            await Node("b", "n1").links._dial(route)
        nursery.cancel_scope.cancel()


def test_without_tls_routes_lead_over_the_loopback_only() -> None:
    with pytest.raises(ConfigError, match="must be on the loopback"):
        RouteLinks(
            "a",
            "n1",
            listen=None,
            client="",
            routes=[Address("10.0.0.1", 6222)],
            security=Plaintext(),
            members=dict,
            listener=Heard(),
        )


# --- two that have founded the same cluster -------------------------------------------------------


def _texts(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for each in error.exceptions for text in _texts(each)]
    return [str(error)]


async def _ended(node: Node, started: trio.Event, texts: list[str]) -> None:
    try:
        async with node.running():
            started.set()
            await trio.sleep_forever()
    except* RivalError as group:
        texts += _texts(group)


async def test_two_nodes_that_bootstrapped_the_same_cluster_both_end() -> None:
    """Whoever dials, and each says which other one."""
    one = Node("a", "n1", bootstrap=STARTED)
    up, there = trio.Event(), trio.Event()
    first: list[str] = []
    second: list[str] = []
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ended, one, up, first)
            await up.wait()
            nursery.start_soon(_ended, Node("a", "n2", one, bootstrap=STARTED), there, second)
    assert first == ["Server n2 was also started with -cluster_bootstrap"]
    assert second == ["Server n1 was also started with -cluster_bootstrap"]


async def test_a_bootstrapping_node_with_members_stays() -> None:
    texts: list[str] = []
    async with Node("a", "n1", members=("n3",), bootstrap=STARTED).running() as one:
        with trio.fail_after(SOON):
            await _ended(Node("a", "n2", one, bootstrap=STARTED), trio.Event(), texts)
    assert texts == ["Server n1 was also started with -cluster_bootstrap"]


async def test_a_bootstrapping_node_that_meets_its_former_members_stops() -> None:
    """It has lost its directory, and founds what is there already."""
    texts: list[str] = []
    async with Node("a", "n2", members=("n3",), bootstrap=BOOTSTRAPPED).running() as two:
        with trio.fail_after(SOON):
            await _ended(Node("a", "n1", two, bootstrap=STARTED), trio.Event(), texts)
    assert texts == [f'discovered another streaming server with cluster ID "a" at {two.address}']


async def test_a_node_that_has_not_bootstrapped_is_only_declined() -> None:
    """It doesn't end, and ends nobody."""
    async with Node("a", "n1", bootstrap=STARTED).running() as one, Node("a", "n2", one).running() as two:
        (route,) = two.links._routes.values()
        with trio.fail_after(SOON):
            while "discovered another streaming server" not in route.problem:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert (one.links.peers, two.links.peers) == ({}, {})
