"""Raise the limit of open files, and compute how many client connections fit into it.

If the journal can't open its next segment, the node exits: a failed disk operation is not retried. With the
usual limit of 1,024 files a thousand clients would cause this, then reconnect to the next node and cause it
there. So the limit is raised to the maximum that the system allows, as the Go runtime does. Client
connections are limited so that enough files are left for journal, store, peers and monitoring.
"""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger("stanchion.node")

RESERVED: Final = 384
"""Files reserved for everything but clients: 64 connections without a hello yet, 64 to monitoring, 64 clients
that are being refused, the links and files of the largest cluster, and a margin."""


FEW: Final = 4096
"""If fewer connections than this are possible and more are configured, a warning is logged."""


def raise_limit() -> None:
    """Raise this process's soft limit of open files to its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # some systems refuse the limit that they report
        log.debug("the limit of %d open files can't be raised: %s", soft, error)


def connections_max(wanted: int) -> int:
    """Return the number of client connections to accept if ``wanted`` are configured: at least one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or wanted <= limit - RESERVED:
        return wanted
    possible = max(1, limit - RESERVED)
    log.log(
        logging.WARNING if possible < FEW else logging.INFO,
        "clients.max_connections is %d, but this process may open only %d files: %d connections are "
        "accepted. Raise the limit with ulimit -n, or LimitNOFILE of systemd", wanted, limit, possible,
    )  # fmt: skip
    return possible
