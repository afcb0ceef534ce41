"""Where a node listens: every address of a name, and both families behind a wildcard."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from node import sockets
from node.sockets import listen

REAL_SOCKET = socket.socket


def has_ipv6() -> bool:
    try:
        with REAL_SOCKET(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@needs_ipv6
@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_wildcard_takes_both_families(host: str) -> None:
    """The Go server's 0.0.0.0 does; Node.js from 17 on dials localhost by IPv6 first."""
    opened = listen(host, 0)
    try:
        (port,) = {one.getsockname()[1] for one in opened}
        assert connects("127.0.0.1", port)
        assert connects("::1", port)
    finally:
        for one in opened:
            one.close()


def test_an_address_is_listened_on_alone() -> None:
    (one,) = listen("127.0.0.1", 0)
    with one:
        assert one.getsockname()[0] == "127.0.0.1"
        assert not has_ipv6() or not connects("::1", one.getsockname()[1])


@pytest.mark.parametrize("refused", ["socket", "bind"])
def test_without_ipv6_a_wildcard_takes_ipv4(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket(REAL_SOCKET):
        def __init__(self, family: int = -1, *rest: Any) -> None:
            if family == socket.AF_INET6 and refused == "socket":
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *rest)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr(sockets.socket, "socket", Socket)
    (one,) = listen("0.0.0.0", 0)
    with one:
        assert one.family == socket.AF_INET


@needs_ipv6
def test_a_drawn_port_that_the_other_family_has_taken_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [OSError(errno.EADDRINUSE, "Address already in use")] * 3

    class Socket(REAL_SOCKET):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6 and refusals:
                raise refusals.pop()
            super().bind(address)

    monkeypatch.setattr(sockets.socket, "socket", Socket)
    opened = listen("::", 0)
    assert not refusals
    assert len({one.getsockname()[1] for one in opened}) == 1
    for one in opened:
        one.close()


def test_a_port_that_is_taken_leaves_nothing_open() -> None:
    (taken,) = listen("127.0.0.1", 0)
    with taken, pytest.raises(OSError, match="Address already in use"):
        listen("0.0.0.0", taken.getsockname()[1])
