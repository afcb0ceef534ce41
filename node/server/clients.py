"""Client connections on trio: listening, reading, writing, timers and orderly closing.

`Connection` interprets operations; this module moves the bytes. Each connection has one nursery with three
tasks:

- The reader passes on up to 256 KiB at a time. It leaves bytes in the socket while the connection isn't
  ``reading``.
- The writer puts everything that has gathered since its last write into one write.
- The timekeeper calls ``on_deadline``.

When a connection is closed, the writer still writes what is in the outbox, for at most ``CLOSE_GRACE_S``.
When it is aborted, nothing more is written. When it is drained, the writer ends our half of the stream, and
the reader goes on until the client closes its half.

If a client fails, ``serve`` logs it. Any other exception that leaves ``serve`` is a bug in this program.

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
"""Log for slow consumers, limited because a client may be one again each time it connects."""

READ_BYTES_MAX = 256 * 1024
WRITE_BYTES_MAX = 256 * 1024

CLOSE_GRACE_S = 1.0
"""Time for a closed connection to write its outbox, and for the client to close its half."""

DRAIN_S = 2.0
"""Total time for a drained connection to end."""

DRAIN_QUIET_S = 0.5
"""A drained connection is closed when its client has sent nothing for this long: either it has noticed the
end of the stream, or it never will."""

QUIET_POLL_S = 0.001
"""Interval at which ``quiesce`` checks whether everything that was read is carried out."""

LAST_QUIET_S = 0.05
"""The same as ``DRAIN_QUIET_S`` if no other node could answer the client's requests."""

REFUSED_MAX = 64
"""Connections above ``max_connections`` that are accepted and sent an error. Further ones are just closed."""

CLOSED_KEPT_MAX = 1000
"""Number of ended connections kept for monitoring."""

BIND_AGAIN_S = 1.0
"""Pause between two attempts to bind the port again after it was released."""

LAME_DUCK_STEP_S_MAX = 1.0
"""Maximum interval between two connections that a lame duck node closes."""

Wrap: TypeAlias = Callable[[trio.abc.Stream], Awaitable[trio.abc.Stream]]
"""Performs the TLS handshake after INFO was sent. Raises ``trio.BrokenResourceError`` if that fails."""


class Counters(NamedTuple):
    """Totals over all connections since the node started."""

    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int


class Clients:
    """All client connections of this node.

    Args:
        context: state that the connections share. Its clock must be ``trio.current_time``.
        host: address or name to listen on.
        port: port to listen on; 0: any free port, which the attribute ``port`` and INFO then contain.
        sockets: listening sockets to use first. Empty: host and port are bound.
        wrap: performs the TLS handshake of a connection; None: no TLS.
        loop: watches the event loop that ``run`` is called in; None: this object creates its own watch.
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
        """Open connections by cid, oldest first."""
        self.closed: deque[Connection] = deque(maxlen=CLOSED_KEPT_MAX)
        """Ended connections, newest last."""
        self.accepted = 0
        self.slow_consumers = 0
        self._loop = loop or LoopWatch()
        self.turns = Turns(self._loop)
        """Schedules the connections that have input to carry out."""
        self.quiet_s = CLOSE_GRACE_S
        """When a connection has ended, its client is waited for until it has sent nothing for this long."""
        self._wrap = wrap
        self._sockets = sockets
        self._checks = PasswordChecks(workers())
        self._epoch = 0
        self._past = Counters(0, 0, 0, 0)
        self._bound = False
        self._listening = True  # the wanted state; the socket follows
        self._stopped = False
        self._changed = trio.Event()
        self._accepting = trio.CancelScope()

    # --- listening --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until ``stop`` is called or the task is cancelled.

        ``task_status.started`` is called with the port once the node listens, or when ``run`` ends because
        ``stop`` was called earlier.

        Raises:
            ConfigError: listening on the address failed.
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
            finally:  # close all listeners, also if serve_listeners was cancelled before it took them
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
        """Stop listening and close all connections. ``run`` returns when their outboxes are written."""
        self._stopped = True
        self._stop_listening()
        self.close_all(reason)

    def close_all(self, reason: str) -> None:
        """Close every connection; the outboxes are still written."""
        for connection in list(self.connections.values()):
            connection.close(reason)

    async def quiesce(self) -> None:
        """Stop reading from all connections. Returns when everything that was read is carried out."""
        connections = list(self.connections.values())
        for connection in connections:
            connection.quiesce()
        while not all(connection.quiet for connection in connections):  # noqa: ASYNC110  # no common event
            await trio.sleep(QUIET_POLL_S)

    def drain_all(self, reason: str, *, quiet_s: float) -> None:
        """Stop listening and end our half of every connection. `run` returns when all have ended.

        Args:
            reason: shown in the log and by monitoring.
            quiet_s: a connection is closed when its client has sent nothing for this long.
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

    # --- announcements ----------------------------------------------------------------------------

    def announce(self, connect_urls: Sequence[str], *, lame_duck: bool = False) -> None:
        """Set the addresses that clients can connect to, and send a new INFO to every client if they changed.

        Args:
            connect_urls: ``host:port`` of every node that accepts clients, this node's own first; always the
                whole list.
            lame_duck: clients should move to another node.
        """
        context = self.context
        if (tuple(connect_urls), lame_duck) != (context.connect_urls, context.lame_duck):
            context.connect_urls, context.lame_duck = tuple(connect_urls), lame_duck
            self._announce()

    def leave(self, connect_urls: Sequence[str]) -> None:
        """Stop listening, and announce to clients that this node is about to stop.

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
        """Enter lame duck mode: announce it, wait, then drain the connections one after the other.

        Args:
            connect_urls: ``host:port`` of the other nodes.
            answered: returns when all requests read so far are answered or have timed out.
            grace_s: time before the first connection is drained.
            duration_s: total time.
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
        """Continue with the connections that were held until the node was ready (R4)."""
        for connection in list(self.connections.values()):
            connection.release()

    def _announce(self) -> None:
        for connection in list(self.connections.values()):
            connection.announce()

    # --- connections ------------------------------------------------------------------------------

    def counters(self) -> Counters:
        """Return the totals over all connections, ended ones included."""
        in_msgs, in_bytes, out_msgs, out_bytes = self._past
        for connection in self.connections.values():  # twenty thousand take some 3 ms
            in_msgs += connection.in_msgs
            in_bytes += connection.in_bytes
            out_msgs += connection.out_msgs
            out_bytes += connection.out_bytes
        return Counters(in_msgs, in_bytes, out_msgs, out_bytes)

    async def serve(self, stream: trio.abc.Stream, address: tuple[str, int]) -> None:
        """Serve one client until its connection ends."""
        connection = self._open(address)
        try:
            async with stream:
                await ConnectionTask(self, connection).run(stream, self._wrap, self._checks)
        except* trio.BrokenResourceError as errors:
            log.debug("client %d at %s:%d: %s", connection.cid, *address, errors.exceptions[0])
            connection.abort("the connection broke")
        finally:
            connection.abort("this node stops")  # no effect if it has ended already
            connection.detach()
            self._close(connection)

    async def _accept(self, stream: trio.SocketStream) -> None:
        if len(self.connections) >= self.context.limits.max_connections + REFUSED_MAX:
            await trio.aclose_forcefully(stream)
            return
        try:
            address = stream.socket.getpeername()
        except OSError:  # the client has disconnected already
            await trio.aclose_forcefully(stream)
            return
        await self.serve(stream, (str(address[0]), int(address[1])))

    def next_epoch(self) -> int:
        """Return the epoch for a new connection; see `routing.Receiver`."""
        # The wall clock makes epochs grow across restarts, and at about the same rate on all nodes. Adding 1
        # keeps them unique and growing within this process if the wall clock goes back.
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
        return self._epoch

    def _open(self, address: tuple[str, int]) -> Connection:
        self.accepted += 1
        connection = Connection(self.context, cid=self.accepted, epoch=self.next_epoch(), address=address)
        if not self._listening:
            connection.close("accepted while this node was stopping")
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
    """Moves bytes between one connection and its socket."""

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
        """Serve until the connection is closed and its outbox is written, or it is aborted.

        Raises:
            trio.BrokenResourceError: the stream broke. It may be raised in an exception group.
        """
        self.output()  # the connection may have been closed before this task started
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
            # no await since the outbox was found empty: any later output sets the new event
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
        """End our half of the stream; wait until the client has closed its half or sends nothing more."""
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            return
        await stream.send_eof()
        while not self._connection.closed:
            reads = self._reads
            with trio.move_on_after(self._clients.quiet_s):
                # no await since the connection was found open: a close sets the new event
                self._output = trio.Event()
                await self._output.wait()
            if self._reads == reads and not self._connection.resting:
                return

    async def _linger(self, stream: trio.abc.Stream) -> None:
        """Let the client close first: closing with unread bytes would discard what we have just written."""
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            return
        await stream.send_eof()
        quiet = False
        while not quiet:
            quiet = True
            with trio.move_on_after(self._clients.quiet_s):
                quiet = not await stream.receive_some(READ_BYTES_MAX)


def _coalesced(parts: list[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in few pieces of at most ``WRITE_BYTES_MAX``, with little copying."""
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
