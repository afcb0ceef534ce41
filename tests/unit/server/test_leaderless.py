"""Whether another node may serve the clients of a node without a leader."""

from __future__ import annotations

import socket

import trio
import trio.testing

from node.server.leaderless import any_takes_clients, may_take_clients


async def answering(line: bytes) -> bool:
    """Return the result for a node whose first line is ``line``."""

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(line)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            trio.serve_listeners, greet, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        )
        found = await may_take_clients(f"127.0.0.1:{port}")
        nursery.cancel_scope.cancel()
    return found


def unused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_node_that_sends_info_may_take_clients() -> None:
    assert await answering(b'INFO {"server_id":"X"}\r\n')


async def test_a_node_in_lame_duck_mode_takes_no_clients() -> None:
    assert not await answering(b'INFO {"ldm":true}\r\n')


async def test_a_refused_connection_means_no_clients() -> None:
    assert not await may_take_clients(unused())
    assert not await any_takes_clients([unused(), unused()])
    assert not await any_takes_clients([])


async def test_an_unexpected_greeting_may_come_from_a_node() -> None:
    """It may be a proxy: a node behind it may take clients."""
    assert await answering(b"INFO {broken\r\n")


async def test_a_machine_that_does_not_answer_may_take_clients(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        assert await may_take_clients(f"127.0.0.1:{listener.getsockname()[1]}")
