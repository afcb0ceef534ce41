"""One connection between two nodes: socket, TLS, first frame, then an outbox, a reader and a writer.

`transport` decides which peer a connection belongs to and whether it is the link. Errors of a stream are
translated here, once, into `LostError`. A connection that is a link never raises it: it ends with a reason
(`Connection.closed`).
"""

from __future__ import annotations

import itertools
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from node.errors import RemoteProtocolError, UnavailableError
from node.protocol.peer import (
    HEADER_BYTES,
    HELLO_BYTES_MAX,
    HELLO_ITEMS_MAX,
    FrameDecoder,
    decode_body,
    encode_frame,
    frame_length,
)
from node.raft.links import RAFT, Hello, Limits
from node.raft.security import Contexts
from node.raft.tls import ByteStream, TlsStream

STREAM_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""Errors by which a stream reports that it has ended. TLS errors are subclasses of `OSError`."""


_STEP_S: Final = 0.002
"""Process frames for at most this long before other tasks may run; does not apply to raft links. One frame
may be much work: a message to many clients, or a change of subject interest. A frame that exceeds the
limit is finished."""


class LostError(Exception):
    """A connection has ended or was never established; the text says why."""


class NoHelloError(LostError):
    """The connection ended before it sent a byte: a dialer that no longer needs it, or a port scan."""


class TlsError(LostError):
    """The other end does not speak TLS, or no version that this end accepts."""


class CertificateRefusedError(LostError):
    """One end of a TLS handshake refuses the other's certificate, or received none."""


_numbers = itertools.count(1)


async def dialed(host: str, port: int, within_s: float) -> trio.SocketStream:
    """Open a connection to another node's address.

    Raises:
        LostError: the connection failed or took longer than ``within_s``.
    """
    with trio.move_on_after(within_s):
        try:
            return await trio.open_tcp_stream(host, port)
        except OSError as error:
            raise LostError(reason(error)) from error
    raise LostError(f"no connection within {within_s} s")


class Counted:
    """Traffic counters of one connection, for monitoring. Times are Unix nanoseconds."""

    __slots__ = ("in_bytes", "in_frames", "last_ns", "out_bytes", "out_frames", "start_ns")

    def __init__(self, start_ns: int) -> None:
        self.start_ns = self.last_ns = start_ns
        self.in_bytes = self.in_frames = self.out_bytes = self.out_frames = 0

    def count_read(self, size: int, frames: int) -> None:
        """Count bytes that were read and the frames they completed."""
        self.last_ns = time.time_ns()
        self.in_bytes += size
        self.in_frames += frames

    def count_written(self, size: int) -> None:
        """Count bytes that were written."""
        self.last_ns = time.time_ns()
        self.out_bytes += size


class Connection:
    """One connection that is or was a link: a stream and the frames queued for it."""

    __slots__ = (
        "_drained",
        "_outbox",
        "_paused",
        "_scope",
        "_soft",
        "_wake",
        "closed",
        "counted",
        "dialled",
        "hello",
        "number",
        "queued_bytes",
        "remote",
        "socket",
        "stream",
    )

    def __init__(
        self,
        stream: ByteStream,
        hello: Hello,
        remote: str,
        socket: trio.socket.SocketType | None = None,
        *,
        dialled: bool = False,
    ) -> None:
        self.number = next(_numbers)
        """Unique within this process."""
        self.stream = stream
        self.socket = socket
        self.dialled = dialled
        """True if this node opened it."""
        self.hello = hello
        self.remote = remote
        self.queued_bytes = 0
        """Bytes that are queued or being written."""
        self.closed: str | None = None
        """The reason it was closed; None while it is open. After that nothing is sent and received frames are
        ignored."""
        self.counted = Counted(time.time_ns())
        self._paused: trio.Event | None = None
        self._drained: Callable[[], None] | None = None
        self._soft = 0
        self._outbox: deque[bytes] = deque()
        self._wake = trio.Event()
        self._scope = trio.CancelScope()

    def push(self, frame: bytes, bytes_max: int) -> bool:
        """Queue a frame. Returns False if the connection is closed, or is closed now because its outbox would
        exceed ``bytes_max``.
        """
        if self.closed is not None:
            return False
        if self.queued_bytes + len(frame) > bytes_max:
            self.close(f"the peer does not read: {self.queued_bytes} bytes are queued")
            return False
        self._outbox.append(frame)
        self.queued_bytes += len(frame)
        self.counted.out_frames += 1
        self._wake.set()
        return True

    def notify_drained(self, soft: int, drained: Callable[[], None]) -> None:
        """Call ``drained`` whenever the queued bytes fall below ``soft``."""
        self._soft, self._drained = soft, drained

    @property
    def is_paused(self) -> bool:
        """True while nothing is read from the socket."""
        return self._paused is not None

    def pause_reading(self) -> None:
        """Stop reading; further bytes stay in the socket."""
        if self._paused is None:
            self._paused = trio.Event()

    def resume_reading(self) -> None:
        """Continue reading."""
        if self._paused is not None:
            self._paused.set()
            self._paused = None

    def close(self, reason: str) -> None:
        """Close the connection. If it is closed already, the first reason is kept."""
        if self.closed is None:
            self.closed = reason
            self._scope.cancel()

    async def run(self, limits: Limits, take: Callable[[list[Any]], None]) -> None:
        """Read and write until the connection is closed. ``take`` receives all frames completed by one
        read.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, limits.write_bytes)
                await self._read(limits, take)

    async def _read(self, limits: Limits, take: Callable[[list[Any]], None]) -> None:
        decoder = FrameDecoder(limits.frame_bytes_max)
        while True:
            try:
                data = await self.stream.receive_some(limits.read_bytes)
            except STREAM_ERRORS as error:
                return self.close(reason(error))
            if not data:
                return self.close("closed by the peer")
            values = decoder.feed(data)
            self.counted.count_read(len(data), len(values))
            if self.closed is not None:  # replaced after the bytes had come in
                return None
            try:
                if self.hello.link == RAFT:
                    if values:
                        take(values)
                elif not await self._take_in_steps(values, take):
                    return None
            except RemoteProtocolError as error:
                return self.close(str(error))
            if self._paused is not None:
                await self._paused.wait()
            if decoder.error is not None:
                return self.close(str(decoder.error))

    async def _take_in_steps(self, values: list[Any], take: Callable[[list[Any]], None]) -> bool:
        """Pass frames to ``take``, and let other tasks run in between. Returns False if the connection was
        closed meanwhile.

        Raises:
            RemoteProtocolError: the peer broke its protocol.
        """
        began_s = time.monotonic()
        for value in values:
            if self._paused is not None or time.monotonic() - began_s > _STEP_S:
                await self._yield()
                began_s = time.monotonic()
            if self.closed is not None:
                return False
            take([value])
        return True

    async def _yield(self) -> None:
        """Let other tasks run; wait while reading is paused."""
        await trio.lowlevel.checkpoint()
        if self._paused is not None:
            await self._paused.wait()

    async def _write(self, bytes_max: int) -> None:
        while True:
            if not self._outbox:
                self._wake = trio.Event()
                await self._wake.wait()
            data = self._next_write(bytes_max)
            try:
                await self.stream.send_all(data)
            except STREAM_ERRORS as error:
                return self.close(reason(error))
            before = self.queued_bytes
            self.queued_bytes -= len(data)
            self.counted.count_written(len(data))
            if self._drained is not None and before >= self._soft > self.queued_bytes:
                self._drained()

    def _next_write(self, bytes_max: int) -> bytes:
        outbox = self._outbox
        frames = [outbox.popleft()]
        size = len(frames[0])
        while outbox and size + len(outbox[0]) <= bytes_max:
            size += len(outbox[0])
            frames.append(outbox.popleft())
        return b"".join(frames) if len(frames) > 1 else frames[0]


class SnapshotChannel:
    """A separate connection for one snapshot. Frames go in both directions independently."""

    def __init__(self, peer: str, stream: ByteStream, limits: Limits) -> None:
        self.peer = peer
        self._stream = stream
        self._limits = limits
        self._decoder = FrameDecoder(limits.snapshot_frame_bytes_max)

    async def send(self, value: Any) -> None:
        """Send one frame; returns when the socket has accepted it. Only one task may send at a time.

        Raises:
            UnavailableError: the connection is lost.
        """
        await self.send_encoded(encode_frame(value))

    async def send_encoded(self, frame: bytes) -> None:
        """Send one frame that `encode_frame` has encoded; otherwise as `send`."""
        try:
            await self._stream.send_all(frame)
        except STREAM_ERRORS as error:
            raise self._lost(error) from error

    async def receive(self) -> list[Any]:
        """Wait for frames; returns at least one, or [] after the peer has closed the connection.

        Raises:
            RemoteProtocolError: the bytes are no valid frame.
            UnavailableError: the connection is lost.
        """
        while True:
            if self._decoder.error is not None:
                raise self._decoder.error
            try:
                data = await self._stream.receive_some(self._limits.read_bytes)
            except STREAM_ERRORS as error:
                raise self._lost(error) from error
            values = self._decoder.feed(data)
            if values or not data:
                return values

    def _lost(self, error: Exception) -> UnavailableError:
        return UnavailableError(f"snapshot connection with {self.peer}: {reason(error)}")


async def secure(
    stream: trio.SocketStream, contexts: Contexts | None, *, server_side: bool, unanswered_s: float
) -> tuple[ByteStream, Mapping[str, Any] | None]:
    """Set the socket options and add TLS; return the stream and the peer's certificate as `ssl` decodes it.

    Raises:
        NoHelloError: the other end closed the connection during the handshake, as a dialer does that no
            longer needs it.
        CertificateRefusedError: one end refused the other's certificate.
        TlsError: the handshake failed for another reason.
    """
    try:
        tune(stream.socket, unanswered_s)
        if contexts is None:
            return stream, None
        context = contexts.accept if server_side else contexts.dial
        secured = TlsStream(stream, context, server_side=server_side)
        await secured.do_handshake()
        return secured, secured.peer_certificate()
    except STREAM_ERRORS as error:
        raise _tls_failure(error)(f"TLS: {reason(error)}") from error


def _tls_failure(error: Exception) -> type[LostError]:
    """Return the error class for a failed handshake. Each class has its own log limit, so that one can't hide
    another.

    OpenSSL names a certificate in the reasons that concern one: ``CERTIFICATE_VERIFY_FAILED``,
    ``PEER_DID_NOT_RETURN_A_CERTIFICATE``, and the alerts of the other end: ``TLSV1_ALERT_UNKNOWN_CA``,
    ``SSLV3_ALERT_CERTIFICATE_EXPIRED``. Source: RFC 8446, 6.2.
    """
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return NoHelloError
    word = error.reason or ""
    return CertificateRefusedError if "CERTIFICATE" in word or "UNKNOWN_CA" in word else TlsError


async def send(stream: ByteStream, value: Any) -> None:
    await send_encoded(stream, encode_frame(value))


async def send_encoded(stream: ByteStream, frame: bytes) -> None:
    try:
        await stream.send_all(frame)
    except STREAM_ERRORS as error:
        raise LostError(reason(error)) from error


async def receive_hello(stream: ByteStream) -> Any:
    """Read and decode one frame of a handshake; see `receive_first`."""
    return decode_body(await receive_first(stream), HELLO_ITEMS_MAX)


async def receive_first(stream: ByteStream) -> bytearray:
    """Read the body of one handshake frame and no byte more: the frames that follow have other limits."""
    length = frame_length(await _receive_exactly(stream, HEADER_BYTES), HELLO_BYTES_MAX)
    return await _receive_exactly(stream, length)


async def _receive_exactly(stream: ByteStream, size: int) -> bytearray:
    received = bytearray()
    while len(received) < size:
        try:
            data = await stream.receive_some(size - len(received))
        except STREAM_ERRORS as error:
            raise LostError(reason(error)) from error
        if not data:
            kind = LostError if received else NoHelloError
            raise kind("closed by the peer before its hello")
        received += data
    return received


def tune(sock: trio.socket.SocketType, unanswered_s: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)  # seconds
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(unanswered_s * 1000))


def round_trip_ns(sock: trio.socket.SocketType) -> int | None:
    """Return the smoothed round-trip time that the kernel measured; None if it is not available (not on
    Linux).

    Source: tcp(7), TCP_INFO: ``tcpi_rtt``, microseconds, smoothed.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _TCPI_RTT_AT + 4)
    except OSError:  # closed meanwhile
        return None
    return (
        int.from_bytes(info[_TCPI_RTT_AT:], sys.byteorder) * 1000 if len(info) == _TCPI_RTT_AT + 4 else None
    )


_TCPI_RTT_AT: Final = 8 + 15 * 4
"""Offset in ``struct tcp_info``: after eight bytes of flags and fifteen 4-byte numbers."""


def remote(stream: trio.SocketStream) -> str:
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError as error:  # gone already
        raise LostError(reason(error)) from error
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(stream: trio.SocketStream) -> str:
    """Return the remote address without its port.

    Raises:
        LostError: the connection has ended already.
    """
    try:
        host: str = stream.socket.getpeername()[0]
    except OSError as error:
        raise LostError(reason(error)) from error
    return host


def reason(error: BaseException) -> str:
    """Return the text of the innermost cause of an error."""
    cause: BaseException = error
    while True:
        if isinstance(cause, BaseExceptionGroup):  # one for each address that was tried
            cause = cause.exceptions[0]
        elif cause.__cause__ is not None:
            cause = cause.__cause__
        else:
            break
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError) and (word := getattr(cause, "reason", None)):
        return str(word).lower().replace("_", " ")
    return str(cause) or type(cause).__name__
