"""HTTP as monitoring speaks it: what is answered, and what is only told off."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from node.monitor.connection import HEAD_BYTES_MAX, READ_TIMEOUT_S, WRITE_TIMEOUT_S, serve_connection

GET = b"GET /page HTTP/1.1\r\nHost: n1\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says what was asked for."""
    body = f"{scope['method']} {scope['path']} {scope['query_string'].decode()}".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def say(*parts: bytes) -> bytes:
    """Everything that is answered to these bytes, up to the end."""
    here, there = await pair()
    answer = b""
    async with here, there, trio.open_nursery() as nursery:

        async def serve() -> None:
            with suppress(trio.BrokenResourceError):
                await serve_connection(there, app)
            await there.aclose()

        nursery.start_soon(serve)
        try:
            for part in parts:
                await here.send_all(part)
            await here.send_eof()
            answer = b"".join([part async for part in here])
        except trio.BrokenResourceError:
            pass
    return answer


def bodies(answer: bytes) -> list[bytes]:
    return [each.partition(b"\r\n\r\n")[2] for each in answer.split(b"HTTP/1.1 200")[1:]]


async def test_one_request_after_the_other() -> None:
    """Also if they come at once, or byte by byte."""
    for parts in ([GET + GET], [GET, GET], [bytes([byte]) for byte in GET + GET]):
        assert bodies(await say(*parts)) == [b"GET /page ", b"GET /page "]


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"GET http://n1:8222/page?a=1&b=%20 HTTP/1.1\r\nHost: n1\r\n\r\n", b"GET /page a=1&b=%20"),
        (b"GET /p%61ge%ff HTTP/1.0\r\n\r\n", "GET /page\ufffd ".encode()),
        (b"HEAD /page HTTP/1.1\r\nHost: n1\r\n\r\n", b""),
        (b"GET /page HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n" + GET, b"GET /page "),
        (b"OPTIONS * HTTP/1.1\r\nHost: n1\r\n\r\n", b"OPTIONS * "),
    ],
)
async def test_what_is_asked_for(request_: bytes, body: bytes) -> None:
    assert bodies(await say(request_)) == [body]


@pytest.mark.parametrize(
    "more",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Content-Length: 500000000000\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    ],
)
async def test_behind_the_answer_to_a_request_with_a_body_is_the_end(more: bytes) -> None:
    answer = await say(b"POST /page HTTP/1.1\r\nHost: n1\r\n" + more)
    assert bodies(answer) == [b"POST /page "]
    assert b"onnection: close\r\n" in answer


@pytest.mark.parametrize(
    "more",
    [
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n",
    ],
)
async def test_no_other_protocol_is_spoken(more: bytes) -> None:
    assert bodies(await say(b"GET /page HTTP/1.1\r\nHost: n1\r\n" + more + b"\r\n")) == [b"GET /page "]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /page HTTP/1.1\r\n\r\n",  # without a host
        b"GET /page HTTP/1.1\r\nHost: n1\r\nContent-Length: -5\r\n\r\n",
        b"GET /page HTTP/1.1\r\nHost: n1\r\nX: " + b"x" * HEAD_BYTES_MAX,
    ],
)
async def test_bytes_that_are_not_http_get_an_error(nonsense: bytes) -> None:
    answer = await say(nonsense)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))
    assert answer.endswith(b"not HTTP as this server speaks it\n")
    assert b"connection: close\r\n" in answer.lower()


async def test_nonsense_behind_a_request_costs_the_connection() -> None:
    """As it came, this ended a node: an answer was on its way when another was to be sent."""
    answer = await say(b"GET /page HTTP/1.0\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert bodies(answer) == [b"GET /page "]
    (body,) = bodies(await say(GET + b"nonsense\r\n\r\n"))
    assert body.startswith(b"GET /page HTTP/1.1 400")


async def test_a_connection_without_request_is_closed(mock_clock: trio.testing.MockClock) -> None:
    """Or too little too slowly: a head has to be whole in time."""
    for said in (b"", b"GET /pa", GET):
        here, there = await pair()
        async with here, there, trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, there, app)
            await here.send_all(said)
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(READ_TIMEOUT_S)


async def test_a_slow_reader_is_disconnected(mock_clock: trio.testing.MockClock) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})

    here, there = await pair()
    async with here, there, trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(trio.BrokenResourceError, match="slow"):
                await serve_connection(there, endless)

        nursery.start_soon(serve)
        await here.send_all(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(WRITE_TIMEOUT_S)


SEEDS = [
    GET,
    b"GET /page?a=1 HTTP/1.0\r\n\r\n",
    b"POST /page HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /page HTTP/1.1\r\nHost: n1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    b"HEAD http://x//y/%00?%ff HTTP/1.1\r\nHost: n1\r\nContent-Length: 3\r\n\r\nabc",
]


@pytest.mark.parametrize("seed", range(8))
async def test_no_bytes_do_more_than_end_their_connection(seed: int) -> None:
    """Requests cut, mixed and damaged: an answer or none, and never an error of this end."""
    rng = random.Random(seed)
    for _ in range(60):
        data = bytearray(b"".join(rng.choices(SEEDS, k=rng.randint(1, 3))))
        for _ in range(rng.randint(0, 4)):
            at = rng.randrange(len(data))
            damage = [bytes([rng.randrange(256)]), b"", bytes(data[:at]), rng.choice(SEEDS)]
            data[at : at + rng.randint(0, 6)] = rng.choice(damage)
            data = data or bytearray(b"\n")
        cut = rng.randrange(len(data) + 1)
        with trio.fail_after(5):
            await say(bytes(data[:cut]), bytes(data[cut:]))
