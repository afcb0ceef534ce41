"""The shell of a node: sockets, files and clocks, around objects without I/O.

::

    clients ─► connection ─► routing ─► streaming ─► origin ─┐ own and forwarded batches
    (trio)     one client's   subjects,  requests to  serials │
               operations     anywhere   commands             ▼
                  ▲                                       proposer ─► raft ─► core.apply
                  │ bytes while there is capacity             ▲                   │
            effect_executor ◄──────── effects ────────────────┼───────────────────┤
                                                        leader_duties       checkpointing
                                                 time, heartbeats, presence   (trio) ─► store

``replica`` holds the whole inner row: the part of a node that does no I/O and receives events and the time as
arguments. The simulator runs it unchanged. ``node`` supplies everything else: the directory, the engine and
its driver, the peers, the clients (``clients``, with ``context``, ``liveness``, ``auth`` and ``access``), the
signals, and the order of start and stop.
``clock`` reads the two clocks of the log, ``interest`` and ``subscriptions`` are the tables of ``routing``,
``requests`` sends requests to clients, ``system`` is the machine below, ``logs`` sets up logging,
``monitor_adapter`` is the node as monitoring sees it.

Subpackages: ``membership`` (the members of the cluster), ``disk`` (what is stored), ``administration``
(requests of operators), ``routes`` (nodes of other clusters), ``external_nats`` (an external NATS server).

What a client is promised is decided in ``core``, not here. This package is responsible for order: requests
of one connection are numbered in the order they arrived, effects are executed in the order they are listed,
and there is no await between two requests or between two effects.
"""
