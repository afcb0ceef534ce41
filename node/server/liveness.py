"""Detect dead connections: when to send a PING, and when to give up.

A plain object without I/O; times are seconds of any monotonic clock.

Source: the NATS client protocol, "Liveness and slow consumers".
"""

from __future__ import annotations


class Liveness:
    """The PINGs of one connection.

    Args:
        now_s: when the connection began.
        interval_s: a PING is due when the connection has been idle for this long.
        ping_max: maximum number of unanswered PINGs.
    """

    __slots__ = (
        "_interval_s",
        "_ping_max",
        "_pinged_s",
        "_pings_out",
        "_rtt_from_s",
        "came_s",
        "left_s",
        "rtt_s",
    )

    def __init__(self, now_s: float, interval_s: float, ping_max: int) -> None:
        self._interval_s = interval_s
        self._ping_max = ping_max
        self._pings_out = 0
        self._pinged_s = now_s
        self._rtt_from_s: float | None = None
        self.came_s = now_s
        """Time when bytes were last received. The owner sets it."""
        self.left_s = now_s
        """Time when bytes were last sent. The owner sets it."""
        self.rtt_s = 0.0
        """Time between the last PING and its PONG; before the first PONG the estimate of `answered`, or 0."""

    @property
    def due_s(self) -> float:
        """Time when the next PING is due.

        Traffic in either direction postpones it. Sent bytes postpone it by at most one interval, because they
        don't prove that the client is there: heartbeats into a dead connection would keep it open for ever.
        """
        proven = max(self.came_s, self._pinged_s)
        return min(max(proven, self.left_s) + self._interval_s, proven + 2 * self._interval_s)

    def skip(self, now_s: float) -> None:
        """Postpone a PING that is due but must not be sent now, by one interval."""
        self._pinged_s = now_s

    def ping(self, now_s: float) -> bool:
        """Count a PING that is due. Returns True to send it, False if too many are unanswered."""
        self._pinged_s = now_s
        if self._pings_out >= self._ping_max:
            return False
        self._pings_out += 1
        self._rtt_from_s = now_s
        return True

    def answered(self, now_s: float, asked_s: float) -> None:
        """Estimate the round trip time from INFO, sent at ``asked_s``, to CONNECT, until there is a PONG.

        Source: nats-server, which shows this in /connz.
        """
        if not self.rtt_s:
            self.rtt_s = max(now_s - asked_s, 1e-9)

    def pong(self, now_s: float) -> None:
        """Note that a PONG was received."""
        self._pings_out = 0
        if self._rtt_from_s is not None:
            self.rtt_s = now_s - self._rtt_from_s
            self._rtt_from_s = None
