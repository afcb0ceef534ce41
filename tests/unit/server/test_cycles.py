"""Ended connections are freed by reference counts, because full collections are rare (`collecting`)."""

from __future__ import annotations

import gc
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from node.server.clients import Clients
from node.server.connection import Connection
from node.server.context import ClientLimits, Context, ServerInfo
from node.server.routing import Routing
from node.server.subscriptions import LocalSubscription

HELLO = b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\nPING\r\n'
CONNECTIONS = 20


class Service:
    def read_done(self, connection: Any) -> None:
        pass

    drained = closed = read_done


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Count, by type, the objects released within this block that only the cycle collector frees."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(thing).__qualname__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def _leaves(stream: trio.SocketStream, clients: Clients) -> None:
    await stream.aclose()


async def _resets(stream: trio.SocketStream, clients: Clients) -> None:
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()


async def _talks_nonsense(stream: trio.SocketStream, clients: Clients) -> None:
    await stream.send_all(b"NONSENSE\r\n")


async def _talks_nonsense_at_length(stream: trio.SocketStream, clients: Clients) -> None:
    await stream.send_all(b"SUB " + b"a" * 10_000)


async def _is_closed(stream: trio.SocketStream, clients: Clients) -> None:
    clients.close_all("the test says so")


async def _is_aborted(stream: trio.SocketStream, clients: Clients) -> None:
    for connection in list(clients.connections.values()):
        connection.abort("the test says so")


@pytest.mark.parametrize(
    "end", [_leaves, _resets, _talks_nonsense, _talks_nonsense_at_length, _is_closed, _is_aborted]
)
async def test_ended_connections_are_freed_at_once(
    end: Callable[[trio.SocketStream, Clients], Awaitable[None]],
) -> None:
    context = Context(
        routing=Routing("n1", send=lambda peer, value: None),
        service=Service(),
        info=ServerInfo("ID", "n1", "127.0.0.1", 0),
        clock=trio.current_time,
        limits=ClientLimits(),
    )
    clients = Clients(context, host="127.0.0.1", port=0)
    clients.closed = deque(maxlen=0)  # ended connections kept for monitoring are not garbage

    async def one(port: int) -> None:
        with trio.fail_after(10):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(HELLO + b"SUB a.* 1\r\nSUB b q 2\r\nPUB a.1 1\r\nx\r\nPING\r\n")
            came = b""
            while came.count(b"PONG") < 2:
                came += await stream.receive_some(4096)
            await end(stream, clients)
            try:
                while end is not _leaves and end is not _resets and await stream.receive_some(4096):
                    pass
            except trio.BrokenResourceError:
                pass  # it was aborted
            await trio.aclose_forcefully(stream)
            while clients.connections:  # noqa: ASYNC110  # there is no event for the last one
                await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        port = await nursery.start(clients.run)
        await one(port)  # creates objects that are created only once
        with garbage() as found:
            for _ in range(CONNECTIONS):
                await one(port)
            left = sum(type(thing) in (Connection, LocalSubscription) for thing in gc.get_objects())
        clients.stop("the test is over")
    assert left <= 2  # a route remembers the last ones
    # The test's own stream and exceptions may leave a few objects. One object per connection would be a leak.
    assert all(count < CONNECTIONS for count in found.values()), found
