"""Options of the process that runs a node: sockets it starts with, and its behaviour at start and on signals.

``stanchion node`` and ``nats-streaming-server`` run the same node. They differ in these options.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.config.model import Config


@dataclass(frozen=True, slots=True)
class Launch:
    """Options of the process. The defaults are those of ``stanchion node``."""

    sockets: Sequence[socket.socket] = ()
    """Sockets that already listen for clients; empty: the node opens its own. A command that binds the port
    first lets clients connect while the rest of the program is still being imported."""

    http_sockets: Sequence[socket.socket] = ()
    """The same for monitoring, whose pages are served a little later."""

    reload: Callable[[], Config] | None = None
    """Reads the configuration again, for SIGHUP; raises `ConfigError`. None: there is no file."""

    relevel: Callable[[Config], None] | None = None
    """Sets the log level of a reloaded configuration."""

    ready: str = "ready: taking clients"
    """Text logged whenever this node begins to serve as leader."""

    proposes: bool = False
    """Propose the node's settings at each start and not only to a new cluster (R23). For a single node whose
    operator changes a flag and restarts it."""

    early_signals: Callable[[], Sequence[int]] = tuple
    """Returns the signals that arrived before the node had installed its own handlers, and forgets them."""

    terminated_status: int = 0
    """The exit status after SIGTERM; after SIGINT it is 0."""
