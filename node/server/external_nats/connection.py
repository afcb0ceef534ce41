"""One connection to an external NATS server: its outbox, flow control, and the conditions that end it.

Reading stops while this node has too many unapplied requests (R21): the NATS server then buffers the rest, up
to its own limit. The outbox is bounded too: above the soft limit deliveries wait as numbers (R3), above the
hard limit the connection is closed. It is also closed if the server does not read or does not answer PINGs.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from node.config.values import ServerURL
from node.errors import RemoteProtocolError
from node.protocol import nats

READ_BYTES_MAX = 256 * 1024
WRITE_BYTES_MAX = 256 * 1024

WRITE_S = 10.0
"""Limit for one write of at most ``WRITE_BYTES_MAX``. If it takes longer, the server does not read."""

PING_S = 5.0
"""Interval of the PINGs; the connection is closed when ``PINGS_MAX`` of them and one more are unanswered."""
PINGS_MAX = 2

STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the bytes that wait to be written."""

    pending_soft: int = 1024 * 1024
    """Above this, deliveries wait."""

    pending_max: int = 64 * 1024 * 1024
    """Above this, the connection is closed."""


class Service(Protocol):
    """The streaming service, as used here."""

    def read_done(self, connection: Any) -> None:
        """All operations of one read were handled."""

    def drained(self, connection: Any) -> None:
        """The connection is writable again."""

    def closed(self, connection: Any) -> None:
        """The connection has ended."""


class Link:
    """One open connection: its outbox, and whether it may be read from."""

    __slots__ = (
        "_finishing",
        "_limits",
        "_outbox",
        "_outbox_bytes",
        "_pings",
        "_reading",
        "_scope",
        "_wake",
        "closed",
        "ended",
        "epoch",
        "has_headers",
        "max_payload",
        "pings_out",
        "reason",
        "server",
    )

    def __init__(self, server: ServerURL, info: dict[str, Any], epoch: int, limits: Limits) -> None:
        self.server = server
        self.epoch = epoch
        self.has_headers = info.get("headers") is True
        payload = info.get("max_payload")
        self.max_payload = payload if isinstance(payload, int) and payload > 0 else 1024 * 1024
        self.closed = False
        self.reason = ""
        self.pings_out = 0
        self.ended = trio.Event()
        """Set when reading and writing have ended."""
        self._limits = limits
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._pings: deque[Callable[[], None] | None] = deque()
        self._finishing = False
        self._wake = trio.Event()
        self._reading = trio.Event()
        self._reading.set()
        self._scope = trio.CancelScope()

    @property
    def writable(self) -> bool:
        """Return True if deliveries may be queued."""
        return self._outbox_bytes < self._limits.pending_soft and not self.closed

    @property
    def written(self) -> int:
        """0, see `delivery_progress`: a delivery counts as written when it is queued."""
        return 0

    @property
    def outbox_bytes(self) -> int:
        return 0

    @property
    def pending_bytes(self) -> int:
        return self._outbox_bytes

    def write(self, data: bytes) -> None:
        """Queue a protocol operation."""
        if self.closed:
            return
        if self._outbox_bytes + len(data) > self._limits.pending_max:
            self.close(f"the server does not read: {self._outbox_bytes} bytes wait")
            return
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        self._wake.set()

    def close(self, reason: str) -> None:
        """Close the connection. The first reason is kept."""
        if not self.closed:
            self.closed = True
            self.reason = reason
            self._scope.cancel()

    def ping(self, answered: Callable[[], None] | None = None) -> None:
        """Send a PING; ``answered`` is called when the server has handled everything written before it."""
        self.pings_out += 1
        self._pings.append(answered)
        self.write(nats.PING)

    def pong(self) -> None:
        """Handle a PONG, the answer to the oldest PING."""
        self.pings_out = 0
        answered = self._pings.popleft() if self._pings else None
        if answered is not None:
            answered()

    def finish(self) -> None:
        """Stop reading, write what is queued, then close."""
        self.pause_reading()
        self._finishing = True
        self._wake.set()

    def pause_reading(self) -> None:
        """Stop reading; further bytes stay in the socket (R21)."""
        self._reading = trio.Event()

    def resume_reading(self) -> None:
        """Resume reading, unless `finish` was called."""
        if not self._finishing:
            self._reading.set()

    async def run(
        self,
        stream: trio.abc.Stream,
        parser: nats.ClientParser,
        handle: Callable[[list[nats.Reply]], None],
        service: Service,
    ) -> None:
        """Read and write until the connection is closed."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, service)
                    nursery.start_soon(self._ping)
                    await self._read(stream, parser, handle, service)
        finally:
            self.ended.set()

    async def _read(
        self,
        stream: trio.abc.Stream,
        parser: nats.ClientParser,
        handle: Callable[[list[nats.Reply]], None],
        service: Service,
    ) -> None:
        try:
            while True:
                while ops := parser.ops():
                    handle(ops)
                    service.read_done(self)
                    await trio.lowlevel.checkpoint()  # one read may contain thousands: let other tasks run
                    await self._reading.wait()
                await self._reading.wait()
                data = await stream.receive_some(READ_BYTES_MAX)
                if not data:
                    return self.close("closed by the server")
                parser.feed(data)
        except STREAM_ERRORS as error:
            self.close(why(error))
        except RemoteProtocolError as error:
            self.close(str(error))

    async def _write(self, stream: trio.abc.Stream, service: Service) -> None:
        while True:
            while not self._outbox:
                if self._finishing:
                    return self.close("this node stops")
                self._wake = trio.Event()
                await self._wake.wait()
            size, count = 0, 0
            for part in self._outbox:
                if count and size + len(part) > WRITE_BYTES_MAX:
                    break
                size += len(part)
                count += 1
            data = b"".join(self._outbox[:count])
            del self._outbox[:count]
            try:
                with trio.fail_after(WRITE_S):
                    await stream.send_all(data)
            except trio.TooSlowError:
                return self.close("the server does not read")
            except STREAM_ERRORS as error:
                return self.close(why(error))
            was_full = not self.writable
            self._outbox_bytes -= size
            if was_full and self.writable:
                service.drained(self)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_S)
            if self.pings_out > PINGS_MAX:
                return self.close("the server does not answer")
            self.ping()


def why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):  # contains one error per address
        error = error.exceptions[0]
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else None
    if isinstance(error, OSError) and isinstance(error.__cause__, BaseExceptionGroup):
        return why(error.__cause__)
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    return str(cause or error) or type(error).__name__
