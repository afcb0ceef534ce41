"""Administration requests: answers, refusals, timeouts and broken connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from unit.client.scripted_server import ScriptedServer

from node.cli.administer import ask
from node.cli.target import Cluster
from node.errors import RefusedError, UnavailableError
from node.protocol.nats import Pub


def answering(*values: Any) -> Callable[[ScriptedServer, Pub], None]:
    def answer(server: ScriptedServer, request: Pub) -> None:
        for value in values:
            server.message(request.reply, json.dumps(value).encode())

    return answer


@asynccontextmanager
async def served(answer: Callable[[ScriptedServer, Pub], None]) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(answer)
        await nursery.start(server.run)
        yield Cluster([f"127.0.0.1:{server.server.port}"], "shop")
        nursery.cancel_scope.cancel()


async def test_the_answer_is_what_is_ok() -> None:
    asked: list[tuple[bytes, Any]] = []

    def answer(server: ScriptedServer, request: Pub) -> None:
        asked.append((request.subject, json.loads(request.payload)))
        answers = [{"progress": "one"}, {"progress": "two"}, {"progress": "two"}, {"ok": {"n": 1}}]
        answering(*answers)(server, request)

    said: list[str] = []
    async with served(answer) as cluster:
        assert await ask(cluster, "greet", {"name": "ann"}, progress=said.append) == {"n": 1}
    assert asked == [(b"_STANCHION.admin.shop.greet", {"name": "ann"})]
    assert said == ["one", "two"]


async def test_a_refusal_has_the_nodes_text() -> None:
    async with served(answering({"error": "not today"})) as cluster:
        with pytest.raises(RefusedError, match=r"^not today$"):
            await ask(cluster, "greet", {})


async def test_an_invalid_answer_is_an_error() -> None:
    async with served(answering([1])) as cluster:
        with pytest.raises(UnavailableError, match="sent an invalid answer"):
            await ask(cluster, "greet", {})


async def test_a_node_of_another_cluster_is_an_error() -> None:
    def answer(server: ScriptedServer, request: Pub) -> None:
        server.message(request.reply, b"", b"NATS/1.0 503\r\n\r\n")

    async with served(answer) as cluster:
        with pytest.raises(RefusedError, match=r"127.0.0.1:\d+ is not a node of cluster 'shop'"):
            await ask(cluster, "greet", {})


async def test_no_node_is_reachable(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(UnavailableError, match=r"no node accepted the connection; tried 127\.0\.0\.1:1$"):
        await ask(Cluster(["127.0.0.1:1"], "shop"), "greet", {}, timeout_s=0.5)


async def test_no_answer_in_time(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with served(answering()) as cluster:
        with pytest.raises(UnavailableError, match=r"within 3 s; it may still be executed"):
            await ask(cluster, "greet", {}, timeout_s=3)


class Breaking:
    """A node that closes the connection at the first requests."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.asked = 0
        self.dying = trio.Event()

    def __call__(self, server: ScriptedServer, request: Pub) -> None:
        self.asked += 1
        if self.asked > self.deaths:
            answering({"ok": self.asked})(server, request)
        else:
            self.dying.set()

    async def die(self, server: ScriptedServer) -> None:
        await self.dying.wait()
        await server.drop()


@pytest.mark.parametrize("repeats", [False, True])
async def test_only_repeatable_requests_are_repeated(repeats: bool) -> None:
    breaking = Breaking(1)
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(breaking)
        await nursery.start(server.run)
        nursery.start_soon(breaking.die, server)
        cluster = Cluster([f"127.0.0.1:{server.server.port}"], "shop")
        if repeats:
            assert await ask(cluster, "greet", {}, repeats=True) == 2
        else:
            with pytest.raises(UnavailableError, match="broke before greet was answered"):
                await ask(cluster, "greet", {})
            assert breaking.asked == 1
        nursery.cancel_scope.cancel()
