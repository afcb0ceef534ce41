"""TLS over a byte stream, for peer connections.

This replaces trio's `SSLStream` for two reasons. `SSLStream` returns one record (16 KiB) per call, whereas
here one read must return everything that has arrived, so that one read causes one iteration. And when a
handshake fails it does not send the alert; here the refused side receives it and can log the reason.

One reader and one writer may work at the same time. TLS is not closed separately: frames have lengths, so a
truncated stream is detected without TLS's own closing.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Protocol

RECORD_BYTES = 16 * 1024
"""Maximum size of one record. Source: RFC 8446, 5.1."""


class ByteStream(Protocol):
    """The stream interface of a connection, plain or TLS; errors are trio's, or `OSError`."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Wait for bytes; returns b"" at the end."""


class TlsStream:
    """One end of a TLS connection.

    Args:
        stream: carries the connection.
        context: the context of this end.
        server_side: whether this end accepted the connection.
    """

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    async def do_handshake(self) -> None:
        """Perform the handshake; required before any other call.

        Raises:
            ssl.SSLError: one side refuses the other. In TLS 1.3 a client may learn of that only from its
                first `receive_some`.
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
        """Return the peer's verified certificate as `ssl` decodes it."""
        return self._tls.getpeercert()

    async def send_all(self, data: bytes) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self._tls.write(view[sent:])
        await self._flush()

    async def receive_some(self, max_bytes: int) -> bytes:
        """Wait for bytes and return all that have arrived, of many records at once; b"" at the end."""
        while True:
            records: list[bytes] = []
            space = max_bytes
            try:
                while space and (record := self._tls.read(min(space, RECORD_BYTES))):
                    records.append(record)
                    space -= len(record)
            except ssl.SSLWantReadError:
                if not records:
                    await self._fill(max_bytes)
                    continue
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                pass  # raised again by the next call, if records were returned
            return b"".join(records)

    async def _fill(self, max_bytes: int) -> None:
        # At least one record, so that a small ``max_bytes`` does not cause many reads.
        if data := await self._stream.receive_some(max(max_bytes, RECORD_BYTES)):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._stream.send_all(data)
