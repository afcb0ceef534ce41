"""The connection to a NATS server: what ends it, what holds it up, and what comes after it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from node.config.values import ServerURL
from node.errors import ConfigError, IdentityError
from node.protocol import nats
from node.server.external_nats import connection as external_connection
from node.server.external_nats import link as external_nats_link
from node.server.external_nats.connection import Limits, Link
from node.server.external_nats.link import ExternalNats
from node.server.external_nats.routing import ExternalNatsRouting

HERE = ServerURL("127.0.0.1", 4222)
SOON = 5.0  # seconds until a test that hangs is given up; nothing waits for it


class Service:
    """Writes down what the streaming service is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def read_done(self, _connection: Any) -> None:
        self.events.append("read")

    def drained(self, _connection: Any) -> None:
        self.events.append("drained")

    def closed(self, _connection: Any) -> None:
        self.events.append("closed")


# --- one connection -------------------------------------------------------------------------------


class Talk:
    """A link over a stream in memory, and the server's end of that."""

    def __init__(self, **limits: Any) -> None:
        self.link = Link(HERE, {"headers": True, "max_payload": 100}, 1, Limits(**limits))
        self.service = Service()
        self.got: list[nats.Reply] = []
        self.ours, self.theirs = trio.testing.memory_stream_pair()

    async def run(self) -> None:
        await self.link.run(self.ours, nats.ClientParser(), self.got.extend, self.service)


async def test_a_server_that_answers_no_pings_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """Three PINGs without an answer: it hangs, or the network swallows everything."""
    talk = Talk()
    await talk.run()
    assert talk.link.reason == "the server does not answer"
    assert trio.current_time() == 4 * external_connection.PING_S
    assert await talk.theirs.receive_some() == nats.PING * 3


async def test_a_server_that_does_not_read_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """One write of at most 256 KiB may take 10 s."""
    talk = Talk()

    async def stuck() -> None:
        await trio.sleep_forever()

    talk.ours.send_stream.send_all_hook = stuck
    talk.link.write(b"PUB a 0\r\n\r\n")
    await talk.run()
    assert talk.link.reason == "the server does not read"
    assert trio.current_time() == external_connection.WRITE_S


async def test_queued_bytes_are_bounded() -> None:
    """Above the soft bound deliveries wait and are told when there is room; above the hard one it ends."""
    talk = Talk(pending_soft=10, pending_max=30)
    talk.link.write(b"x" * 20)
    assert not talk.link.writable
    assert talk.link.pending_bytes == 20
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        assert await talk.theirs.receive_some() == b"x" * 20
        with trio.fail_after(SOON):
            while "drained" not in talk.service.events:
                await trio.lowlevel.checkpoint()
        assert talk.link.writable
        talk.link.write(b"x" * 31)
    assert talk.link.reason == "the server does not read: 0 bytes wait"
    talk.link.write(b"x")
    assert talk.link.pending_bytes == 0


async def test_reading_stops_while_too_much_is_unapplied() -> None:
    """R21: what comes stays in the socket, and with the server."""
    talk = Talk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        talk.link.pause_reading()
        await trio.testing.wait_all_tasks_blocked()
        await talk.theirs.send_all(b"MSG a 1 1\r\nx\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert talk.got == []
        talk.link.resume_reading()
        await trio.testing.wait_all_tasks_blocked()
        assert talk.got == [nats.Msg(b"a", b"1", b"", b"", b"x")]
        await talk.theirs.aclose()
    assert talk.link.reason == "closed by the server"
    assert talk.link.closed


async def test_nonsense_ends_it() -> None:
    talk = Talk()
    await talk.theirs.send_all(b"HTTP/1.1 400 Bad Request\r\n")
    await talk.run()
    assert talk.link.reason == "unknown operation"


# --- one connection after the other ---------------------------------------------------------------


class FakeServer:
    """As much of a NATS server as it takes to log in at."""

    def __init__(self, **info: Any) -> None:
        self.info = {"server_id": "x", "max_payload": 1000, **info}
        self.error = ""
        self.answers: list[bytes] = []
        """What the first subscription is sent, for whoever asks who else is there."""
        self.reachable = bytearray()
        self.streams: list[trio.SocketStream] = []
        self.listeners: list[trio.SocketListener] = []

    @property
    def url(self) -> ServerURL:
        return ServerURL("127.0.0.1", self.listeners[0].socket.getsockname()[1], user="ann", password="pw")

    async def serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        await stream.send_all(nats.info(self.info))
        try:
            async for data in stream:
                self.reachable += data
                if b"CONNECT" in data:
                    await stream.send_all(nats.err(self.error) if self.error else nats.PONG)
                elif b"PING" in data:
                    await stream.send_all(nats.PONG)
                if b"SUB " in data and self.answers:
                    await stream.send_all(self.answers.pop())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class World:
    """A node's end of it."""

    def __init__(self, *urls: ServerURL, **more: Any) -> None:
        self.service = Service()
        self.seen: list[str] = []
        self.routing = ExternalNatsRouting(
            "n1", clock=trio.current_time, nuid=lambda: "r", clients=list, inboxes=list
        )
        self.external = ExternalNats(
            self.routing, self.service, urls, name="me", discover="_STAN.discover.c", cluster_id="c",
            went=lambda: self.seen.append("went"), came=lambda: self.seen.append("came"),
            epoch=lambda: len(self.seen) + 1, **more,
        )  # fmt: skip

    async def until(self, satisfied: Callable[[], Any]) -> None:
        with trio.fail_after(SOON):
            while not satisfied():  # noqa: ASYNC110  # of sockets
                await trio.sleep(0.005)


@asynccontextmanager
async def serving(*fakes: FakeServer) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for fake in fakes:
            fake.listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, fake.serve, fake.listeners)
        yield nursery
        nursery.cancel_scope.cancel()


async def test_it_connects_and_connects_again() -> None:
    """Logged in as who the URL says; told of each connection that stands and ends; stopped for good."""
    fake = FakeServer(headers=True)
    async with serving(fake) as nursery:
        world = World(fake.url)
        assert world.external.problem == "not connected to the NATS server yet"
        await nursery.start(world.external.run)
        assert b'"user":"ann","pass":"pw"' in bytes(fake.reachable)
        assert b'"no_responders":true' in bytes(fake.reachable)
        assert b"PUB _STAN.discover.c " in bytes(fake.reachable)
        await fake.streams[0].aclose()
        await world.until(lambda: world.external.reconnects == 1)
        assert world.seen == ["came", "went", "came"]
        assert world.service.events.count("closed") == 1
        assert bytes(fake.reachable).count(b"_STAN.discover.c") == 1, "looked for once"
        assert world.external.link is not None
        world.external.link.write(b"PUB the.last 0\r\n\r\n")
        await world.external.stop()
        await world.until(lambda: world.seen[-1] == "went")
        await world.until(lambda: fake.reachable.endswith(b"PUB the.last 0\r\n\r\n"))
        assert world.external.problem.endswith("this node stops")


async def test_it_serves_when_the_server_has_its_subscriptions() -> None:
    """Who asks as soon as it says so isn't told that nobody listens. If need be on the next connection."""
    fake = FakeServer()
    async with serving(fake) as nursery:
        world = World(fake.url)
        await nursery.start(world.external.run)
        reachable: list[bytes] = []
        world.routing.serve(b"a.b", lambda *_: None)
        world.external.open()
        world.external.once_subscribed(lambda: reachable.append(bytes(fake.reachable)))
        await world.until(lambda: reachable)
        assert b"SUB a.b " in reachable[0]
        assert reachable[0].endswith(nats.PING)
        again: list[int] = []
        world.external.once_subscribed(lambda: again.append(world.external.reconnects))
        assert world.external.link is not None
        world.external.link.close("a test")
        await world.until(lambda: again == [1])


async def test_it_is_drained_when_another_node_serves_and_everything_is_read() -> None:
    fake = FakeServer()
    async with serving(fake) as nursery:
        world = World(fake.url)
        await nursery.start(world.external.run)
        world.routing.serve(b"a.b", lambda *_: None)
        await world.external.drained()  # it never served
        world.external.open()
        reachable: list[bytes] = []

        async def drain() -> None:
            await world.external.drained()
            reachable.append(bytes(fake.reachable))

        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        assert reachable == []
        world.external.close()
        await world.until(lambda: reachable)
        assert b"UNSUB " in reachable[0]
        assert reachable[0].endswith(nats.PING), "its PONG came behind all that was on its way"


async def test_requests_that_had_to_wait_are_submitted_like_those_of_a_read() -> None:
    """They waited half a second longer, for the next read or look."""
    fake = FakeServer()
    async with serving(fake) as nursery:
        world = World(fake.url)
        await nursery.start(world.external.run)
        reachable: list[bytes] = []
        world.routing.serve(b"a.b", lambda _source, _subject, _reply, payload: reachable.append(payload))
        world.external.open()
        world.routing.may_take = lambda: False
        sid = b"%d" % world.routing._sid
        world.routing.received(nats.Msg(b"a.b", sid, b"", b"", b"1"))
        done = world.service.events.count("read")
        world.external.take_held()
        assert (reachable, world.service.events.count("read")) == ([], done)
        world.routing.may_take = lambda: True
        world.external.take_held()
        assert (reachable, world.service.events.count("read")) == ([b"1"], done + 1)


async def test_another_server_takes_the_place_of_a_lost_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lost one was dialed again first, with pauses that doubled though others had not been tried."""
    monkeypatch.setattr(external_nats_link, "PAUSE_MIN_S", 100 * SOON)
    monkeypatch.setattr(external_nats_link, "PAUSE_MAX_S", 100 * SOON)
    other = FakeServer()
    async with serving(other) as nursery:
        first = FakeServer(connect_urls=[f"127.0.0.1:{other.url.port}"])
        async with serving(first):
            world = World(first.url)
            await nursery.start(world.external.run)
        await world.until(lambda: world.external.reconnects == 1)


async def test_a_server_that_drops_connections_at_once_is_not_dialed_without_a_pause() -> None:
    fake = FakeServer()
    async with serving(fake) as nursery:
        world = World(fake.url)
        await nursery.start(world.external.run)
        began_s = trio.current_time()
        for number in range(3):
            await world.until(lambda number=number: len(fake.streams) == number + 1 and world.external.link)  # type: ignore[misc]
            await fake.streams[number].aclose()
        await world.until(lambda: len(fake.streams) == 4)
        assert trio.current_time() - began_s > 3 * external_nats_link.PAUSE_MIN_S / 2


async def test_an_announced_server_is_tried() -> None:
    other = FakeServer()
    async with serving(other) as nursery:
        first = FakeServer(connect_urls=[f"127.0.0.1:{other.url.port}", "nonsense", "x:0"])
        async with serving(first):
            world = World(first.url)
            await nursery.start(world.external.run)
        await world.until(lambda: len(other.streams) == 1 and world.external.link)
        assert b'"user":"ann"' in bytes(other.reachable), "as the same user"
        assert world.external.link is not None
        assert not world.external.link.has_headers


async def test_a_connection_that_tls_was_asked_for_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL says nats://, the server wants TLS: whom it tells of has to have it too."""
    fake = FakeServer(tls_required=True, connect_urls=["10.0.0.2:4222"])

    async def secured(
        _self: ExternalNats, tcp: trio.SocketStream, *_args: Any, **_more: Any
    ) -> trio.abc.Stream:
        return trio.StapledStream(tcp, tcp)

    monkeypatch.setattr(ExternalNats, "_secured", secured)
    async with serving(fake) as nursery:
        world = World(fake.url, tls=ssl.create_default_context())
        await nursery.start(world.external.run)
        assert "tls://10.0.0.2:4222" in {str(url) for url in world.external._servers.known()}


async def test_refused_credentials_end_the_start_when_all_refuse() -> None:
    fakes = [FakeServer(), FakeServer()]
    for fake in fakes:
        fake.error = "Authorization Violation"
    async with serving(*fakes):
        world = World(*(fake.url for fake in fakes))
        with trio.fail_after(SOON), pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as caught:
            await world.external.run()
        assert "pw" not in str(caught.value.exceptions)


async def test_another_service_with_the_cluster_id_stops_the_start() -> None:
    fake = FakeServer()
    async with serving(fake):
        fake.answers = [nats.msg(b"_INBOX.x", b"0", b"", b"an answer")]
        with trio.fail_after(SOON), pytest.RaisesGroup(IdentityError, flatten_subgroups=True):
            await World(fake.url).external.run()


async def test_a_server_that_says_nothing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_nats_link, "CONNECT_S", 0.05)
    fake = FakeServer()
    with socket.socket() as unresponsive:
        unresponsive.bind(("127.0.0.1", 0))
        unresponsive.listen()
        async with serving(fake) as nursery:
            monkeypatch.setattr(external_nats_link, "CONNECT_S", 0.5)
            world = World(ServerURL("127.0.0.1", unresponsive.getsockname()[1]), fake.url)
            with trio.fail_after(SOON):
                await nursery.start(world.external.run)
            assert world.external.problem == ""
