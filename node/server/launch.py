"""How the process around a node behaves: what it was given to start with, and what signals mean to it.

``stanchion node`` and ``nats-streaming-server`` run the same node; here is where they differ.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.config.model import Config


@dataclass(frozen=True, slots=True)
class Launch:
    """The defaults are those of ``stanchion node``."""

    sockets: Sequence[socket.socket] = ()
    """Sockets for clients that listen already; empty: the node opens its own. A command that binds the
    port first takes clients while the rest of it is still being imported."""

    http_sockets: Sequence[socket.socket] = ()
    """The same for monitoring, whose pages are there a little later still."""

    reload: Callable[[], Config] | None = None
    """Reads the configuration once more, for SIGHUP; raises `ConfigError`. None: there is no file."""

    relevel: Callable[[Config], None] | None = None
    """Makes the log as grave or as chatty as a reloaded configuration says."""

    ready: str = "ready: taking clients"
    """What is logged whenever this node, leading, begins to serve."""

    proposes: bool = False
    """Whether the node's settings are proposed at each start and not only to a new cluster (R23). For a
    node alone whose operator changes a flag and restarts it."""

    early_signals: Callable[[], Sequence[int]] = tuple
    """Returns the signals that came before the node had its own handlers, and forgets them."""

    terminated_status: int = 0
    """The exit status after SIGTERM; after SIGINT it is 0."""
