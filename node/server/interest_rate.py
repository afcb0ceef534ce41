"""The rate at which this node's clients may change their subscriptions.

Every subscription that begins or ends is work for every node of the cluster, some 50 µs together. Steps keep
that work from delaying other work within a node. They don't keep it from taking all processors: a client that
subscribes to 50,000 subjects, leaves and returns would occupy each node without a pause, and a publish of
another client, which needs several rounds of several nodes, would wait at each of them.

So the node has a token bucket of changes. Applications don't notice it: `BURST` changes are free, and a
connection that makes no more than `FREE_PER_S` changes in a second never waits. Other connections wait after
a step until the bucket has recovered, and at least `REST` times as long as the step took, counted from when
it was due: on a busy machine it begins late. Their bytes stay in the socket. Removing the subscriptions of
connections that have ended (`InterestRate.leave_pause_s`) takes tokens as well, so that subscriptions don't
begin faster than they can be removed.

A plain object without I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CHANGES_PER_S: Final = 20_000
"""Subscriptions of all clients of this node that may begin or end in a second, besides `BURST`."""

BURST: Final = 2_000
"""So many changes are free after 0.1 s without any."""

FREE_PER_S: Final = 1_000
"""Changes that one connection may make in a second without waiting, unless the bucket is in debt."""

FREE_IN_DEBT_PER_S: Final = 100
"""The same while it is in debt by more than `DEBT_MAX` changes: many connections change at once."""

DEBT_MAX: Final = CHANGES_PER_S // 10
"""A connection waits for no more than so many changes of others: 0.1 s."""

REST: Final = 3
"""A step is followed by a pause of so many times its own length: changes take a quarter of the time."""

PAUSE_MAX_S: Final = 0.1
"""That pause is no longer, however slow the machine."""

LEAVE_S: Final = 5.0
"""Subscriptions of ended connections are removed at `CHANGES_PER_S`, or half of it beside clients that use
the rate. If that would take longer than so many seconds, a part of ``1 / LEAVE_S`` of them is removed each
second."""

LEAVE_BUSY_S: Final = 20.0
"""The same where the machine is so slow that `REST` would let it take longer."""

ENDED_MAX: Final = 75_000
"""While more subscriptions of ended connections wait to be removed, connections that change many rest for
`ENDED_PAUSE_S` after each step. Else subscriptions could begin faster than they are removed, and what has
ended would take ever more memory."""

ENDED_PAUSE_S: Final = 1.0


class InterestRate:
    """The token bucket of one node.

    Args:
        clock: seconds that only elapse.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = float(BURST)
        self._filled_s = clock()
        self._ended = 0

    def spend(self, changes: int) -> float:
        """Take tokens for ``changes``. Returns the seconds until the bucket has recovered from them; 0 if it
        had as many.
        """
        now_s = self._clock()
        elapsed_s = max(0.0, now_s - self._filled_s)
        tokens = min(BURST, self._tokens + elapsed_s * CHANGES_PER_S) - changes
        self._filled_s = now_s
        self._tokens = max(tokens, -2.0 * DEBT_MAX)
        return min(max(0.0, -tokens), DEBT_MAX + changes) / CHANGES_PER_S

    def add_ended(self, count: int) -> None:
        """A connection with ``count`` subscriptions has ended; `leave_pause_s` tells what is left of them."""
        self._ended += count

    @property
    def has_many_ended(self) -> bool:
        """More than `ENDED_MAX` subscriptions wait to be removed."""
        return self._ended > ENDED_MAX

    @property
    def is_in_debt(self) -> bool:
        """More than `DEBT_MAX` tokens are missing."""
        return self._tokens + (self._clock() - self._filled_s) * CHANGES_PER_S < -DEBT_MAX

    def leave_pause_s(self, removed: int, left: int, took_s: float) -> float:
        """Take tokens for ``removed`` subscriptions of ended connections, of which ``left`` are still there.

        Returns the seconds until the next may be removed, after a step that took ``took_s`` since it was due.
        Half the rate is for removing, so that it goes on beside clients that subscribe, for what has ended
        takes memory until then.
        """
        self._ended = left
        if not self.spend(removed):
            return 0.0
        rest_s = min(REST * took_s, PAUSE_MAX_S, LEAVE_BUSY_S * removed / (removed + left))
        return max(rest_s, removed / max(CHANGES_PER_S / 2, (removed + left) / LEAVE_S))


class Allowance:
    """The changes that one connection may make in the present second without waiting."""

    __slots__ = ("_since_s", "_used")

    def __init__(self) -> None:
        self._since_s = 0.0
        self._used = 0

    def pause_s(self, rate: InterestRate, changes: int, *, due_s: float, now_s: float) -> float:
        """Take tokens for ``changes`` of the connection, in a step that was due at ``due_s``.

        Returns how many seconds the connection must wait from ``now_s`` on.
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
