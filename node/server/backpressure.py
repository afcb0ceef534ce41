"""How fast clients go: who is not read from while too much waits, and who doesn't take what is sent.

An origin never abandons a request it has given a serial, so when its table is full it stops reading from
its clients, and goes on by turns when there is room again (R8, R21). Whoever publishes more to clients of
another node than the link there takes is not read from either, until it does. A connection whose deliveries
have not moved for a while counts as not listening, until they do (R3).

A plain object without I/O; ``now_s`` is the driver's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

LINK_S = 0.01
"""How often links are looked at that somebody waits for."""


class Reader(Protocol):
    """A connection that can be told to stop reading."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Origin(Protocol):
    """What is needed of the origin: how much waits."""

    @property
    def full(self) -> bool: ...
    @property
    def relaxed(self) -> bool: ...


class Backpressure:
    """The connections that are held up, and those that hold up.

    Args:
        origin: says when too much waits.
        stuck: the connections whose deliveries have not moved for too long, at a time.
        set_stuck: tells the cluster that a connection isn't listening, or is again.
        kick: asks for another ``pump`` soon.
        is_held_up: whether what a connection has published waits for another node.
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
        """Not read from: a link to another node is crowded, or a message of theirs is still being sent."""
        self._stuck: dict[Any, None] = {}

    def read_done(self, connection: Reader) -> None:
        """What a connection had brought is under way: may it go on?"""
        if self._is_held_up(connection):
            connection.pause_reading()
            self._held_up[connection] = None
        elif self._origin.full:
            connection.pause_reading()
            self._paused.append(connection)

    @property
    def next_s(self) -> float:
        """In how many seconds to call ``go_on`` although nothing happens: nobody tells that a link has
        room.
        """
        return LINK_S if self._held_up else float("inf")

    def closed(self, connection: Any) -> None:
        """A connection has ended."""
        self._stuck.pop(connection, None)
        self._held_up.pop(connection, None)
        if connection in self._paused:
            self._paused.remove(connection)

    def pump(self, now_s: float) -> None:
        """Look who doesn't listen, or does again."""
        stuck = self._find_stuck(now_s)
        for connection in stuck:
            if connection not in self._stuck:
                self._notify_stuck(connection, True)
        for connection in self._stuck:
            if connection not in stuck:
                self._notify_stuck(connection, False)
        self._stuck = dict.fromkeys(stuck)

    def go_on(self) -> None:
        """Let one connection read again if there is room; the next one after this one has had its read."""
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
