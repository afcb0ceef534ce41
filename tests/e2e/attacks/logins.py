"""Attacks by those who have no password."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time

CONNECTIONS = 200


def guess(port: int, until_s: float, source: str = "127.0.0.2") -> None:
    """Log in as a known user with one wrong password after the other, from address ``source``.

    Many connections at a time: all that a node compares passwords with is kept busy.
    """
    numbers = itertools.count()
    waiting: list[socket.socket] = []
    while time.monotonic() < until_s:
        while len(waiting) < CONNECTIONS:
            try:
                one = socket.create_connection(("127.0.0.1", port), timeout=1, source_address=(source, 0))
                one.sendall(b'CONNECT {"user":"ann","pass":"guess %d"}\r\nPING\r\n' % next(numbers))
                waiting.append(one)
            except OSError:
                break
        readable, _, _ = select.select(waiting, [], [], 0.02)
        for one in readable:
            with contextlib.suppress(OSError):
                if one.recv(4096):
                    continue
            waiting.remove(one)
            one.close()
