"""How many files and sockets this process may have open, and what of that is for clients.

A journal that can't open its next segment ends the node (a disk that refuses is not asked again), and with
the usual limit of 1,024 a thousand clients would be enough for it; then they go on to the next node. So the
limit is raised as far as the system lets us, as Go programs do by themselves, and clients get no more than
leaves enough for the rest: journal, store, peers, monitoring.
"""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger("stanchion.node")

RESERVED: Final = 384
"""For everything but clients: 64 connections that haven't said hello, 64 to monitoring, as many clients that
are being refused, the links and files of the largest cluster, and room."""


FEW: Final = 4096
"""Fewer connections than this are worth a warning where more are configured."""


def raise_limit() -> None:
    """Let this process open as many as it is allowed to ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # not every system gives what it says it would
        log.debug("the limit of %d open files stays: %s", soft, error)


def connections_max(wanted: int) -> int:
    """How many client connections there may be, if ``wanted`` are configured. At least one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or wanted <= limit - RESERVED:
        return wanted
    possible = max(1, limit - RESERVED)
    log.log(
        logging.WARNING if possible < FEW else logging.INFO,
        "clients.max_connections is %d, but this process may open only %d files: %d connections are taken "
        "(ulimit -n, or LimitNOFILE of systemd)", wanted, limit, possible,
    )  # fmt: skip
    return possible
