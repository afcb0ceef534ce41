"""The replicated state machine: entries in, effects out. Pure, and the same on every node.

``machine`` applies an entry, in the order of rule R1; each kind of command has its module:
``clients``, ``subscriptions``, ``channels`` (publishes), ``acks``, ``administration`` (what operators ask
for), and what only the leader's keeper says in ``keeping`` and ``presence``. ``dispatch`` then decides
what is sent to whom, with ``group`` choosing members and ``deadlines`` knowing when AckWaits end;
``limits`` decides what is let go. ``sessions`` makes each request take effect once.

``state`` is all that comes of it; ``records`` writes it down and reads it back. ``commands`` and
``effects`` are the two ways in and out, ``settings`` and ``refusals`` the words in between.

No I/O, no await, no clock, no randomness, no iteration over sets, no ``hash()``, no float (R30).
"""
