"""Whether the other end of a connection is still there: when to send a PING, and when to give up.

A plain object without I/O; times are seconds of any clock that only goes forward.

Source: the NATS client protocol, "Liveness and slow consumers".
"""

from __future__ import annotations


class Liveness:
    """PINGs of one connection.

    Args:
        now_s: when it began.
        interval_s: a PING is due after so long a silence.
        ping_max: PINGs that may be unanswered.
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
        """When bytes last came. The owner sets it."""
        self.left_s = now_s
        """When bytes last left. The owner sets it."""
        self.rtt_s = 0.0
        """Between the last PING and its PONG; before the first, as `answered` estimates it, or 0."""

    @property
    def due_s(self) -> float:
        """When the next PING is due.

        Traffic in either direction puts it off; but what only leaves proves nothing, or heartbeats
        into a dead connection would keep it for ever: it does so no longer than one interval.
        """
        proven = max(self.came_s, self._pinged_s)
        return min(max(proven, self.left_s) + self._interval_s, proven + 2 * self._interval_s)

    def skip(self, now_s: float) -> None:
        """A PING was due that may not be sent: try again after another interval."""
        self._pinged_s = now_s

    def ping(self, now_s: float) -> bool:
        """A PING is due: send it. False: too many were not answered, nobody is there."""
        self._pinged_s = now_s
        if self._pings_out >= self._ping_max:
            return False
        self._pings_out += 1
        self._rtt_from_s = now_s
        return True

    def answered(self, now_s: float, asked_s: float) -> None:
        """INFO went out at ``asked_s``, and CONNECT answers it: an estimate until there is a PONG.

        Source: nats-server, which shows this in /connz.
        """
        if not self.rtt_s:
            self.rtt_s = max(now_s - asked_s, 1e-9)

    def pong(self, now_s: float) -> None:
        """A PONG came."""
        self._pings_out = 0
        if self._rtt_from_s is not None:
            self.rtt_s = now_s - self._rtt_from_s
            self._rtt_from_s = None
