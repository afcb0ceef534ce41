"""The link with somebody else's NATS server, kept up: dial, log in, let it work, dial again.

One connection at a time (`external_connection`) carries everything, so that what a client sends keeps its
order: an acknowledgement before the close that follows it.

When a connection breaks, all other servers are tried at once, one after the other, the lost one last; then
all by turns, with a pause after each round (`external_servers`).
Nothing of a client's state changes meanwhile: see `external_nats`. Credentials that are refused end the node
if none ever worked, for then the configuration is wrong; later they are only complained of.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import trio

from node.config.values import ServerURL
from node.errors import ConfigError, IdentityError, NodeError, RemoteProtocolError
from node.protocol import nats
from node.protocol import streaming as stan
from node.server.external_nats.connection import READ_BYTES_MAX, STREAM_ERRORS, Limits, Link, Service, why
from node.server.external_nats.routing import ExternalNatsRouting
from node.server.external_nats.servers import Servers

log = logging.getLogger("stanchion.external")

CONNECT_S = 2.0
"""For TCP; and again for TLS and login."""

STOP_S = 1.0
"""How long what is queued may take to be written when this node stops."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 1.0
"""After a round in which no server was reached; doubles from the first to the second, half of it random."""

STOOD_S = 1.0
"""A connection that ended sooner counts as an attempt that failed: else a server that takes connections and
drops them is dialed without a pause."""

DISCOVER_S = 0.25
"""How long another service of this cluster ID may take to show itself."""

BEAT_S = 0.1
"""How often `ExternalNatsRouting.beat` is called."""

_REFUSALS = ("authorization violation", "authentication", "user authentication")


class LostError(NodeError):
    """There is no connection; the text says why."""


class RejectedError(LostError):
    """The server doesn't take our credentials."""


class ExternalNats:
    """The service's place behind a NATS server, with whatever connection there is.

    Args:
        routing: told of connections, and of every message.
        service: told when a read was handled, and when there is room again.
        servers: where to try, in order. Credentials of the first are used for those learnt of.
        name: what we call ourselves there.
        discover: the subject another service of this cluster ID would answer on.
        cluster_id: for the complaint about that.
        tls: how servers that want TLS are trusted; None: those are not connected to.
        server_name: the name in their certificates; empty: the host.
        is_clustered: other nodes of this cluster may be connected to the same servers.
        went, came: told when the last connection ended, and when one stands again.
    """

    def __init__(
        self,
        routing: ExternalNatsRouting,
        service: Service,
        servers: Sequence[ServerURL],
        *,
        name: str,
        discover: str,
        cluster_id: str,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        is_clustered: bool = False,
        went: Callable[[], None],
        came: Callable[[], None],
        epoch: Callable[[], int],
        limits: Limits | None = None,
    ) -> None:
        assert servers
        self.link: Link | None = None
        self.reconnects = 0
        self.routing = routing
        self._service = service
        self._servers = Servers(servers, is_checked=tls is not None and tls.verify_mode is ssl.CERT_REQUIRED)
        self._name = name
        self._discover = discover
        self._cluster_id = cluster_id
        self._tls = tls
        self._server_name = server_name
        self._is_clustered = is_clustered
        self._went = went
        self._came = came
        self._epoch = epoch
        self._limits = limits or Limits()
        self._unsubscribed: list[Callable[[], None]] = []
        """To be called once a server has all subscriptions of this node."""
        self._is_closed = trio.Event()
        self._is_closed.set()
        self._connected_once = False
        self._stopped = False
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why there is no connection; empty: there is one."""
        return "" if self.link is not None else self._problem or "not connected to the NATS server yet"

    def open(self, queue: bytes = b"") -> None:
        """The node can serve: subscribe to what clients send, in a queue group if one is named."""
        self.routing.open(queue)
        self._is_closed = trio.Event()

    def close(self) -> None:
        """Another node serves, or none: take nothing more of what clients send."""
        if not self.routing.is_open:
            return
        self.take_held()
        self.routing.close()
        self._is_closed.set()
        if self.link is not None:
            self._service.closed(self.link)  # deliveries that wait for room are the next leader's now

    def take_held(self) -> None:
        """Handle requests that had to wait, if they are this node's now, like those of one read."""
        if self.routing.take_held() and self.link is not None:
            self._service.read_done(self.link)

    def once_subscribed(self, served: Callable[[], None]) -> None:
        """Call ``served`` when a server has all subscriptions of this node, now or once there is one."""
        if served not in self._unsubscribed:
            self._unsubscribed.append(served)
        self._ask_whether_served(served)

    def _ask_whether_served(self, served: Callable[[], None]) -> None:
        """The PONG to a PING behind the subscriptions says that the server has them."""

        def answered() -> None:
            if served in self._unsubscribed:
                self._unsubscribed.remove(served)
                served()

        if self.link is not None:
            self.link.ping(answered)

    async def drained(self) -> None:
        """Wait until another node serves, and what the server had sent to this one before is read.

        Takes for ever if no other node serves, or the connection breaks.
        """
        await self._is_closed.wait()
        if self.link is not None:
            read = trio.Event()
            self.link.ping(read.set)  # its PONG comes behind what was on its way when `close` unsubscribed
            await read.wait()

    async def stop(self) -> None:
        """Take nothing any more, say what is left to say, for at most ``STOP_S``, and connect no more."""
        self._stopped = True
        link = self.link
        if link is not None:
            link.finish()
            with trio.move_on_after(STOP_S):
                await link.ended.wait()
            link.close("this node stops")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection until cancelled. Started with the first one.

        Raises:
            ConfigError: every server refuses our credentials, and none has ever taken them.
            IdentityError: another service has this cluster ID.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            await self._keep_connected(task_status)

    async def _keep_connected(self, task_status: trio.TaskStatus[None]) -> None:
        pause = 0.0
        refused: dict[ServerURL, str] = {}
        tried: set[ServerURL] = set()
        while not self._stopped:
            server = self._servers.next()
            tried.add(server)
            began_s = trio.current_time()
            try:
                await self._connection(server, task_status)
                refused.clear()
                self._servers.put_last(server)
                if trio.current_time() - began_s >= STOOD_S:
                    pause = 0.0
                    tried.clear()
                    continue
            except RejectedError as error:
                refused[server] = str(error)
                self._complain(server, str(error))
                if not self._connected_once and refused.keys() >= self._servers.known():
                    raise ConfigError([f"NATS server {at}: {why}" for at, why in refused.items()]) from error
            except LostError as error:
                self._complain(server, str(error))
            if not tried >= self._servers.known():
                continue
            tried.clear()
            pause = min(max(2 * pause, PAUSE_MIN_S), PAUSE_MAX_S)
            await trio.sleep(pause * (0.5 + 0.5 * random.random()))  # noqa: S311  # keeps no secret

    def _complain(self, server: ServerURL, problem: str) -> None:
        text = f"no connection with NATS server {server}: {problem}"
        if text != self._problem:  # what stays as it was is told once
            self._problem = text
            log.warning("%s", text)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(BEAT_S)
            self.routing.beat()

    # --- one connection ---------------------------------------------------------------------------

    async def _connection(self, server: ServerURL, task_status: trio.TaskStatus[None]) -> None:
        """One connection, from dialing to its end.

        Raises:
            LostError: it never stood.
        """
        try:
            with trio.fail_after(CONNECT_S):
                tcp = await trio.open_tcp_stream(server.host, server.port)
        except (OSError, trio.TooSlowError) as error:
            raise LostError(why(error)) from error
        stream: trio.abc.Stream = tcp
        try:
            tcp.setsockopt(6, 1, 1)  # TCP_NODELAY
            parser = nats.ClientParser()
            try:
                with trio.fail_after(CONNECT_S):
                    stream, info = await self._log_in(tcp, parser, server)
                    await self._look_for_others(stream, parser)
            except (*STREAM_ERRORS, trio.TooSlowError, RemoteProtocolError) as error:
                raise LostError(why(error)) from error
            server = replace(server, is_tls=stream is not tcp)
            self._servers.learn(info, server)
            await self._stand(Link(server, info, self._epoch(), self._limits), stream, parser, task_status)
        finally:
            await trio.aclose_forcefully(stream)

    async def _log_in(
        self, tcp: trio.SocketStream, parser: nats.ClientParser, server: ServerURL
    ) -> tuple[trio.abc.Stream, dict[str, Any]]:
        stream: trio.abc.Stream = tcp
        info = next(op.fields for op in await _until(stream, parser, nats.Info) if isinstance(op, nats.Info))
        if info.get("tls_required") is True or server.is_tls:
            stream = await self._secured(
                tcp, server, offered=bool(info.get("tls_required") or info.get("tls_available"))
            )
        if info.get("nonce") and not (server.user or server.token):
            raise RejectedError("it wants an nkey, which this release does not have")
        headers = info.get("headers") is True
        options: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": "1",
            "protocol": 1,
            "echo": False,
            "headers": headers,
            "no_responders": headers,
            "name": self._name,
            "tls_required": stream is not tcp,
        }
        if server.user:
            options |= {"user": server.user, "pass": server.password}
        elif server.token:
            options["auth_token"] = server.token
        await stream.send_all(nats.connect(options) + nats.PING)
        await _until(stream, parser, nats.Pong)
        return stream, info

    async def _secured(self, tcp: trio.SocketStream, server: ServerURL, *, offered: bool) -> trio.abc.Stream:
        if self._tls is None:
            raise RejectedError("it wants TLS: see streaming.nats_server.tls")
        if not offered:
            raise RejectedError("TLS is wanted, and it offers none")
        name = self._server_name or server.host
        stream = trio.SSLStream(tcp, self._tls, server_hostname=name, https_compatible=True)
        await stream.do_handshake()
        return stream

    async def _look_for_others(self, stream: trio.abc.Stream, parser: nats.ClientParser) -> None:
        """Before the first time: does another service have our cluster ID? Two would both answer.

        Not asked by a node of a cluster: the one that leads it would answer.

        What is sent is refused by whoever gets it, so it leaves nothing behind.
        """
        if self._connected_once or self._is_clustered:
            return
        inbox = b"_INBOX." + random.randbytes(16).hex().encode()  # noqa: S311  # keeps no secret
        request = stan.encode_connect(stan.ConnectRequest(self._cluster_id, "", 0, b"", 0, 0))
        await stream.send_all(nats.sub(inbox, b"", b"0") + nats.pub(self._discover.encode(), inbox, request))
        with trio.move_on_after(DISCOVER_S):
            found = await _until(stream, parser, nats.Msg)
            if any(isinstance(op, nats.Msg) and not op.headers.startswith(b"NATS/1.0 503") for op in found):
                raise IdentityError(
                    f'discovered another streaming server with cluster ID "{self._cluster_id}"'
                )
        await stream.send_all(nats.unsub(b"0"))

    async def _stand(
        self,
        link: Link,
        stream: trio.abc.Stream,
        parser: nats.ClientParser,
        task_status: trio.TaskStatus[None],
    ) -> None:
        def handle(ops: list[nats.Reply]) -> None:
            for op in ops:
                if type(op) is nats.Msg:
                    self.routing.received(op)
                else:
                    self._other(link, op)

        log.info("connected to NATS server %s", link.server)
        self.link, self._problem = link, ""
        self.routing.up(link)
        self._came()
        for served in list(self._unsubscribed):
            self._ask_whether_served(served)
        if self._connected_once:
            self.reconnects += 1
        else:
            self._connected_once = True
            task_status.started()
        try:
            await link.run(stream, parser, handle, self._service)
        finally:
            link.close("this node stops")
            self.link = None
            self._problem = f"NATS server {link.server}: {link.reason}"
            level = logging.INFO if self._stopped else logging.WARNING
            log.log(level, "the connection with NATS server %s is lost: %s", link.server, link.reason)
            self.routing.down(link)
            self._service.closed(link)
            self._went()

    def _other(self, link: Link, op: nats.Reply) -> None:
        match op:
            case nats.Ping():
                link.write(nats.PONG)
            case nats.Pong():
                link.pong()
            case nats.Info(fields=fields):
                self._servers.learn(fields, link.server)
            case nats.Err(text=text):
                # One that ends the connection is followed by its end; of permissions an operator has to know.
                log.error("NATS server %s: %s", link.server, text)
                link.reason = link.reason or text
            case _:
                return


async def _until(
    stream: trio.abc.Stream, parser: nats.ClientParser, kind: type[nats.Reply]
) -> list[nats.Reply]:
    """What came up to the first of ``kind``; what came behind it in one read is there too.

    Raises:
        RejectedError: the server has refused us.
        LostError: it has closed the connection.
    """
    ops: list[nats.Reply] = []
    while True:
        while found := parser.ops():
            ops += found
        for op in ops:
            if isinstance(op, nats.Err):
                is_refusal = op.text.lower().startswith(_REFUSALS)
                raise (RejectedError if is_refusal else LostError)(op.text)
        if any(isinstance(op, kind) for op in ops):
            return ops
        data = await stream.receive_some(READ_BYTES_MAX)
        if not data:
            raise LostError("closed by the server")
        parser.feed(data)
