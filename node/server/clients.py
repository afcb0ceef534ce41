"""Client connections on trio: listening, reading, writing, timing, and ending well.

What operations mean is `Connection`'s work; here its bytes are moved. Each connection has one nursery with
three tasks: a reader, which hands over up to 256 KiB at a time and leaves bytes in the
socket while the connection isn't ``reading``; a writer, which puts everything that has gathered since
its last write into one; and a timekeeper. When the connection is closed the writer still writes its
last words, for at most ``CLOSE_GRACE_S``; when it is aborted nothing more is written. When it is drained the
writer ends our half of the stream, and the reader goes on until the client closes its half.

A client's failure ends in a log line, in ``serve``; anything else that gets out is a bug of ours.

Source: the NATS client protocol, "Cluster discovery, lame duck", "Liveness and slow consumers".
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import trio

from node.errors import ConfigError, UnavailableError
from node.limited_log import LimitedLog
from node.protocol.nats_replies import AUTHENTICATION_TIMEOUT
from node.server.connection import Connection
from node.server.context import Context
from node.server.loop_watch import LoopWatch
from node.server.outbox import SLOW_CONSUMER
from node.server.password_checks import PasswordChecks, workers
from node.server.turns import Turns
from node.sockets import listen

log = logging.getLogger("stanchion.clients")
complaints = LimitedLog(log)
"""Of slow consumers: a client may be one as often as it connects."""

READ_BYTES_MAX = 256 * 1024
WRITE_BYTES_MAX = 256 * 1024

CLOSE_GRACE_S = 1.0
"""How long a closed connection may take over its last words, and the client over closing its end."""

DRAIN_S = 2.0
"""How long a drained connection may take altogether."""

DRAIN_QUIET_S = 0.5
"""A drained client that sends nothing for this long has noticed, or never will: the connection is closed."""

QUIET_POLL_S = 0.001
"""Between two looks whether what was read is carried out."""

LAST_QUIET_S = 0.05
"""The same where no other node could answer what the client sends: it isn't waited for."""

REFUSED_MAX = 64
"""So many above the most connections are told that they are too many; others are just closed."""

CLOSED_KEPT_MAX = 1000
"""Ended connections that monitoring can still show."""

BIND_AGAIN_S = 1.0
"""When the port can't be had back after ``suspend``."""

LAME_DUCK_STEP_S_MAX = 1.0
"""A lame duck's connections are closed at most this far apart."""

Wrap: TypeAlias = Callable[[trio.abc.Stream], Awaitable[trio.abc.Stream]]
"""Does the TLS handshake, after INFO was sent. Raises ``trio.BrokenResourceError`` if that fails."""


class Counters(NamedTuple):
    """Of all connections since the node started."""

    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int


class Clients:
    """All client connections of this node.

    Args:
        context: what the connections share. Its clock has to be ``trio.current_time``.
        host: address or name to listen on.
        port: 0: any that is free; ``port`` and INFO tell which.
        sockets: what to listen on at first; it listens already. Empty: host and port are bound.
        wrap: how a connection gets its TLS; None for none.
        loop: watches the loop that ``run`` will be in; None: this object has a watch of its own.
    """

    def __init__(
        self,
        context: Context,
        *,
        host: str,
        port: int,
        sockets: Sequence[socket.socket] = (),
        wrap: Wrap | None = None,
        loop: LoopWatch | None = None,
    ) -> None:
        self.context = context
        self.host = host
        self.port = port
        self.connections: dict[int, Connection] = {}
        """By cid, oldest first."""
        self.closed: deque[Connection] = deque(maxlen=CLOSED_KEPT_MAX)
        """Ended ones, newest last."""
        self.accepted = 0
        self.slow_consumers = 0
        self._loop = loop or LoopWatch()
        self.turns = Turns(self._loop)
        """When a connection may carry out what it has read."""
        self.quiet_s = CLOSE_GRACE_S
        """A client whose connection has ended is not waited for when it has sent nothing for this long."""
        self._wrap = wrap
        self._sockets = sockets
        self._checks = PasswordChecks(workers())
        self._epoch = 0
        self._past = Counters(0, 0, 0, 0)
        self._bound = False
        self._listening = True  # what is wanted, not what is
        self._stopped = False
        self._changed = trio.Event()
        self._accepting = trio.CancelScope()

    # --- listening --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until ``stop`` or cancelled. Started, with the port, once it listens, or has ended
        because ``stop`` was called before that.

        Raises:
            ConfigError: the address can't be listened on.
        """
        with self._loop.installed():
            async with trio.open_nursery() as helpers:
                helpers.start_soon(self.turns.run)
                async with trio.open_nursery() as nursery:
                    await self._run(nursery, task_status)
                if not self._bound:
                    task_status.started(self.port)
                helpers.cancel_scope.cancel()

    async def _run(self, nursery: trio.Nursery, task_status: trio.TaskStatus[int]) -> None:
        while not self._stopped:
            if self._listening:
                await self._listen(nursery, task_status)
            else:
                self._changed = trio.Event()
                await self._changed.wait()

    async def _listen(self, nursery: trio.Nursery, task_status: trio.TaskStatus[int]) -> None:
        with trio.CancelScope() as self._accepting:
            listeners = await self._bind()
            if not self._bound:
                self._bound = True
                self.port = int(listeners[0].socket.getsockname()[1])
                self.context.info = replace(self.context.info, port=self.port)
                task_status.started(self.port)
            log.info("listening for clients on %s:%d", self.host, self.port)
            try:
                await trio.serve_listeners(self._accept, listeners, handler_nursery=nursery)
            finally:  # all of them, also if it was cancelled before it knew them all
                for listener in listeners:
                    listener.socket.close()

    async def _bind(self) -> list[trio.SocketListener]:
        given, self._sockets = self._sockets, ()
        if given:
            return [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in given]
        while True:
            try:
                opened = await trio.to_thread.run_sync(listen, self.host, self.port)
                return [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in opened]
            except OSError as error:
                problem = f"can't listen for clients on {self.host}:{self.port}: {error}"
                if not self._bound:
                    raise ConfigError([problem]) from error
                log.warning("%s; trying again", problem)
            await trio.sleep(BIND_AGAIN_S)

    def stop(self, reason: str) -> None:
        """Close all connections and listen no more: ``run`` returns when the last words are written."""
        self._stopped = True
        self._stop_listening()
        self.close_all(reason)

    def close_all(self, reason: str) -> None:
        """Close every connection; what is in their outboxes is still written."""
        for connection in list(self.connections.values()):
            connection.close(reason)

    async def quiesce(self) -> None:
        """Read nothing more from anybody; returns when what was read is carried out."""
        connections = list(self.connections.values())
        for connection in connections:
            connection.quiesce()
        while not all(connection.quiet for connection in connections):  # noqa: ASYNC110  # each at its time
            await trio.sleep(QUIET_POLL_S)

    def drain_all(self, reason: str, *, quiet_s: float) -> None:
        """End our half of every connection, and listen no more: `run` returns when all have ended.

        Args:
            reason: for the log and monitoring.
            quiet_s: a client that sends nothing for this long is not waited for any longer.
        """
        self._stopped = True
        self.quiet_s = quiet_s
        self._stop_listening()
        for connection in list(self.connections.values()):
            connection.drain(reason)

    def _stop_listening(self) -> None:
        self._listening = False
        self._accepting.cancel()
        self._changed.set()

    # --- telling clients --------------------------------------------------------------------------

    def announce(self, connect_urls: Sequence[str], *, lame_duck: bool = False) -> None:
        """These are the addresses that take clients now; every client is told if they have changed.

        Args:
            connect_urls: ``host:port`` of all of them, this node's own first; never only what changed.
            lame_duck: clients are better off with another node.
        """
        context = self.context
        if (tuple(connect_urls), lame_duck) != (context.connect_urls, context.lame_duck):
            context.connect_urls, context.lame_duck = tuple(connect_urls), lame_duck
            self._announce()

    def leave(self, connect_urls: Sequence[str]) -> None:
        """Say that this node is about to leave, and accept nobody any more.

        Args:
            connect_urls: ``host:port`` of the other nodes.
        """
        self._stop_listening()
        self.context.connect_urls = tuple(connect_urls)
        self.context.lame_duck = True
        self._announce()

    async def lame_duck(
        self,
        connect_urls: Sequence[str],
        *,
        answered: Callable[[], Awaitable[object]],
        grace_s: float = 10.0,
        duration_s: float = 120.0,
    ) -> None:
        """Leave slowly: say so, wait, then drain one connection after the other.

        Args:
            connect_urls: ``host:port`` of the other nodes.
            answered: returns when what was read so far is answered, or has had its time.
            grace_s: how long nobody is closed.
            duration_s: how long it takes altogether.
        """
        self.leave(connect_urls)
        await trio.sleep(grace_s)
        waiting = list(self.connections.values())
        step_s = min(LAME_DUCK_STEP_S_MAX, (duration_s - grace_s) / max(1, len(waiting)))
        for connection in waiting:
            connection.quiesce()
            await answered()
            connection.drain("this node leaves")
            await trio.sleep(step_s)

    def release(self) -> None:
        """The node has become ready: go on with the connections that were held (R4)."""
        for connection in list(self.connections.values()):
            connection.release()

    def _announce(self) -> None:
        for connection in list(self.connections.values()):
            connection.announce()

    # --- connections ------------------------------------------------------------------------------

    def counters(self) -> Counters:
        """Messages and bytes of all connections, past ones too."""
        in_msgs, in_bytes, out_msgs, out_bytes = self._past
        for connection in self.connections.values():  # twenty thousand take some 3 ms
            in_msgs += connection.in_msgs
            in_bytes += connection.in_bytes
            out_msgs += connection.out_msgs
            out_bytes += connection.out_bytes
        return Counters(in_msgs, in_bytes, out_msgs, out_bytes)

    async def serve(self, stream: trio.abc.Stream, address: tuple[str, int]) -> None:
        """One client, from its first byte to its last."""
        connection = self._open(address)
        try:
            async with stream:
                await ConnectionTask(self, connection).run(stream, self._wrap, self._checks)
        except* trio.BrokenResourceError as errors:
            log.debug("client %d at %s:%d: %s", connection.cid, *address, errors.exceptions[0])
            connection.abort("the connection broke")
        finally:
            connection.abort("this node stops")  # if nobody has ended it before
            connection.detach()
            self._close(connection)

    async def _accept(self, stream: trio.SocketStream) -> None:
        if len(self.connections) >= self.context.limits.max_connections + REFUSED_MAX:
            await trio.aclose_forcefully(stream)
            return
        try:
            address = stream.socket.getpeername()
        except OSError:  # it has left already
            await trio.aclose_forcefully(stream)
            return
        await self.serve(stream, (str(address[0]), int(address[1])))

    def next_epoch(self) -> int:
        """The epoch of a new connection; see `routing.Receiver`."""
        # Time makes epochs grow across restarts and roughly alike on all nodes; adding one keeps
        # them apart and growing here whatever the wall clock does.
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
        return self._epoch

    def _open(self, address: tuple[str, int]) -> Connection:
        self.accepted += 1
        connection = Connection(self.context, cid=self.accepted, epoch=self.next_epoch(), address=address)
        if not self._listening:
            connection.close("accepted while this node left")
        elif len(self.connections) >= self.context.limits.max_connections:
            connection.refuse()
        self.connections[connection.cid] = connection
        return connection

    def _close(self, connection: Connection) -> None:
        del self.connections[connection.cid]
        self.closed.append(connection)
        self._past = _sum([self._past, _counters(connection)])
        if connection.is_slow_consumer:
            self.slow_consumers += 1
            complaints.warning(
                "client %d at %s:%d: %s",
                connection.cid,
                *connection.address,
                connection.close_reason,
                source=connection.address[0],
            )
        else:
            log.debug("client %d at %s:%d: %s", connection.cid, *connection.address, connection.close_reason)


class ConnectionTask:
    """Moves the bytes of one connection."""

    def __init__(self, clients: Clients, connection: Connection) -> None:
        self._clients = clients
        self._turns = clients.turns
        self._connection = connection
        self._limits = clients.context.limits
        self._reads = 0
        self._scope = trio.CancelScope()
        self._output = trio.Event()
        self._input = trio.Event()
        connection.attach(self)

    def output(self) -> None:
        """See `outbox.Driver`."""
        self._output.set()
        if self._connection.aborted:
            self._scope.cancel()
        elif self._connection.output_ended and self._scope.deadline == math.inf:
            grace_s = CLOSE_GRACE_S if self._connection.closed else DRAIN_S
            self._scope.deadline = trio.current_time() + grace_s

    def input(self) -> None:
        """See `outbox.Driver`."""
        self._input.set()

    async def run(self, stream: trio.abc.Stream, wrap: Wrap | None, checks: PasswordChecks) -> None:
        """Until the connection is closed and its last words are written, or it is aborted.

        Raises:
            trio.BrokenResourceError: the stream broke. Perhaps in a group.
        """
        self.output()  # it may have been closed before anybody listened
        with self._scope:
            await self._write_all(stream)  # INFO comes before TLS
            if wrap is not None:
                stream = await wrap(stream)
            self._connection.secured()
            async with stream:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, stream, checks)
                    nursery.start_soon(self._keep_time)
                    await self._write(stream)
                    drained = not self._connection.closed
                    if drained:
                        await self._drain(stream)
                    nursery.cancel_scope.cancel()
                if not drained:
                    await self._linger(stream)

    async def _read(self, stream: trio.abc.Stream, checks: PasswordChecks) -> None:
        connection = self._connection
        while not connection.closed:
            if connection.check is not None:
                try:
                    connection.checked(await checks.compare(connection.check, connection.address[0]))
                except UnavailableError as error:
                    connection.close(str(error), AUTHENTICATION_TIMEOUT)
            elif connection.resting:
                await self._turns.go_on(connection)
            elif not connection.reading:
                self._input = trio.Event()
                await self._input.wait()
            elif data := await stream.receive_some(READ_BYTES_MAX):
                self._reads += 1
                await self._turns.received(connection, data)  # the whole buffer: no await per message
            else:
                connection.close("the client has left")

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            await self._write_all(stream)
            if self._connection.output_ended:
                return
            # no await since the outbox was found empty: what comes now finds this event
            self._output = trio.Event()
            await self._output.wait()

    async def _write_all(self, stream: trio.abc.Stream) -> None:
        connection = self._connection
        while parts := connection.take():
            for data in _coalesced(parts):
                with trio.move_on_after(self._limits.write_deadline_s) as deadline:
                    await stream.send_all(data)
                if deadline.cancelled_caught:
                    connection.abort(f"{SLOW_CONSUMER}: a write took too long")
                    return
                connection.sent(len(data))

    async def _keep_time(self) -> None:
        while True:
            await trio.sleep_until(self._connection.deadline_s())
            self._connection.on_deadline()

    async def _drain(self, stream: trio.abc.Stream) -> None:
        """End our half of the stream; wait until the client has closed its half, or is quiet."""
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            return
        await stream.send_eof()
        while not self._connection.closed:
            reads = self._reads
            with trio.move_on_after(self._clients.quiet_s):
                # no await since the connection was found open: what closes it finds this event
                self._output = trio.Event()
                await self._output.wait()
            if self._reads == reads and not self._connection.resting:
                return

    async def _linger(self, stream: trio.abc.Stream) -> None:
        """Let the client close first: closing on unread bytes would take our last words from it."""
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            return
        await stream.send_eof()
        quiet = False
        while not quiet:
            quiet = True
            with trio.move_on_after(self._clients.quiet_s):
                quiet = not await stream.receive_some(READ_BYTES_MAX)


def _coalesced(parts: list[bytes]) -> Iterator[bytes]:
    """The same bytes in as few pieces of at most ``WRITE_BYTES_MAX`` as copying little allows."""
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > WRITE_BYTES_MAX and gathered:
            yield b"".join(gathered)
            gathered, size = [], 0
        if len(part) > WRITE_BYTES_MAX:
            for at in range(0, len(part), WRITE_BYTES_MAX):
                yield part[at : at + WRITE_BYTES_MAX]
        else:
            gathered.append(part)
            size += len(part)
    if gathered:
        yield b"".join(gathered)


def _counters(connection: Connection) -> Counters:
    return Counters(connection.in_msgs, connection.in_bytes, connection.out_msgs, connection.out_bytes)


def _sum(counters: Iterable[Counters]) -> Counters:
    return Counters(*(sum(column) for column in zip(*counters, strict=True)))
