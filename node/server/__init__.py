"""The shell of a node: sockets, files and clocks on the outside, plain objects within.

::

    clients ─► connection ─► routing ─► streaming ─► origin ─┐ own and forwarded batches
    (trio)     one client's   subjects,  requests to  serials │
               operations     anywhere   commands             ▼
                  ▲                                       ordering ─► raft ─► core.apply
                  │ bytes while there is room                 ▲                   │
               perform ◄──────────── effects ─────────────────┼───────────────────┤
                                                            keeper          checkpointing
                                                 time, heartbeats, presence   (trio) ─► store

``replica`` holds all of the inner row together: it is one node's share of the cluster without I/O, told
what happened and what time it is. The simulator runs it as it stands. ``node`` gives it everything else:
the directory, the engine and its driver, the peers, the clients (``clients``, with ``context``,
``liveness``, ``auth`` and ``access``), the signals and the order in which all of this starts and stops.
``clock`` reads the two clocks of the log,
``interest`` and ``subscriptions`` are what ``routing`` keeps, ``requests`` asks clients something,
``host`` is the machine underneath, ``logs`` how a node speaks, ``source`` what monitoring sees of it.

Rooms within: ``membership`` (who belongs to the cluster), ``disk`` (what is kept), ``administration`` (what
operators ask), ``remote_routes`` (nodes of other clusters), ``external_nats`` (a NATS server of somebody
else).

Nothing in this room decides what a client is promised; that is ``core``'s. What it owes is order:
requests of one connection are numbered as they came, effects are performed as they are listed, and
no await stands between two of either.
"""
