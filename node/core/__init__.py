"""The replicated state machine: entries in, effects out. Pure, and the same on every node.

``machine`` applies an entry in the order of rule R1. Each kind of command has its module: ``clients``,
``subscriptions``, ``channels`` (publishes), ``acks``, ``administration`` (commands of operators), and
``leader_commands`` with ``presence`` and ``new_term``. ``dispatch`` then decides which messages each
subscription is sent; ``group`` chooses members and ``deadlines`` holds the ends of AckWaits. ``limits``
decides which messages are dropped. ``sessions`` makes each request take effect once.

``state`` is the result of all entries; ``records`` writes it and ``restoring`` reads it. ``commands`` are
the input and ``effects`` the output. Both use ``settings`` and the error texts of ``refusals``.

No I/O, no await, no clock, no randomness, no iteration over sets, no ``hash()``, no float (R30).
"""
