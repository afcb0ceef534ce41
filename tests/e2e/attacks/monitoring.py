"""Attacks on the monitoring port."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence

READERS = 32
"""As many as the measurement that found the fault."""


def hold(port: int, until_s: float) -> None:
    """Hold as many idle connections as there are, opening new ones for those that are closed."""
    held: list[socket.socket] = []
    while time.monotonic() < until_s:
        while len(held) < 200:
            try:
                held.append(socket.create_connection(("127.0.0.1", port), timeout=1))
            except OSError:
                break
        readable, _, _ = select.select(held, [], [], 0.02)
        for one in readable:
            with contextlib.suppress(OSError):
                if one.recv(1):
                    continue
            held.remove(one)
            one.close()


def dawdle(port: int, until_s: float) -> None:
    """Ask for long pages and don't read them."""
    request = b"GET /subsz?subs=1&limit=65536 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    held = []
    while time.monotonic() < until_s:
        try:
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(1)
            one.connect(("127.0.0.1", port))
            one.sendall(request)
            held.append(one)
        except OSError:
            continue
        if len(held) > 100:
            held.pop(0).close()
        time.sleep(0.01)


def read(port: int, until_s: float, paths: Sequence[str]) -> None:
    """Read pages on `READERS` connections at a time, each as soon as the one before has come."""
    requests = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths]
    readers: list[socket.socket] = []
    while time.monotonic() < until_s:
        while len(readers) < READERS:
            try:
                one = socket.create_connection(("127.0.0.1", port), timeout=1)
                one.sendall(requests[len(readers) % len(requests)])
                readers.append(one)
            except OSError:
                break
        readable, _, _ = select.select(readers, [], [], 0.02)
        for one in readable:
            try:
                data = one.recv(1 << 18)
                if data.endswith((b"0\r\n\r\n", b"}")):  # the end of a page, as far as it matters here
                    one.sendall(requests[readers.index(one) % len(requests)])
            except OSError:
                data = b""
            if not data:
                readers.remove(one)
                one.close()


def long_pages(port: int, until_s: float) -> None:
    """Everything there is to read of subscriptions, connections and channels."""
    pages = ("/subsz?subs=1&limit=65536", "/connz?subs=detail", "/streaming/channelsz?subs=1&limit=65536")
    read(port, until_s, pages)


def probes(port: int, until_s: float) -> None:
    """Nothing but probes."""
    read(port, until_s, ("/healthz",))


def short_pages(port: int, until_s: float) -> None:
    """What takes little to make, as often as it can be had."""
    read(port, until_s, ("/varz", "/raftz", "/streaming/serverz", "/streaming/storez", "/nope"))
