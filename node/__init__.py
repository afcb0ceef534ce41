"""Stanchion: a Raft-replicated cluster node that speaks the NATS Streaming protocol.

The architecture on one screen; docs/architecture.md has the details::

       clients: NATS + STAN                    peers: frames
              │                                      │
    ┌─ shell ─▼──────────────────────────────────────▼─────┐  trio, sockets, files,
    │ protocol parses ─► streaming proposes ─► raft orders │  clocks, randomness
    │                                           │ Entry    │
    │ ┌─ core ──────────────────────────────────▼────────┐ │  no I/O, no await,
    │ │ apply(state, entry) ─► effects                   │ │  no clock, no randomness;
    │ │   log · limits · dispatch · deadlines            │ │  the same on every node
    │ └───────────┬──────────────────────────────────────┘ │
    │             ▼                                        │
    │ execute effects in order: deliver, reply; checkpoint │
    └──────────────────────────────────────────────────────┘

All decisions are made in ``core``, in the same way on every node. The leader only orders entries and adds
the time. Packages: ``protocol`` (bytes to values), ``core`` (the replicated state machine), ``raft``
(consensus and journal), ``store`` (the applied state on disk), ``encryption`` (encryption at rest),
``server`` (sockets, and the assembly of a node), ``monitor``, ``config``, ``client``, ``demo``,
``simulator``, ``cli``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """Look up ``__version__`` on first use, because that takes a tenth of a node's start time."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("stanchion")
