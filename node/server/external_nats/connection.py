"""One connection to somebody else's NATS server: its outbox, whether it is read from, and what ends it.

Reading stops while this node has too much unapplied (R21): the NATS server then holds the rest, and its own
bound decides. What is to be written is bounded too: above the soft limit deliveries wait as numbers (R3),
above the hard one the connection is given up. So is one whose server takes nothing, or answers no PINGs.
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
"""For one write of at most ``WRITE_BYTES_MAX``. Longer, and the server doesn't read."""

PING_S = 5.0
"""How often the server has to answer a PING; three that it hasn't are too many."""
PINGS_MAX = 2

STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes waiting to be written."""

    pending_soft: int = 1024 * 1024
    """From which on deliveries wait."""

    pending_max: int = 64 * 1024 * 1024
    """More, and the connection is given up."""


class Service(Protocol):
    """The streaming service, as far as it is needed here."""

    def read_done(self, connection: Any) -> None:
        """Everything in one read was handled."""

    def drained(self, connection: Any) -> None:
        """The connection is writable again."""

    def closed(self, connection: Any) -> None:
        """The connection has ended."""


class Link:
    """One connection that stands: its outbox, and whether it may be read from."""

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
        """Set when nothing is read or written any more."""
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
        """There is room for deliveries."""
        return self._outbox_bytes < self._limits.pending_soft and not self.closed

    @property
    def written(self) -> int:
        """See `delivery_progress`: what is handed over counts as written."""
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
        """End it; the first reason stands."""
        if not self.closed:
            self.closed = True
            self.reason = reason
            self._scope.cancel()

    def ping(self, answered: Callable[[], None] | None = None) -> None:
        """Ask the server; ``answered`` is told when it has handled all that was written before."""
        self.pings_out += 1
        self._pings.append(answered)
        self.write(nats.PING)

    def pong(self) -> None:
        """It has answered the oldest question, and so it lives."""
        self.pings_out = 0
        answered = self._pings.popleft() if self._pings else None
        if answered is not None:
            answered()

    def finish(self) -> None:
        """Read nothing more, write what is queued, and end."""
        self.pause_reading()
        self._finishing = True
        self._wake.set()

    def pause_reading(self) -> None:
        """Leave further bytes in the socket (R21)."""
        self._reading = trio.Event()

    def resume_reading(self) -> None:
        """Read again, unless it is to end."""
        if not self._finishing:
            self._reading.set()

    async def run(
        self,
        stream: trio.abc.Stream,
        parser: nats.ClientParser,
        handle: Callable[[list[nats.Reply]], None],
        service: Service,
    ) -> None:
        """Read and write until it is closed."""
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
                    await trio.lowlevel.checkpoint()  # one read brings thousands: others have their turn
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
    while isinstance(error, BaseExceptionGroup):  # one for each address that was tried
        error = error.exceptions[0]
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else None
    if isinstance(error, OSError) and isinstance(error.__cause__, BaseExceptionGroup):
        return why(error.__cause__)
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    return str(cause or error) or type(error).__name__
