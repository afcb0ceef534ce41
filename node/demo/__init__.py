"""The demo: a real cluster on this machine, a load, kills, a picture of it all, and a verdict.

::

    cluster   three node processes: started, killed, paused; what they log
       ▲
     story    what happens when ──► load      publishers and subscribers over real sockets
                                      │
    history ◄── what they saw ────────┘
       │
       ├──► picture   the screen while it runs (with what watch reads from the nodes)
       └──► checker   which promises held ──► report

``history`` and ``checker`` are pure: they know nothing of processes and sockets, so that the rules by which
the cluster is judged can be tested by themselves.
"""
