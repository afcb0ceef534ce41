"""Connections on trio: over memory streams to control time, over the loopback to test sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import bcrypt
import pytest
import trio
import trio.testing

from node.errors import ConfigError
from node.server.auth import Authenticator, User
from node.server.clients import REFUSED_MAX, Clients
from node.server.connection import Connection
from node.server.context import ClientLimits, Context, ServerInfo
from node.server.routing import Routing

HELLO = b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\nPING\r\n'


class Service:
    def __init__(self) -> None:
        self.drained_count = 0

    def read_done(self, connection: Connection) -> None:
        pass

    def drained(self, connection: Connection) -> None:
        self.drained_count += 1

    def closed(self, connection: Connection) -> None:
        pass


def make_clients(**options: Any) -> Clients:
    wrap = options.pop("wrap", None)
    context = Context(
        routing=Routing("n1", send=lambda peer, value: None),
        service=Service(),
        info=ServerInfo("ID", "n1", "127.0.0.1", 0),
        clock=trio.current_time,
        limits=ClientLimits(**options.pop("limits", {})),
        **options,
    )
    return Clients(context, host="127.0.0.1", port=0, wrap=wrap)


class Peer:
    """The client's end of a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            data = await self.stream.receive_some(65536)
            assert data, f"the server closed after {self.buffer!r}"
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    async def rest(self) -> bytes:
        """Return everything until the server closes."""
        while data := await self.stream.receive_some(65536):
            self.buffer += data
        return self.buffer

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def hello(self) -> None:
        assert (await self.line()).startswith(b"INFO {")
        await self.say(HELLO)
        assert await self.line() == b"PONG"


@asynccontextmanager
async def memory_peer(clients: Clients, *, lockstep: bool = False) -> AsyncIterator[Peer]:
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients.serve, theirs, ("127.0.0.1", 5))
        yield Peer(ours)
        await ours.aclose()


@asynccontextmanager
async def listening(clients: Clients) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(clients.run)
        yield port
        clients.stop("the test is over")


async def test_a_node_stopped_before_it_listens_ends(nursery: trio.Nursery) -> None:
    """After a signal in the first milliseconds of a start, the task that waits for the port continues."""
    for stop in (
        lambda clients: clients.stop("early"),
        lambda clients: clients.drain_all("early", quiet_s=0.1),
    ):
        clients = make_clients()
        stop(clients)
        with trio.fail_after(5):
            await nursery.start(clients.run)


async def dial(port: int) -> Peer:
    return Peer(await trio.open_tcp_stream("127.0.0.1", port))


async def refused(port: int) -> OSError | None:
    try:
        await (await dial(port)).stream.aclose()
    except OSError as error:
        return error
    return None


# --- over memory streams ----------------------------------------------------------------------------


async def test_a_conversation() -> None:
    """NET-05, NET-19."""
    clients = make_clients()
    async with memory_peer(clients) as peer:
        await peer.hello()
        await peer.say(b"SUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n")
        assert [await peer.line() for _ in range(3)] == [b"MSG a 1 2", b"hi", b"PONG"]
    assert [connection.close_reason for connection in clients.closed] == ["the client has left"]
    assert clients.counters() == (1, 2, 1, 2)
    assert not clients.connections


async def test_a_client_that_closes_its_sending_half_gets_its_answer() -> None:
    """As ``nc`` does when its input ends."""
    clients = make_clients()
    async with memory_peer(clients) as peer:
        assert isinstance(peer.stream, trio.abc.HalfCloseableStream)
        await peer.say(HELLO)
        await peer.stream.send_eof()
        assert (await peer.rest()).endswith(b"}\r\nPONG\r\n")


async def test_no_connect_within_the_auth_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """AUT-04: two seconds, which take no time here."""
    clients = make_clients(authenticator=Authenticator(token="t"))
    async with memory_peer(clients) as peer:
        await peer.line()
        assert await peer.rest() == b"-ERR 'Authentication Timeout'\r\n"
        assert trio.current_time() == 2


async def test_a_client_that_does_not_answer_pings_is_disconnected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """NET-32: the client is disconnected after two unanswered PINGs: six minutes, which take no time here."""
    clients = make_clients()
    async with memory_peer(clients) as peer:
        await peer.hello()
        assert [await peer.line(), trio.current_time()] == [b"PING", 120]
        assert [await peer.line(), trio.current_time()] == [b"PING", 240]
        assert await peer.rest() == b"-ERR 'Stale Connection'\r\n"
        assert trio.current_time() == 360


async def test_a_client_that_does_not_read_is_disconnected(autojump_clock: trio.testing.MockClock) -> None:
    """NET-33: after the write deadline, without an error; other clients are unaffected."""
    clients = make_clients()
    async with memory_peer(clients, lockstep=True) as slow, memory_peer(clients) as fine:
        await slow.hello()
        await fine.hello()
        await slow.say(b"SUB a 1\r\nPING\r\n")
        assert await slow.line() == b"PONG"
        start = trio.current_time()
        await fine.say(b"SUB a 1\r\nPUB a 0\r\n\r\n")
        assert [await fine.line(), await fine.line()] == [b"MSG a 1 0", b""]
        await trio.sleep(11)
        (gone,) = clients.closed
        assert gone.is_slow_consumer
        assert gone.closed_s - start == 10
        assert clients.slow_consumers == 1
        await fine.say(b"PING\r\n")
        assert await fine.line() == b"PONG"


async def test_a_client_with_too_much_pending_is_disconnected_during_a_write() -> None:
    """NET-33: the limit on pending bytes applies before the write deadline."""
    clients = make_clients(limits={"max_pending": 10_000, "pending_soft": 1000})
    async with memory_peer(clients, lockstep=True) as slow, memory_peer(clients) as fine:
        await slow.hello()
        await fine.hello()
        await slow.say(b"SUB a 1\r\nPING\r\n")
        await slow.line()
        await fine.say(b"PUB a 6000\r\n%b\r\n" % bytes(6000) * 2)
        with trio.fail_after(5):
            while not clients.closed:
                await trio.testing.wait_all_tasks_blocked()
        assert "pending" in clients.closed[0].close_reason


async def test_gathered_output_is_sent_in_one_write() -> None:
    """All replies to one read buffer take one call; large ones are sent in pieces."""
    clients = make_clients()
    sizes: list[int] = []
    ours, theirs = trio.testing.memory_stream_pair()
    send_all = theirs.send_all

    async def counted(data: bytes) -> None:
        sizes.append(len(data))
        await send_all(data)

    theirs.send_all = counted  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients.serve, theirs, ("127.0.0.1", 5))
        peer = Peer(ours)
        await peer.hello()
        await peer.say(b"SUB a 1\r\n" + b"PUB a 1\r\nx\r\n" * 200)
        await trio.testing.wait_all_tasks_blocked()
        assert sizes[2:] == [14 * 200]
        await peer.say(b"PUB a 700000\r\n%b\r\nPING\r\n" % bytes(700_000))
        await trio.testing.wait_all_tasks_blocked()
        assert sum(sizes[3:]) == len(b"MSG a 1 700000\r\n\r\n") + 700_000 + len(b"PONG\r\n")
        assert max(sizes) <= 262_144
        await ours.aclose()


async def test_drained_is_reported_when_the_outbox_has_capacity_again() -> None:
    """R3: the effect executor is notified to continue its deliveries."""
    clients = make_clients(limits={"pending_soft": 1000})
    service = clients.context.service
    assert isinstance(service, Service)
    async with memory_peer(clients) as peer:
        await peer.hello()
        await peer.say(b"SUB a 1\r\nPUB a 2000\r\n%b\r\n" % bytes(2000))
        await trio.testing.wait_all_tasks_blocked()
        assert service.drained_count == 1


async def test_a_paused_connection_leaves_its_bytes_in_the_socket(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """R21: bytes of a read that had begun are carried out; no other read begins."""
    clients = make_clients()
    async with memory_peer(clients) as peer:
        await peer.hello()
        (connection,) = clients.connections.values()
        connection.pause_reading()
        await peer.say(b"PING\r\n")
        assert await peer.line() == b"PONG"
        await peer.say(b"PING\r\n")
        with trio.move_on_after(10) as waited:
            await peer.line()
        assert waited.cancelled_caught
        connection.resume_reading()
        assert await peer.line() == b"PONG"


async def test_held_connections_are_released_together() -> None:
    """R4: the port may listen before the node is ready; the first PONG waits."""
    ready = False
    clients = make_clients(node_ready=lambda: ready)
    async with memory_peer(clients) as ann, memory_peer(clients) as bob:
        for peer in (ann, bob):
            await peer.line()
            await peer.say(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        ready = True
        clients.release()
        assert await ann.line() == b"PONG"
        assert await bob.line() == b"PONG"


async def test_new_addresses_are_announced_to_all_clients_once() -> None:
    """NET-36."""
    clients = make_clients()
    clients.announce(["a:1"])
    async with memory_peer(clients) as peer:
        await peer.hello()
        clients.announce(["a:1", "b:2"])
        clients.announce(["a:1", "b:2"])
        assert json.loads((await peer.line())[5:])["connect_urls"] == ["a:1", "b:2"]
        await peer.say(b"PING\r\n")
        assert await peer.line() == b"PONG"


async def test_lame_duck(autojump_clock: trio.testing.MockClock) -> None:
    """NET-37: all clients get INFO; none is closed within the grace period; then one after the other is."""
    clients = make_clients()
    closed_at: list[float] = []

    async def watch(peer: Peer) -> None:
        fields = json.loads((await peer.line())[5:])
        assert fields["ldm"] is True
        assert fields["connect_urls"] == ["b:2"]
        await peer.rest()
        closed_at.append(trio.current_time())
        await peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients.run)
        for _ in range(3):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(clients.serve, theirs, ("127.0.0.1", 5))
            peer = Peer(ours)
            await peer.hello()
            nursery.start_soon(watch, peer)
        await clients.lame_duck(["b:2"], answered=trio.lowlevel.checkpoint)
        clients.stop("the node has left")
        ours, theirs = trio.testing.memory_stream_pair()
        await clients.serve(theirs, ("127.0.0.1", 5))  # accepted just before: sent INFO, then closed
        assert b'"ldm":true' in await Peer(ours).rest()
    assert closed_at == [10, 11, 12]


async def test_writing_the_outbox_of_a_closed_connection_is_limited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A client that neither reads nor closes can't keep a node from stopping."""
    clients = make_clients()
    async with memory_peer(clients, lockstep=True) as peer:
        await peer.hello()
        await peer.say(b"SUB a 1\r\nPUB a 0\r\n\r\n")
        clients.close_all("enough")
        await trio.sleep(1.5)
        assert clients.closed[0].closed_s == 0
        assert clients.closed[0].close_reason == "enough"


async def test_a_broken_stream_ends_its_connection_only() -> None:
    clients = make_clients()
    async with memory_peer(clients) as fine:
        await fine.hello()
        async with memory_peer(clients) as broken:
            await broken.hello()
            await broken.say(b"SUB a 1\r\n")
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(broken.stream, trio.StapledStream)
            await broken.stream.receive_stream.aclose()
            await fine.say(b"PUB a 0\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            assert [connection.close_reason for connection in clients.closed] == ["the connection broke"]
        await fine.say(b"PING\r\n")
        assert await fine.line() == b"PONG"


async def test_an_unexpected_exception_is_not_caught() -> None:
    """No handler catches all exceptions: a node with a bug stops."""
    clients = make_clients()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    clients.context.routing.serve(b"a", broken)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with memory_peer(clients) as peer:
            await peer.say(HELLO + b"PUB a 0\r\n\r\n")
            await trio.sleep_forever()
    assert not clients.connections


async def test_wrapping_comes_after_info_and_before_connect() -> None:
    """AUT-08: INFO is sent as plain text, everything after it through the stream that ``wrap`` returns."""
    inner_ours, inner_theirs = trio.testing.memory_stream_pair()

    async def wrap(stream: trio.abc.Stream) -> trio.abc.Stream:
        assert await stream.receive_some() == b"handshake"
        return inner_theirs

    clients = make_clients(wrap=wrap)
    async with memory_peer(clients) as peer:
        assert (await peer.line()).startswith(b"INFO {")
        await peer.say(b"handshake")
        inside = Peer(inner_ours)
        await inside.say(HELLO)
        assert await inside.line() == b"PONG"
        await inner_ours.aclose()


# --- over the loopback ------------------------------------------------------------------------------


async def test_info_is_sent_at_accept() -> None:
    """NET-01."""
    clients = make_clients()
    async with listening(clients) as port:
        assert port == clients.port > 0
        with trio.fail_after(5):
            peer = await dial(port)
            fields = json.loads((await peer.line())[5:])
        assert fields["port"] == port
        assert fields["client_ip"] == "127.0.0.1"
        (connection,) = clients.connections.values()
        assert connection.address == peer.stream.socket.getsockname()  # type: ignore[attr-defined]
        await peer.stream.aclose()


async def test_a_password_hash_is_compared_while_others_are_served() -> None:
    """AUT-07."""
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    clients = make_clients(authenticator=Authenticator([User("ann", hashed)]))
    async with listening(clients) as port:
        for password, answer in ((b"x", b"PONG"), (b"y", b"-ERR 'Authorization Violation'")):
            peer = await dial(port)
            await peer.line()
            options = b'{"user":"ann","pass":"%b","verbose":false}' % password
            await peer.say(b"CONNECT " + options + b"\r\nPING\r\n")
            assert await peer.line() == answer
            await peer.stream.aclose()


async def test_the_last_error_arrives_although_the_client_keeps_sending() -> None:
    """NET-12: closing a socket with unread bytes resets it, and the error would be lost."""
    clients = make_clients(limits={"max_payload": 1000})
    async with listening(clients) as port:
        for _ in range(5):
            peer = await dial(port)
            await peer.hello()
            await peer.say(b"PUB a 2000000\r\n" + bytes(2_000_000))
            assert await peer.rest() == b"-ERR 'Maximum Payload Violation'\r\n"
            await peer.stream.aclose()


async def test_one_connection_too_many() -> None:
    """NET-34."""
    clients = make_clients(limits={"max_connections": 2})
    async with listening(clients) as port:
        peers = [await dial(port) for _ in range(2)]
        for peer in peers:
            await peer.hello()
        extra = await dial(port)
        assert (await extra.line()).startswith(b"INFO ")
        assert await extra.rest() == b"-ERR 'maximum connections exceeded'\r\n"
        for peer in (*peers, extra):
            await peer.stream.aclose()


async def test_far_too_many_connections_are_closed_without_an_error() -> None:
    """A connection that is sent an error takes a descriptor for a while, and the journal needs some too."""
    clients = make_clients(limits={"max_connections": 2})
    async with listening(clients) as port:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2 + REFUSED_MAX + 5)]
        with trio.fail_after(5):
            greeted = [bool(await stream.receive_some(1)) for stream in streams]
        assert greeted.count(False) == 5
        assert len(clients.connections) == 2 + REFUSED_MAX
        for stream in streams:
            await stream.aclose()


async def test_a_drained_client_is_read_from_until_it_closes() -> None:
    """Operations it sends before it reads the end of the stream are carried out; then the connection ends."""
    clients = make_clients()
    reachable: list[bytes] = []
    clients.context.routing.serve(b"a", lambda _source, _subject, _reply, payload: reachable.append(payload))
    with trio.fail_after(5):
        async with listening(clients) as port:
            peer = await dial(port)
            await peer.hello()
            await peer.say(b"PUB a 1\r\n1\r\n")
            await clients.quiesce()
            clients.drain_all("this node stops", quiet_s=5)
            assert await peer.rest() == b""
            await peer.say(b"PUB a 1\r\n2\r\nPUB a 1\r\n3\r\n")
            await peer.stream.aclose()
    assert reachable == [b"1", b"2", b"3"]
    assert [connection.close_reason for connection in clients.closed] == ["this node stops"]


async def test_a_drained_client_that_does_not_close_is_not_waited_for() -> None:
    clients = make_clients()
    began_s = trio.current_time()
    with trio.fail_after(5):
        async with listening(clients) as port:
            peer = await dial(port)
            await peer.hello()
            began_s = trio.current_time()
            clients.drain_all("this node stops", quiet_s=0.05)
    assert trio.current_time() - began_s < 0.5
    await peer.stream.aclose()


async def test_stop_ends_run() -> None:
    clients = make_clients()
    with trio.fail_after(5):
        async with listening(clients) as port:
            peer = await dial(port)
            await peer.hello()
            clients.stop("done")
            assert await peer.rest() == b""
            await peer.stream.aclose()
    assert [connection.close_reason for connection in clients.closed] == ["done"]


async def test_a_port_in_use_is_a_configuration_error() -> None:
    clients = make_clients()
    async with listening(clients) as port:
        other = make_clients()
        other.port = port
        with pytest.RaisesGroup(ConfigError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(other.run)


async def test_epochs_grow_and_are_never_reused() -> None:
    """R15: also across a restart of the node, where connection numbers start anew."""
    epochs: list[int] = []
    for _ in range(2):
        clients = make_clients()
        for _ in range(3):
            async with memory_peer(clients) as peer:
                await peer.hello()
                (connection,) = clients.connections.values()
                epochs.append(connection.epoch)
    assert epochs == sorted(set(epochs))
    assert [connection.cid for connection in clients.closed] == [1, 2, 3]
