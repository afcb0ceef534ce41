"""A NATS connection that reconnects to other nodes.

When the connection breaks, the next server is tried: one that was given, or advertised in INFO
``connect_urls``. Subscriptions are repeated with the same sids. Bytes written into the broken connection are
lost, as in every NATS client: a caller that needs an answer repeats its request or gives up.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import trio

from node.errors import RefusedError, RemoteProtocolError, UnavailableError
from node.protocol import nats

READ_BYTES = 256 * 1024
WRITE_BYTES = 1024 * 1024
PAYLOAD_MAX = 64 * 1024 * 1024
HANDSHAKE_TIMEOUT_S = 2.0

Handler = Callable[[nats.Msg], None]

LATE_MAX = 64
"""Number of abandoned requests that are remembered, to handle late answers."""


@dataclass(frozen=True, slots=True)
class Server:
    """The client address of a node."""

    host: str
    port: int

    @classmethod
    def parse(cls, address: str) -> Server:
        """Parse ``host:port``, with or without ``nats://``.

        Raises:
            ValueError: not an address.
        """
        host, separator, port = address.removeprefix("nats://").rpartition(":")
        if not separator or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{address!r} is not an address: expected host:port")
        return cls(host.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a connection.

    ``reconnect_s`` is the longest pause before the next server is tried; the first attempt follows at once.
    Without ``learns``, advertised servers are not used: the credentials must be sent to the given ones only.
    """

    name: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    reconnect_s: float = 0.25
    ping_s: float = 5.0
    learns: bool = True


@dataclass(slots=True)
class Sub:
    """A subscription of the connection."""

    subject: bytes
    queue: bytes
    handler: Handler
    sid: bytes = field(default=b"")


class Nats:
    """A NATS connection to one node of a cluster at a time.

    Run ``run`` in a nursery; call other methods after ``connected`` is set.

    Args:
        servers: servers to try, in random order.
        options: credentials and pauses.
    """

    def __init__(self, servers: Sequence[Server], options: Options | None = None) -> None:
        if not servers:
            raise ValueError("no server to connect to")
        self.servers = list(servers)
        self.options = options or Options()
        self.server: Server | None = None
        self.connected = trio.Event()
        self.broken = trio.Event()
        self.on_disconnect: Callable[[], None] = _nothing
        self.on_connect: Callable[[], None] = _nothing
        self.on_error: Callable[[str], None] = _ignored
        self.reconnects = 0
        self._subs: dict[bytes, Sub] = {}
        self._sids = count(1)
        self._outbox: deque[bytes] = deque()
        self._wake = trio.Event()
        self._pongs: deque[trio.Event] = deque()
        self._inbox = b"_INBOX." + secrets.token_hex(11).encode() + b"."
        self._replies: dict[bytes, Callable[[nats.Msg], None]] = {}
        self._late: deque[bytes] = deque()
        """Reply subjects of abandoned requests, oldest first."""
        self._reply_numbers = count(1)
        self._pings_out = 0
        self._move_to: Server | None = None
        self._serving: trio.CancelScope | None = None
        self.subscribe(self._inbox + b"*", self._on_reply)

    # --- operations -------------------------------------------------------------------------------

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> None:
        """Send a message.

        Raises:
            UnavailableError: there is no connection now.
        """
        if not self.connected.is_set():
            raise UnavailableError("not connected")
        self._write(nats.pub(subject, reply, payload))

    def subscribe(self, subject: bytes, handler: Handler, queue: bytes = b"") -> bytes:
        """Call ``handler`` for every message on ``subject``, also after reconnects. Returns the sid."""
        sid = str(next(self._sids)).encode()
        self._subs[sid] = Sub(subject, queue, handler, sid)
        if self.connected.is_set():
            self._write(nats.sub(subject, queue, sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        """End a subscription."""
        if self._subs.pop(sid, None) is not None and self.connected.is_set():
            self._write(nats.unsub(sid, None))

    def new_inbox(self) -> bytes:
        """Return a unique subject."""
        return b"_INBOX." + secrets.token_hex(11).encode()

    async def request(
        self,
        subject: bytes,
        payload: bytes,
        at_once: Handler | None = None,
        late: Handler | None = None,
    ) -> bytes:
        """Publish ``payload`` and return the first answer. The caller bounds the time.

        Args:
            subject: the subject to publish to.
            payload: the request.
            at_once: called with the answer before any later message is handled.
            late: called with an answer that arrives after the caller has given up, for the last `LATE_MAX`
                requests.

        Raises:
            UnavailableError: the connection broke before the answer arrived, or there is no responder.
        """
        answers: list[nats.Msg] = []
        done = trio.Event()

        def answered(message: nats.Msg) -> None:
            answers.append(message)
            if at_once is not None:
                at_once(message)
            done.set()

        reply = self._inbox + str(next(self._reply_numbers)).encode()
        self._replies[reply] = answered
        is_sent = False
        try:
            self.publish(subject, payload, reply)
            is_sent = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_then, self.broken, done)
                await done.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._replies.pop(reply, None)
            if late is not None and is_sent and not answers:
                self._replies[reply] = late
                self._late.append(reply)
                if len(self._late) > LATE_MAX:
                    self._replies.pop(self._late.popleft(), None)
        if not answers:
            raise UnavailableError("the connection broke before the answer arrived")
        if answers[0].headers.startswith(b"NATS/1.0 503"):
            raise UnavailableError(f"no responders on {subject.decode(errors='replace')}")
        return answers[0].payload

    async def flush(self) -> None:
        """Wait until the server has processed everything sent before.

        Raises:
            UnavailableError: there is no connection, or it broke before the answer arrived.
        """
        if not self.connected.is_set():
            raise UnavailableError("not connected")
        pong, broken = trio.Event(), self.broken
        self._pongs.append(pong)
        self._write(nats.PING)
        await pong.wait()
        if broken.is_set():
            raise UnavailableError("the connection broke before the answer arrived")

    def move(self, server: Server) -> None:
        """Close the connection and try ``server`` first for the next one."""
        self._move_to = server
        if self._serving is not None:
            self._serving.cancel()

    def _on_reply(self, message: nats.Msg) -> None:
        answered = self._replies.pop(message.subject, None)
        if answered is not None:
            answered(message)

    def _write(self, data: bytes) -> None:
        self._outbox.append(data)
        self._wake.set()

    # --- the connection ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and reconnect, until cancelled.

        Raises:
            RefusedError: the server refused the credentials.
        """
        order = list(self.servers)
        random.shuffle(order)  # to spread clients over nodes; not for security
        pause = 0.0
        while True:
            server, self._move_to = self._move_to or order[0], None
            if server in order:
                order.remove(server)
            order.append(server)
            order += self._not_in(order)
            try:
                await self._connect(server)
                pause = 0.0
            except (OSError, RemoteProtocolError, trio.BrokenResourceError, trio.TooSlowError):
                pause = min(max(2 * pause, 0.01), self.options.reconnect_s)
            await trio.sleep(pause)

    def _not_in(self, order: list[Server]) -> list[Server]:
        """Return newly advertised servers, shuffled: else all clients of a dead node choose the same."""
        new = [server for server in self.servers if server not in order]
        random.shuffle(new)
        return new

    async def _connect(self, server: Server) -> None:
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            stream = await trio.open_tcp_stream(server.host, server.port)
        parser = nats.ClientParser()
        async with stream:
            stream.setsockopt(6, 1, 1)  # TCP_NODELAY
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                early = await self._handshake(stream, parser)
            self.server = server
            for sub in self._subs.values():
                self._write(nats.sub(sub.subject, sub.queue, sub.sid))
            self._pings_out = 0
            self.connected.set()
            self.on_connect()
            try:
                await self._serve(stream, parser, early)
            finally:
                self._disconnected()

    def _disconnected(self) -> None:
        self.connected = trio.Event()
        self.broken.set()
        self.broken = trio.Event()
        self.server = self._serving = None
        self.reconnects += 1
        self._outbox.clear()
        self._pings_out = 0
        while self._pongs:
            self._pongs.popleft().set()  # the waiting task checks ``broken``
        self.on_disconnect()

    async def _handshake(self, stream: trio.SocketStream, parser: nats.ClientParser) -> list[nats.Reply]:
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": "1",
            "protocol": 1,
            "echo": True,
            "headers": True,
            "no_responders": True,
            "name": self.options.name,
        }
        if self.options.user:
            options |= {"user": self.options.user, "pass": self.options.password}
        if self.options.token:
            options["auth_token"] = self.options.token
        ops = await self._until(stream, parser, nats.Info)
        await stream.send_all(nats.connect(options) + nats.PING)
        ops += await self._until(stream, parser, nats.Pong)
        return [op for op in ops if not isinstance(op, nats.Pong)]

    async def _until(
        self, stream: trio.SocketStream, parser: nats.ClientParser, kind: type[nats.Reply]
    ) -> list[nats.Reply]:
        ops: list[nats.Reply] = []
        while True:
            while found := parser.ops():
                ops += found
            for op in ops:
                if isinstance(op, nats.Err):
                    raise RefusedError(op.text)
            if any(isinstance(op, kind) for op in ops):
                return ops
            data = await stream.receive_some(READ_BYTES)
            if not data:
                raise RemoteProtocolError("the server closed the connection")
            parser.feed(data)

    async def _serve(
        self, stream: trio.SocketStream, parser: nats.ClientParser, early: list[nats.Reply]
    ) -> None:
        async with trio.open_nursery() as nursery:
            self._serving = nursery.cancel_scope
            nursery.start_soon(self._write_all, stream)
            nursery.start_soon(self._ping, nursery.cancel_scope)
            try:
                self._handle(early)
                await self._read_all(stream, parser)
            except (RemoteProtocolError, trio.BrokenResourceError):
                pass  # broken, or not a NATS server: ``run`` tries the next one
            nursery.cancel_scope.cancel()

    async def _read_all(self, stream: trio.SocketStream, parser: nats.ClientParser) -> None:
        while data := await stream.receive_some(READ_BYTES):
            parser.feed(data)
            while ops := parser.ops():
                self._handle(ops)

    async def _write_all(self, stream: trio.SocketStream) -> None:
        """Write the outbox until a write fails. The reader continues to the end of the received bytes."""
        while True:
            if not self._outbox:
                self._wake = trio.Event()
                await self._wake.wait()
            parts: list[bytes] = []
            size = 0
            while self._outbox and size < WRITE_BYTES:
                parts.append(self._outbox.popleft())
                size += len(parts[-1])
            try:
                await stream.send_all(b"".join(parts))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _ping(self, scope: trio.CancelScope) -> None:
        while self._pings_out < 3:
            await trio.sleep(self.options.ping_s)
            self._pings_out += 1
            self._write(nats.PING)
        scope.cancel()  # three unanswered pings: the node hangs, try another one

    def _handle(self, ops: list[nats.Reply]) -> None:
        for op in ops:
            if isinstance(op, nats.Msg):
                sub = self._subs.get(op.sid)
                if sub is not None:
                    sub.handler(op)
            elif isinstance(op, nats.Ping):
                self._write(nats.PONG)
            elif isinstance(op, nats.Pong):
                self._pings_out = 0
                if self._pongs:
                    self._pongs.popleft().set()
            elif isinstance(op, nats.Info):
                self._learn(op.fields.get("connect_urls") or [])
            elif isinstance(op, nats.Err):
                self.on_error(op.text)

    def _learn(self, urls: list[str]) -> None:
        if not self.options.learns:
            return
        for url in urls:
            server = Server.parse(url)
            if server not in self.servers:
                self.servers.append(server)


async def _then(first: trio.Event, second: trio.Event) -> None:
    await first.wait()
    second.set()


def _nothing() -> None:
    """Do nothing: the default of ``on_connect`` and ``on_disconnect``."""


def _ignored(_text: str) -> None:
    """Ignore an error of the server: the default of ``on_error``."""
