"""Reading a monitoring page, and the errors if a node does not answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from node.cli.ask import ask, monitoring_address
from node.config.model import Node
from node.config.values import Address, parse_address
from node.errors import UnavailableError


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[Address, list[bytes]]]:
    asked: list[bytes] = []

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            asked.append(bytes(await stream.receive_some(65536)))
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield Address("127.0.0.1", listener.socket.getsockname()[1]), asked
        nursery.cancel_scope.cancel()


async def test_a_page_is_decoded() -> None:
    async with answering(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"a": 1}') as (address, asked):
        assert await ask(address, "/varz", token="t") == {"a": 1}
    assert asked[0].startswith(b"GET /varz HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer t\r\n" in asked[0]


async def test_an_unhealthy_page_is_returned() -> None:
    async with answering(b'HTTP/1.1 503 No\r\nContent-Length: 7\r\n\r\n{"a":1}') as (address, _):
        assert await ask(address, "/healthz") == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            b"HTTP/1.1 401 No\r\nConnection: close\r\n\r\na token is needed\n",
            r"answered 401 to /varz: a token",
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>", "something that is not JSON"),
        (b"INFO {}\r\n", "can't be reached"),
        (b"", "can't be reached"),
    ],
)
async def test_other_answers_are_errors(answer: bytes, problem: str) -> None:
    async with answering(answer) as (address, _):
        with pytest.raises(UnavailableError, match=problem):
            await ask(address, "/varz")


async def test_an_unreachable_node_is_an_error() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(UnavailableError, match="can't be reached: connection refused"):
        await ask(Address("127.0.0.1", port), "/varz")


@pytest.mark.parametrize(
    ("http", "client", "asked"),
    [
        ("10.0.0.1:8222", "10.0.0.1:4222", "10.0.0.1:8222"),
        ("0.0.0.0:8222", "10.0.0.1:4222", "10.0.0.1:8222"),
        ("0.0.0.0:8222", "0.0.0.0:4222", "127.0.0.1:8222"),
    ],
)
def test_an_unspecified_address_is_replaced(http: str, client: str, asked: str) -> None:
    node = Node(client=parse_address(client), http=parse_address(http))
    assert str(monitoring_address(node)) == asked


def test_a_node_without_http_cannot_be_asked() -> None:
    assert monitoring_address(Node(client=Address("127.0.0.1", 1))) is None
