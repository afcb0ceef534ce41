"""The NATS connection that reconnects to other nodes."""

from __future__ import annotations

import pytest
import trio
from unit.client.scripted_server import ScriptedServer

from node.client.nats import Nats, Options, Server
from node.errors import RefusedError, UnavailableError
from node.protocol import nats


@pytest.mark.parametrize("text", ["localhost:4222", "nats://localhost:4222"])
def test_an_address_is_host_and_port(text: str) -> None:
    assert Server.parse(text) == Server("localhost", 4222)


@pytest.mark.parametrize("text", ["localhost", "localhost:", "localhost:http", "a:0", "a:70000"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        Server.parse(text)


async def test_without_a_server_there_is_no_connection() -> None:
    with pytest.raises(ValueError, match="no server"):
        Nats([])


async def test_a_request_gets_its_answer(nursery: trio.Nursery) -> None:
    server = ScriptedServer(lambda here, pub: here.message(pub.reply, b"you said " + pub.payload))
    await nursery.start(server.run)
    client = Nats([server.server])
    nursery.start_soon(client.run)
    await client.connected.wait()
    assert await client.request(b"ask", b"this") == b"you said this"


async def test_no_responders_fail_at_once(nursery: trio.Nursery) -> None:
    server = ScriptedServer(lambda here, pub: here.message(pub.reply, b"", b"NATS/1.0 503\r\n\r\n"))
    await nursery.start(server.run)
    client = Nats([server.server])
    nursery.start_soon(client.run)
    await client.connected.wait()
    with pytest.raises(UnavailableError, match="no responders"):
        await client.request(b"ask", b"this")


async def test_subscriptions_are_made_again_with_the_same_sids(nursery: trio.Nursery) -> None:
    """As every NATS client does on a reconnect, so that a streaming session goes on."""
    server = ScriptedServer()
    await nursery.start(server.run)
    got: list[bytes] = []
    client = Nats([server.server])
    client.subscribe(b"inbox", lambda message: got.append(message.payload))
    nursery.start_soon(client.run)
    await client.connected.wait()
    await client.flush()
    before = dict(server.subs)
    await server.drop()
    await client.broken.wait()
    while not client.connected.is_set():
        await client.connected.wait()
    await client.flush()
    assert server.subs == before
    server.message(b"inbox", b"hello again")
    await server.push()
    await client.flush()
    assert got == [b"hello again"]
    assert server.connections == 2


async def test_a_request_under_way_when_the_connection_breaks_fails(nursery: trio.Nursery) -> None:
    server = ScriptedServer()
    await nursery.start(server.run)
    client = Nats([server.server])
    nursery.start_soon(client.run)
    await client.connected.wait()
    nursery.start_soon(_drop_when_asked, server)
    with pytest.raises(UnavailableError, match="broke before"):
        await client.request(b"ask", b"this")


async def test_the_last_bytes_of_a_dead_server_are_read(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed write ended the connection while the socket still had messages: they were lost."""
    monkeypatch.setattr("node.client.nats.READ_BYTES", 512)
    server = ScriptedServer()
    await nursery.start(server.run)
    got: list[bytes] = []
    client = Nats([server.server])

    def take(message: nats.Msg) -> None:
        got.append(message.payload)
        client.publish(b"ack", message.payload)

    client.subscribe(b"inbox", take)
    nursery.start_soon(client.run)
    await client.connected.wait()
    await client.flush()
    sent = [b"%d" % number for number in range(500)]
    for payload in sent:
        server.message(b"inbox", payload)
    await server.push()
    await server.drop()
    await client.broken.wait()
    assert got == sent


async def _drop_when_asked(server: ScriptedServer) -> None:
    while not any(isinstance(op, nats.Pub) for op in server.ops):
        await trio.lowlevel.checkpoint()
    await server.drop()


async def test_credentials_are_not_sent_to_advertised_servers(nursery: trio.Nursery) -> None:
    """Without ``learns``, a client does not try the servers of INFO."""
    server = ScriptedServer(info={"connect_urls": ["192.0.2.1:4222"]})
    await nursery.start(server.run)
    client = Nats([server.server], Options(token="secret", learns=False))
    nursery.start_soon(client.run)
    await client.connected.wait()
    assert client.servers == [server.server]


async def test_other_nodes_are_learnt_from_info(nursery: trio.Nursery) -> None:
    """When the first node is gone, the client connects to an advertised one."""
    second = ScriptedServer()
    await nursery.start(second.run)
    address = f"127.0.0.1:{second.server.port}"
    first = ScriptedServer(info={"connect_urls": [address]})
    first_nursery = trio.CancelScope()

    async def run_first(task_status: trio.TaskStatus[None]) -> None:
        with first_nursery:
            await first.run(task_status)

    await nursery.start(run_first)
    client = Nats([first.server])
    nursery.start_soon(client.run)
    await client.connected.wait()
    first_nursery.cancel()
    await client.broken.wait()
    while not client.connected.is_set():
        await client.connected.wait()
    assert client.server == second.server


async def test_refused_credentials_end_it(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.send_all(nats.info({"auth_required": True, "max_payload": 1}))
        await stream.receive_some(4096)
        await stream.send_all(nats.err("Authorization Violation"))

    nursery.start_soon(trio.serve_listeners, refuse, listeners)
    client = Nats(
        [Server("127.0.0.1", listeners[0].socket.getsockname()[1])], Options(user="a", password="b")
    )
    with pytest.raises(RefusedError, match="Authorization Violation"):
        await client.run()
