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

from importlib.metadata import version

__version__ = version("stanchion")
