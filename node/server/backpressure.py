"""Backpressure on clients: when connections are not read from, and which ones are stuck.

An origin never abandons a request that has a serial. So when its table of requests is full, it stops reading
from its clients, and resumes them one at a time when the table has capacity again (R8, R21). A connection
that publishes more to clients of another node than the link to that node takes is not read from either, until
the link has taken it. A connection whose deliveries have not moved for a while counts as not listening until
they move again (R3).

A plain object without I/O; ``now_s`` is the driver's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

LINK_S = 0.01
"""Interval in seconds at which links are polled while a connection waits for one."""


class Reader(Protocol):
    """A connection whose reading can be paused."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Origin(Protocol):
    """The part of the origin used here: how many requests are pending."""

    @property
    def full(self) -> bool: ...
    @property
    def relaxed(self) -> bool: ...


class Backpressure:
    """The connections that are paused, and those that are stuck.

    Args:
        origin: reports whether too many requests are pending.
        stuck: returns the connections whose deliveries have not moved for too long at the given time.
        set_stuck: announces to the cluster that a connection isn't listening (True) or is listening again.
        kick: requests another ``pump`` soon.
        is_held_up: returns True while messages that a connection has published wait for a link to another
            node.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        stuck: Callable[[float], Collection[Any]],
        set_stuck: Callable[[Any, bool], None],
        kick: Callable[[], None],
        is_held_up: Callable[[Any], bool] = lambda _connection: False,
    ) -> None:
        self._origin = origin
        self._find_stuck = stuck
        self._notify_stuck = set_stuck
        self._kick = kick
        self._is_held_up = is_held_up
        self._paused: deque[Reader] = deque()
        self._held_up: dict[Reader, None] = {}
        """Connections paused because a link to another node is full or still sends one of their messages."""
        self._stuck: dict[Any, None] = {}

    def read_done(self, connection: Reader) -> None:
        """Pause ``connection`` if needed, now that everything it has read is under way."""
        if self._is_held_up(connection):
            connection.pause_reading()
            self._held_up[connection] = None
        elif self._origin.full:
            connection.pause_reading()
            self._paused.append(connection)

    @property
    def next_s(self) -> float:
        """Seconds until ``go_on`` must be called; links don't report that they have capacity again."""
        return LINK_S if self._held_up else float("inf")

    def closed(self, connection: Any) -> None:
        """Forget a connection that has ended."""
        self._stuck.pop(connection, None)
        self._held_up.pop(connection, None)
        if connection in self._paused:
            self._paused.remove(connection)

    def pump(self, now_s: float) -> None:
        """Announce connections that have become stuck, and those that are no longer stuck."""
        stuck = self._find_stuck(now_s)
        for connection in stuck:
            if connection not in self._stuck:
                self._notify_stuck(connection, True)
        for connection in self._stuck:
            if connection not in stuck:
                self._notify_stuck(connection, False)
        self._stuck = dict.fromkeys(stuck)

    def go_on(self) -> None:
        """Resume one connection if there is capacity. The next one follows when this one has read."""
        if self._paused and self._origin.relaxed:
            self._paused.popleft().resume_reading()
            if self._paused:
                self._kick()
        for connection in self._held_up:
            if not self._is_held_up(connection):
                del self._held_up[connection]
                if self._origin.full:
                    self._paused.append(connection)
                else:
                    connection.resume_reading()
                    self._kick()
                break
