"""Attacks with the words of the NATS protocol alone."""

from __future__ import annotations

import contextlib
import socket
import time

CHUNK_BYTES = 256 << 10
"""As much as a node reads at once."""


def repeat(port: int, until_s: float, operations: bytes, first: bytes = b"CONNECT {}\r\nPING\r\n") -> None:
    """Send ``operations`` again and again, and read whatever comes, until ``until_s``.

    A new connection follows each that the server closes.
    """
    chunk = operations * max(1, CHUNK_BYTES // len(operations))
    while time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(first)
                connection.settimeout(0.2)
                while time.monotonic() < until_s:
                    _exchange(connection, chunk)
        except OSError:
            continue


def _exchange(connection: socket.socket, chunk: bytes) -> None:
    """Send a chunk, reading at the same time, so that neither side waits for the other for ever.

    Raises:
        OSError: the server has closed the connection.
    """
    left = memoryview(chunk)
    while left:
        with contextlib.suppress(TimeoutError):
            left = left[connection.send(left) :]
        _read(connection)


def _read(connection: socket.socket) -> None:
    connection.setblocking(False)
    try:
        while True:
            if not connection.recv(1 << 16):
                raise ConnectionResetError("closed by the server")
    except BlockingIOError:
        pass
    finally:
        connection.settimeout(0.2)


def pings(port: int, until_s: float) -> None:
    """Nothing but PINGs."""
    repeat(port, until_s, b"PING\r\n")
