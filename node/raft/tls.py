"""TLS over a byte stream, for peer connections.

Not trio's own `SSLStream`, for two reasons. That one hands out one record (16 KiB) a call, where we want
everything that has arrived, so that one read makes one iteration. And when a handshake fails it keeps
the alert to itself; here the refused side is sent it and can log why.

One reader and one writer may work at the same time. Closing is the plain stream's business: frames
have lengths, so that an end in the wrong place is noticed without TLS's own closing.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Protocol

RECORD_BYTES = 16 * 1024
"""The most that one record holds. Source: RFC 8446, 5.1."""


class ByteStream(Protocol):
    """What a connection needs of a stream, plain or TLS; errors are trio's, or `OSError`."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Wait for bytes; b"" at the end."""


class TlsStream:
    """One end of a TLS connection.

    Args:
        stream: carries it.
        context: ours.
        server_side: whether we were dialed.
    """

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    async def do_handshake(self) -> None:
        """Must be done before anything else.

        Raises:
            ssl.SSLError: we refuse the peer, or it refuses us. In TLS 1.3 a client may learn that
                only from its first `receive_some`.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill(0)
            except ssl.SSLError:
                await self._flush()  # the alert
                raise
            else:
                return await self._flush()

    def peer_certificate(self) -> Mapping[str, Any] | None:
        """Give the peer's verified certificate as `ssl` decodes it."""
        return self._tls.getpeercert()

    async def send_all(self, data: bytes) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self._tls.write(view[sent:])
        await self._flush()

    async def receive_some(self, max_bytes: int) -> bytes:
        """Wait for bytes and return what there is, many records at once; b"" at the end."""
        while True:
            records: list[bytes] = []
            room = max_bytes
            try:
                while room and (record := self._tls.read(min(room, RECORD_BYTES))):
                    records.append(record)
                    room -= len(record)
            except ssl.SSLWantReadError:
                if not records:
                    await self._fill(max_bytes)
                    continue
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                pass  # said again by the next call, if there were records before it
            return b"".join(records)

    async def _fill(self, max_bytes: int) -> None:
        # No less than a record, lest a short hello be read in drops.
        if data := await self._stream.receive_some(max(max_bytes, RECORD_BYTES)):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._stream.send_all(data)
