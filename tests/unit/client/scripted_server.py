"""A small scripted NATS server for tests of the client."""

from __future__ import annotations

from collections.abc import Callable

import trio

from node.client.nats import Server
from node.protocol import nats

Answer = Callable[["ScriptedServer", nats.Pub], None]


class ScriptedServer:
    """Accepts one client at a time; passes every publish to ``answer``."""

    def __init__(self, answer: Answer | None = None, info: dict[str, object] | None = None) -> None:
        self.ops: list[nats.Op] = []
        self.connections = 0
        self.subs: dict[bytes, bytes] = {}
        self._answer = answer
        self._info = {"server_id": "x", "max_payload": 1 << 20, "proto": 1, **(info or {})}
        self._stream: trio.SocketStream | None = None
        self._out: list[bytes] = []
        self._port = 0

    @property
    def server(self) -> Server:
        return Server("127.0.0.1", self._port)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    def message(self, subject: bytes, payload: bytes, headers: bytes = b"") -> None:
        """Send a message to the subscriptions of ``subject``."""
        for sid, pattern in self.subs.items():
            if pattern == subject or (pattern.endswith(b".*") and subject.startswith(pattern[:-1])):
                if headers:
                    self._out.append(nats.hmsg(subject, sid, b"", headers, payload))
                else:
                    self._out.append(nats.msg(subject, sid, b"", payload))

    async def push(self) -> None:
        """Write what ``message`` has gathered outside of an answer."""
        assert self._stream is not None
        await self._flush(self._stream)

    async def drop(self) -> None:
        """Break the present connection."""
        assert self._stream is not None
        await trio.aclose_forcefully(self._stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self._stream = stream
        self.subs = {}
        parser = nats.Parser(1 << 20)
        try:
            await stream.send_all(nats.info(self._info))
            while data := await stream.receive_some(65536):
                parser.feed(data)
                while ops := parser.ops():
                    for op in ops:
                        self._take(op)
                await self._flush(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _flush(self, stream: trio.SocketStream) -> None:
        out, self._out = self._out, []
        if out:
            await stream.send_all(b"".join(out))

    def _take(self, op: nats.Op) -> None:
        self.ops.append(op)
        if isinstance(op, nats.Ping):
            self._out.append(nats.PONG)
        elif isinstance(op, nats.Sub):
            self.subs[op.sid] = op.subject
        elif isinstance(op, nats.Unsub):
            self.subs.pop(op.sid, None)
        elif isinstance(op, nats.Pub) and self._answer is not None:
            self._answer(self, op)
