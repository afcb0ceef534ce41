"""Keeps a connection to an external NATS server: dials, logs in, runs it, and dials again.

One connection at a time (`connection`) carries everything, so that a client's messages keep their order: an
acknowledgement before the close that follows it.

When a connection breaks, all other servers are tried at once, one after the other, the lost one last; then
all in turn, with a pause after each round (`servers`). The state of clients does not change meanwhile: see
`routing`. If every server refuses the credentials and none has ever accepted them, the configuration is wrong
and the node stops; later refusals are only logged.
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
"""Limit for the TCP connection, and another time for TLS and login."""

STOP_S = 1.0
"""How long writing the queued data may take when this node stops."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 1.0
"""Pause after a round in which no server was reached; doubles from the first to the second, half of it
random."""

STOOD_S = 1.0
"""A connection that ended sooner counts as a failed attempt. Otherwise a server that accepts connections and
drops them would be dialed without a pause."""

DISCOVER_S = 0.25
"""How long another service with this cluster ID has to answer."""

BEAT_S = 0.1
"""How often `ExternalNatsRouting.beat` is called."""

_REFUSALS = ("authorization violation", "authentication", "user authentication")


class LostError(NodeError):
    """There is no connection; the text is the reason."""


class RejectedError(LostError):
    """The server refuses our credentials, or requires something that this node can't do."""


class ExternalNats:
    """The connection of the streaming service to an external NATS server.

    Args:
        routing: receives connections and messages.
        service: called when a read was handled, and when the connection is writable again.
        servers: to try, in this order. The credentials of the first are used for servers that it announces.
        name: this node's name in the server's connection list.
        discover: the subject on which another service of this cluster ID would answer.
        cluster_id: for the error about such a service.
        tls: verifies servers that require TLS; None: those are not connected to.
        server_name: the name in their certificates; empty: the host.
        is_clustered: other nodes of this cluster may be connected to the same servers.
        went, came: called when a connection ended, and when one is up.
        epoch: returns the epoch of a new connection.
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
        """Callbacks that wait until a server has all subscriptions of this node."""
        self._is_closed = trio.Event()
        self._is_closed.set()
        self._connected_once = False
        self._stopped = False
        self._problem = ""

    @property
    def problem(self) -> str:
        """The reason why there is no connection; empty if there is one."""
        return "" if self.link is not None else self._problem or "not connected to the NATS server yet"

    def open(self, queue: bytes = b"") -> None:
        """Start to serve: subscribe to the clients' requests, in a queue group if one is named."""
        self.routing.open(queue)
        self._is_closed = trio.Event()

    def close(self) -> None:
        """Stop to serve: accept no more requests of clients. Another node serves, or none."""
        if not self.routing.is_open:
            return
        self.take_held()
        self.routing.close()
        self._is_closed.set()
        if self.link is not None:
            self._service.closed(self.link)  # the next leader sends the deliveries that still wait

    def take_held(self) -> None:
        """Handle waiting requests like those of one read, if this node may take them now."""
        if self.routing.take_held() and self.link is not None:
            self._service.read_done(self.link)

    def once_subscribed(self, served: Callable[[], None]) -> None:
        """Call ``served`` when a server has all subscriptions of this node, now or once there is one."""
        if served not in self._unsubscribed:
            self._unsubscribed.append(served)
        self._ask_whether_served(served)

    def _ask_whether_served(self, served: Callable[[], None]) -> None:
        """Send a PING after the subscriptions; its PONG shows that the server has them."""

        def answered() -> None:
            if served in self._unsubscribed:
                self._unsubscribed.remove(served)
                served()

        if self.link is not None:
            self.link.ping(answered)

    async def drained(self) -> None:
        """Wait until another node serves, and everything that the server sent to this one before is read.

        Never returns if no other node serves, or if the connection breaks.
        """
        await self._is_closed.wait()
        if self.link is not None:
            read = trio.Event()
            self.link.ping(read.set)  # its PONG follows what was in transit when `close` unsubscribed
            await read.wait()

    async def stop(self) -> None:
        """Accept nothing more, write what is queued, for at most ``STOP_S``, and do not reconnect."""
        self._stopped = True
        link = self.link
        if link is not None:
            link.finish()
            with trio.move_on_after(STOP_S):
                await link.ended.wait()
            link.close("this node stops")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection until cancelled. Reports started when the first one is up.

        Raises:
            ConfigError: every server refuses our credentials, and none has ever accepted them.
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
        if text != self._problem:  # log an unchanged problem once
            self._problem = text
            log.warning("%s", text)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(BEAT_S)
            self.routing.beat()

    # --- one connection ---------------------------------------------------------------------------

    async def _connection(self, server: ServerURL, task_status: trio.TaskStatus[None]) -> None:
        """Run one connection, from dialing to its end.

        Raises:
            LostError: the login did not succeed.
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
            raise RejectedError("it requires an nkey, which this release does not support")
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
            raise RejectedError("it requires TLS: see streaming.nats_server.tls")
        if not offered:
            raise RejectedError("TLS is required, and the server does not offer it")
        name = self._server_name or server.host
        stream = trio.SSLStream(tcp, self._tls, server_hostname=name, https_compatible=True)
        await stream.do_handshake()
        return stream

    async def _look_for_others(self, stream: trio.abc.Stream, parser: nats.ClientParser) -> None:
        """Before the first use: refuse to start if another service has our cluster ID, for both would answer.

        A node of a cluster skips this, because the leader of its own cluster would answer. The request is
        invalid, so whichever service receives it refuses it and keeps nothing.
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
                # An error that ends the connection is followed by its end; the others concern permissions.
                log.error("NATS server %s: %s", link.server, text)
                link.reason = link.reason or text
            case _:
                return


async def _until(
    stream: trio.abc.Stream, parser: nats.ClientParser, kind: type[nats.Reply]
) -> list[nats.Reply]:
    """Return the operations up to the first of ``kind``, and those after it in the same read.

    Raises:
        RejectedError: the server has refused our credentials.
        LostError: the server has closed the connection, or sent another error.
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
