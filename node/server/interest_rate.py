"""Limit the rate at which this node's clients may change their subscriptions.

Each subscription that begins or ends is work for every node of the cluster, about 50 µs in total. Steps keep
this work from delaying other work within a node, but not from taking all processors. Without a limit, a
client that subscribes to 50,000 subjects, disconnects and returns would occupy each node without a pause. A
publish of another client needs several message exchanges between several nodes, and would wait at each of
them.

So each node has a token bucket for changes. Typical applications don't notice it: `BURST` changes are free,
and a connection that makes no more than `FREE_PER_S` changes in a second never waits. Other connections wait
after a step until the bucket has recovered, and at least `REST` times as long as the step took, counted from
when it was due, because on a busy machine it begins late. Their bytes stay in the socket.

Removing the subscriptions of ended connections (`InterestRate.leave_pause_s`) takes tokens as well, so that
subscriptions don't begin faster than they can be removed.

A plain object without I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CHANGES_PER_S: Final = 20_000
"""Changes per second allowed to all clients of this node together, in addition to `BURST`."""

BURST: Final = 2_000
"""Size of the bucket, which is full after 0.1 s without changes."""

FREE_PER_S: Final = 1_000
"""Changes that one connection may make in a second without waiting, unless the bucket is in debt."""

FREE_IN_DEBT_PER_S: Final = 100
"""The same while the bucket is in debt by more than `DEBT_MAX`: many connections change at once."""

DEBT_MAX: Final = CHANGES_PER_S // 10
"""Maximum number of changes by other connections that a connection waits for: 0.1 s."""

REST: Final = 3
"""A step is followed by a pause of this many times its length: changes take a quarter of the time."""

PAUSE_MAX_S: Final = 0.1
"""Maximum of that pause, also on a slow machine."""

LEAVE_S: Final = 5.0
"""Subscriptions of ended connections are removed at `CHANGES_PER_S`, or at half of it while clients use the
rate. If that would take longer than this, ``1 / LEAVE_S`` of them is removed each second instead."""

LEAVE_BUSY_S: Final = 20.0
"""Maximum time of the removal on a machine so slow that the `REST` pauses would make it longer."""

ENDED_MAX: Final = 75_000
"""While more subscriptions of ended connections than this wait to be removed, connections that change many
rest for `ENDED_PAUSE_S` after each step. Otherwise subscriptions could begin faster than they are removed,
and the memory for ended ones would grow without limit."""

ENDED_PAUSE_S: Final = 1.0


class InterestRate:
    """The token bucket of one node.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = float(BURST)
        self._filled_s = clock()
        self._ended = 0

    def spend(self, changes: int) -> float:
        """Take tokens for ``changes``. Returns the seconds until the bucket has recovered, 0 if at once."""
        now_s = self._clock()
        elapsed_s = max(0.0, now_s - self._filled_s)
        tokens = min(BURST, self._tokens + elapsed_s * CHANGES_PER_S) - changes
        self._filled_s = now_s
        self._tokens = max(tokens, -2.0 * DEBT_MAX)
        return min(max(0.0, -tokens), DEBT_MAX + changes) / CHANGES_PER_S

    def add_ended(self, count: int) -> None:
        """Add the ``count`` subscriptions of an ended connection to those that wait to be removed."""
        self._ended += count

    @property
    def has_many_ended(self) -> bool:
        """True if more than `ENDED_MAX` subscriptions wait to be removed."""
        return self._ended > ENDED_MAX

    @property
    def is_in_debt(self) -> bool:
        """True if more than `DEBT_MAX` tokens are missing."""
        return self._tokens + (self._clock() - self._filled_s) * CHANGES_PER_S < -DEBT_MAX

    def leave_pause_s(self, removed: int, left: int, took_s: float) -> float:
        """Take tokens for ``removed`` subscriptions of ended connections; ``left`` are still to be removed.

        Returns the seconds until the next ones may be removed, after a step that ended ``took_s`` after it
        was due. Half of the rate is reserved for removal while clients subscribe, because ended subscriptions
        take memory.
        """
        self._ended = left
        if not self.spend(removed):
            return 0.0
        rest_s = min(REST * took_s, PAUSE_MAX_S, LEAVE_BUSY_S * removed / (removed + left))
        return max(rest_s, removed / max(CHANGES_PER_S / 2, (removed + left) / LEAVE_S))


class Allowance:
    """Changes that one connection has made in the current second, and the pauses they cause."""

    __slots__ = ("_since_s", "_used")

    def __init__(self) -> None:
        self._since_s = 0.0
        self._used = 0

    def pause_s(self, rate: InterestRate, changes: int, *, due_s: float, now_s: float) -> float:
        """Take tokens for ``changes`` of the connection, made in a step that was due at ``due_s``.

        Returns the seconds that the connection must wait from ``now_s`` on.
        """
        if now_s - self._since_s >= 1.0:
            self._since_s, self._used = now_s, 0
        self._used += changes
        pause_s = rate.spend(changes)
        if rate.has_many_ended and self._used > FREE_IN_DEBT_PER_S:
            return ENDED_PAUSE_S
        if not pause_s or self._used <= (FREE_IN_DEBT_PER_S if rate.is_in_debt else FREE_PER_S):
            return 0.0
        return max(pause_s, min(REST * (now_s - due_s), PAUSE_MAX_S))
