"""The pages over real sockets on the loopback: paths, JSON, tokens, and a prompt end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import trio

from node.errors import NodeError
from node.monitor.admission import ADDRESS_MAX, CONNECTIONS_MAX
from node.monitor.http import serve

from .conftest import FakeSource

Serving = Callable[..., AbstractAsyncContextManager[tuple[str, int]]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@pytest.fixture
def serving(source: FakeSource) -> Serving:
    @asynccontextmanager
    async def serving(**how: Any) -> AsyncIterator[tuple[str, int]]:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(partial(serve, source, ("127.0.0.1", 0), **how))
            yield address
            nursery.cancel_scope.cancel()

    return serving


async def get(
    address: tuple[str, int], path: str, *, method: str = "GET", token: str = "", host: str = "127.0.0.1:8222"
) -> Answer:
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{authorization}\r\n"
        await stream.send_all(request.encode())
        answer = b"".join([part async for part in stream]).decode()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        body = unchunked(body)
    return Answer(int(status.split()[1]), headers, body)


def unchunked(text: str) -> str:
    """The body that chunks carry; pages are ASCII."""
    body = ""
    while text:
        size, _, text = text.partition("\r\n")
        body, text = body + text[: int(size, 16)], text[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize(
    "path",
    ["/varz", "/connz", "/routez", "/subsz", "/subscriptionsz", "/raftz", "/streaming/serverz",
     "/streaming/storez", "/streaming/clientsz", "/streaming/channelsz", "/streaming/channelsz?subs=1",
     "/streaming/raftz", "/accountz", "/accountz?acc=$G", "/accstatz", "/gatewayz", "/leafz", "/jsz"],
)  # fmt: skip
async def test_every_page_is_json_indented_by_two(serving: Serving, source: FakeSource, path: str) -> None:
    source.subscription(source.channel("orders", [1]), source.client("ann"))
    async with serving() as address:
        answer = await get(address, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.startswith('{\n  "')
    assert "now" in answer.json


async def test_pages_of_links(serving: Serving) -> None:
    async with serving() as address:
        assert '<a href="/varz">' in (await get(address, "/")).body
        assert '<a href="/streaming/channelsz">' in (await get(address, "/streaming")).body


async def test_health_is_a_status(serving: Serving, source: FakeSource) -> None:
    """MON-14."""
    async with serving() as address:
        assert (await get(address, "/healthz"))[::2] == (200, '{"status":"ok"}')
        source.error = "no leader"
        assert (await get(address, "/healthz"))[::2] == (503, '{"status":"error","error":"no leader"}')


async def test_no_node_is_ft_active(serving: Serving) -> None:
    """MON-16."""
    async with serving() as address:
        assert (await get(address, "/streaming/isFTActive"))[::2] == (204, "")


async def test_an_unknown_item_is_404(serving: Serving) -> None:
    """MON-05."""
    async with serving() as address:
        assert (await get(address, "/nope")).status == 404
        answer = await get(address, "/streaming/clientsz?client=zoe")
        assert (answer.status, answer.body) == (404, "Client zoe not found\n")
        assert answer.headers["content-type"].startswith("text/plain")


async def test_an_invalid_query_is_400(serving: Serving) -> None:
    async with serving() as address:
        assert (await get(address, "/connz?limit=x")).status == 400
        assert (await get(address, "/varz?callback=alert(1)//")).status == 400


async def test_a_callback_gets_javascript_where_it_is_switched_on(serving: Serving) -> None:
    """MON-10. Elsewhere any page in a browser could read this node's pages by a script element."""
    async with serving() as address:
        refused = await get(address, "/varz?callback=seen")
        assert (refused.status, refused.body) == (
            400,
            "callback: JSONP is switched off (monitoring.jsonp)\n",
        )
    async with serving(jsonp=True) as address:
        assert (await get(address, "/varz?callback=alert(1)//")).status == 400
        answer = await get(address, "/varz?callback=seen")
    assert answer.headers["content-type"].startswith("application/javascript")
    assert answer.body.startswith("seen({")
    assert answer.body.endswith("})")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_only_get(serving: Serving, method: str) -> None:
    async with serving() as address:
        assert (await get(address, "/varz", method=method)).status == 405


async def test_requests_are_counted(serving: Serving) -> None:
    async with serving() as address:
        await get(address, "/varz")
        await get(address, "/healthz")
        assert (await get(address, "/varz")).json["http_req_stats"] == {"/varz": 2, "/healthz": 1}


async def test_a_token_is_needed_for_everything(serving: Serving) -> None:
    async with serving(token="hunter2") as address:
        for token in ("", "hunter", "hunter22"):
            answer = await get(address, "/healthz", token=token)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "bearer")
        assert (await get(address, "/healthz", token="hunter2")).status == 200


async def test_a_base_path_stands_before_everything(serving: Serving) -> None:
    async with serving(base_path="/nats") as address:
        assert (await get(address, "/nats/varz")).json["http_base_path"] == "/nats"
        assert '<a href="/nats/varz">' in (await get(address, "/nats/")).body
        assert (await get(address, "/varz")).status == 404


async def test_an_address_in_use_is_named(serving: Serving, source: FakeSource) -> None:
    async with serving() as address:
        with pytest.raises(NodeError, match=rf"can't listen on 127\.0\.0\.1:{address[1]}"):
            await serve(source, address)


async def test_cancelling_ends_idle_and_stalled_connections_at_once(
    serving: Serving, source: FakeSource
) -> None:
    """A reader that never reads holds nobody up."""
    for number in range(3000):
        source.channel(f"{'long' * 800}.{number}")
    with trio.fail_after(5):
        async with serving() as address:
            idle = await trio.open_tcp_stream(*address)
            stalled = trio.socket.socket()
            stalled.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 2048)
            await stalled.connect(address)
            await stalled.send(
                b"GET /streaming/channelsz?limit=3000&subs=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            await stalled.recv(1)  # an answer of ten megabytes is on its way
    await idle.aclose()
    stalled.close()


async def test_idle_connections_do_not_keep_others_out(serving: Serving) -> None:
    """64 of them kept everybody else out. Now the one that has been idle for longest makes room."""
    async with serving() as address:
        streams = [await trio.open_tcp_stream(*address) for _ in range(CONNECTIONS_MAX + 1)]
        with trio.fail_after(5):
            assert await streams[0].receive_some(1) == b""
            assert (await get(address, "/healthz")).status == 200
            assert (await get(address, "/varz")).status == 200
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8222", "127.0.0.1.evil.example:80"])
async def test_a_name_that_is_not_this_nodes_is_refused(serving: Serving, host: str) -> None:
    """A page in a browser can have its own name resolve to this node. ``/healthz`` tells nothing."""
    async with serving(names=["n1.example"]) as address:
        answer = await get(address, "/varz", host=host)
        assert answer.status == 403
        assert "monitoring.hosts" in answer.body
        assert (await get(address, "/healthz", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8222", "[::1]:8222", "[::1]", "10.1.2.3:80", "localhost:1", "N1.example."],
)
async def test_names_and_addresses_of_this_node_are_answered(serving: Serving, host: str) -> None:
    async with serving(names=["n1.example"]) as address:
        assert (await get(address, "/varz", host=host)).status == 200


async def test_a_token_may_come_under_any_name(serving: Serving) -> None:
    """No page in a browser has it."""
    async with serving(token="hunter2") as address:
        assert (await get(address, "/varz", host="any.example", token="hunter2")).status == 200


async def test_long_pages_arrive_complete_in_chunks_for_many_readers(
    serving: Serving, source: FakeSource
) -> None:
    for number in range(500):
        source.subscription(source.channel(f"channel.{number:03}"), source.client(f"client.{number:03}"))
    answers: list[Answer] = []

    async def read(path: str) -> None:
        answers.append(await get(address, path))

    async with serving() as address, trio.open_nursery() as readers:
        for path in ["/streaming/channelsz?subs=1", "/streaming/clientsz?subs=1"] * 4:
            readers.start_soon(read, path)
    assert [len(answer.json.get("channels") or answer.json["clients"]) for answer in answers] == [500] * 8
    assert {answer.headers["transfer-encoding"] for answer in answers} == {"chunked"}
    indented = json.dumps(answers[0].json, indent=2)
    assert answers[0].body == indented


async def test_readers_that_hang_up_leave_nothing_behind(serving: Serving) -> None:
    """Many short connections in a row: each closed by its reader, none waits out a keep-alive."""
    async with serving() as address:
        for _ in range(2 * ADDRESS_MAX):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_page_that_fails_costs_its_reader_the_connection(
    serving: Serving, source: FakeSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody else anything: who can look at a node must not be able to end it."""

    def fails(_source: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("node.monitor.views.raftz", fails)
    async with serving() as address:
        assert (await get(address, "/raftz")).status == 500
        assert (await get(address, "/healthz")).status == 200
    assert "a request to monitoring failed" in caplog.text
    assert "a mistake of ours" in caplog.text
