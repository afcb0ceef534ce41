"""Stanchion: a Raft-replicated cluster node that speaks the NATS Streaming protocol.

One screen of the architecture; docs/architecture.md says what must hold::

       clients: NATS + STAN                    peers: frames
              │                                      │
    ┌─ shell ─▼──────────────────────────────────────▼─────┐  trio, sockets, files,
    │ protocol parses ─► streaming proposes ─► raft orders │  the clocks, randomness
    │                                           │ Entry    │
    │ ┌─ core ──────────────────────────────────▼────────┐ │  no I/O, no await,
    │ │ apply(state, entry) ─► effects                   │ │  no clock, no randomness;
    │ │   log · limits · dispatch · deadlines            │ │  the same on every node
    │ └───────────┬──────────────────────────────────────┘ │
    │             ▼                                        │
    │ perform, in order: deliver, reply; checkpoint behind │
    └──────────────────────────────────────────────────────┘

Everything that is decided is decided in ``core``, on every node alike; the leader only orders
entries and notices that time has passed. Rooms, each with its own docstring: ``protocol`` (bytes to
values), ``core`` (the replicated state machine), ``raft`` (consensus and journal), ``store`` (the
applied state on disk), ``server`` (sockets, and how the parts meet), ``monitor``, ``config``,
``client``, ``demo``, ``simulator``, ``cli``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """``__version__`` is looked up when somebody asks: it takes a tenth of a node's start."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("stanchion")
