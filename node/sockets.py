"""Listening sockets. A wildcard address covers IPv4 and IPv6, as in Go.

``localhost`` is ``::1`` first for many programs (Node.js since 17). A server that listens on ``0.0.0.0``
only would refuse them. Standard library only: a command binds its port before it imports anything else.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # names for all addresses, not a choice

_BACKLOG: Final = 4096
_DRAWS_MAX: Final = 16
"""Maximum number of attempts to find a port that is free in both families."""
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
"""Errors on a machine without IPv6, which listens on IPv4 only."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on every address of ``host``.

    Args:
        host: a name or an address. ``0.0.0.0``, ``::`` or empty: all addresses of both families.
        port: of all sockets; 0 chooses one that is free in each family.

    Raises:
        OSError: the name can't be resolved, or an address can't be bound.
    """
    for draw in range(_DRAWS_MAX):
        try:
            return _listen(host, port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or draw == _DRAWS_MAX - 1:
                raise
    raise AssertionError("unreachable")


def _listen(host: str, port: int) -> list[socket.socket]:
    is_wildcard = host in WILDCARDS
    found = socket.getaddrinfo(
        None if is_wildcard else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    found.sort(key=lambda one: one[0] == socket.AF_INET6)  # IPv4 first: its port is the one that is shown
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            try:
                one = socket.socket(family, kind, protocol)
            except OSError as error:
                if sockets and error.errno in _NO_IPV6:
                    continue
                raise
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                one.bind((address[0], port, *address[2:]))
            except OSError as error:
                if not (is_wildcard and len(sockets) > 1 and error.errno in _NO_IPV6):
                    raise
                sockets.pop().close()
                continue
            port = one.getsockname()[1]
            one.listen(_BACKLOG)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets
