"""Attacks on the port where nodes find one another, by somebody who knows neither secret nor certificate."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import time
from collections.abc import Iterator

from node.protocol.peer import encode_frame

HELD = 100
"""Connections that are held at a time: more than a node greets."""


def _connected(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_connection(("127.0.0.1", port), timeout=1)
    return None


def _until(until_s: float) -> Iterator[None]:
    while time.monotonic() < until_s:
        yield


def hold_silent(port: int, until_s: float) -> None:
    """Open connections, say nothing, and replace each that is closed, as fast as it goes."""
    held: list[socket.socket] = []
    for _ in _until(until_s):
        if len(held) >= HELD:
            held.pop(0).close()
        connection = _connected(port)
        if connection is not None:
            held.append(connection)
    for connection in held:
        connection.close()


def hold_half_a_hello(port: int, until_s: float) -> None:
    """The same with the beginning of a frame, so that no connection is silent."""
    held: list[socket.socket] = []
    for _ in _until(until_s):
        if len(held) >= HELD:
            held.pop(0).close()
        connection = _connected(port)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.sendall(b"\x00\x00\x10\x00\x01")
            held.append(connection)
    for connection in held:
        connection.close()


def claim_names(port: int, until_s: float) -> None:
    """Say hello as a node of the cluster, under another name and on another link each time."""
    for number, _ in enumerate(_until(until_s)):
        connection = _connected(port)
        if connection is None:
            continue
        said = {
            "link": ("raft", "route", "snapshot", "foreign", "join")[number % 5],
            "node": f"n{number % 1000}",
            "to": "n1",
            "instance": secrets.token_bytes(16),
            "epoch": 1,
            "challenge": secrets.token_bytes(32),
        }
        with connection, contextlib.suppress(OSError):
            connection.sendall(encode_frame(said))
            connection.recv(4096)
            connection.sendall(encode_frame({"proof": secrets.token_bytes(32)}))
            connection.recv(4096)


def send_garbage(port: int, until_s: float) -> None:
    """Bytes that are no frame and no TLS record."""
    for _ in _until(until_s):
        connection = _connected(port)
        if connection is not None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(os.urandom(1024))
                connection.recv(4096)


def begin_tls(port: int, until_s: float) -> None:
    """TLS handshakes without a certificate: each costs the node a signature before it knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for _ in _until(until_s):
        connection = _connected(port)
        if connection is not None:
            with connection, contextlib.suppress(OSError), context.wrap_socket(connection) as secured:
                secured.recv(1)
