"""The demo: a real cluster on this machine under load, killed leaders, a live screen and a verdict.

::

    cluster   three node processes: started, killed, paused; reads their logs
       ▲
    scenario   the script of events ──► load      publishers and subscribers over real sockets
                                         │
    history ◄── recorded events ─────────┘
       │
       ├──► picture   the screen during the run (with data that watch reads from the nodes)
       └──► checker   which guarantees held ──► report

``history`` and ``checker`` are pure: they use no processes and sockets, so the rules can be tested by
themselves.
"""
