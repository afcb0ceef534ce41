"""Answers leave behind the deliveries that were decided before them, on all connections of a node (R2).

A publish is acknowledged when the messages that its entry sends to clients of this node have been written to
their connections. So who publishes on one connection and reads on another, as the clients' own test suites
do, has nothing left to read when the last acknowledgement has come. Two things can delay a delivery:

- its connection's writer has not had its turn, or the connection has no room;
- the entry sends no more than its bound allows (R19), and the rest is decided by the entries behind it.

Both are waited for, and neither for long: a client that doesn't read must not hold up the publishers of
others. What had its time is *behind*, and isn't waited for again before it has caught up.

A plain object without I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.core.state import Group

WRITE_WAIT_S = 0.05
"""How long answers wait for one connection to be written."""

LATE_ROUNDS = 3
"""Rounds of the loop that connections and groups have beyond these times."""

LATE_S = 0.001
"""Between those rounds, at most."""

GROUP_WAIT_S = 0.25
"""How long answers wait for the rest of a burst of which nothing more is sent."""

GROUP_WAIT_MAX_S = 1.0
"""How long they wait while more of it is sent: each part takes an entry, and a slow disk holds up entries."""


class Connection(Protocol):
    """What is needed of a client's connection."""

    watched: bool
    """Tell `ReplyOrder.check` when something was written."""

    @property
    def closed(self) -> bool: ...
    @property
    def written(self) -> int: ...
    @property
    def outbox_bytes(self) -> int: ...


@dataclass(slots=True)
class _Waiting:
    """Answers, and what they wait for."""

    act: Callable[[], None]
    writes: dict[Connection, int]
    """How much is to be ``written`` of each."""
    full: list[Connection]
    """Connections whose deliveries wait for room."""
    groups: list[tuple[Group, int]]
    """Which cursor each is to reach."""
    since_s: float
    written_s: float
    """When ``writes`` or ``full`` were added to last."""
    moved_s: float
    """When one of ``groups`` was last seen to have been sent more."""
    cursors: int
    """The sum of their cursors then."""
    late_rounds: int = 0
    """Rounds of the loop since its time was over. A process that stood still has given no writer a turn."""


class ReplyOrder:
    """Answers that wait for deliveries, in order.

    Args:
        clock: monotonic seconds.
        sendable: groups that have something to send and could, by id (``State.sendable``).
        full_connections: connections whose deliveries wait for room.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        sendable: Callable[[], Mapping[int, Group]],
        full_connections: Container[Connection],
    ) -> None:
        self._clock = clock
        self._sendable = sendable
        self._full_connections = full_connections
        self._queue: deque[_Waiting] = deque()
        self._slow: dict[Connection, int] = {}  # and how much is to be written of it until it isn't any more
        self._behind: set[int] = set()
        self._awaited: set[int] = set()
        self._checking = False

    @property
    def waits(self) -> bool:
        """Whether any answers wait."""
        return bool(self._queue)

    def awaits(self, group: Group) -> bool:
        """Whether the rest of a burst to ``group`` is being waited for."""
        return group.id in self._awaited

    def after(
        self,
        act: Callable[[], None],
        *,
        writes: Iterable[tuple[Connection, int]],
        full: Sequence[Connection],
        groups: Sequence[tuple[Group, int]],
    ) -> None:
        """Call ``act`` behind what waits already, when all this has happened, or has had its time.

        Args:
            act: sends answers.
            writes: connections, and how much is to be written of each.
            full: connections whose deliveries wait for room since this entry.
            groups: groups of which this entry sent a part, and the sequence that each is to reach.
        """
        if self._behind or self._awaited:
            sendable = self._sendable().keys()
            self._behind &= sendable
            self._awaited &= sendable
        writes = list(writes)
        self._await_too(writes, full)
        now_s = self._clock()
        behind = [(group, seq) for group, seq in groups if group.id not in self._behind]
        waiting = _Waiting(
            act,
            {connection: end for connection, end in writes if self._is_quick(connection, end)},
            [connection for connection in full if connection not in self._slow],
            behind,
            since_s=now_s,
            written_s=now_s,
            moved_s=now_s,
            cursors=sum(group.cursor for group, _ in behind),
        )
        self._awaited.update(group.id for group, _ in waiting.groups)
        self._queue.append(waiting)
        self.check()

    def sent(self, writes: Iterable[tuple[Connection, int]], full: Sequence[Connection]) -> None:
        """An entry without answers has sent something, perhaps the rest of a burst that is waited for.

        Args:
            writes: connections, and how much is to be written of each.
            full: connections whose deliveries wait for capacity since this entry.
        """
        self._await_too(list(writes), full)
        self.check()

    def _await_too(self, writes: Collection[tuple[Connection, int]], full: Sequence[Connection]) -> None:
        """Answers that wait for the rest of a burst wait for what this entry has sent of it to be written.

        When a group's cursor reaches the end of the burst, its last messages are still in outboxes.
        """
        if not (writes or full):
            return
        for waiting in self._queue:
            if waiting.groups:
                waiting.writes.update(
                    (connection, end)
                    for connection, end in writes
                    if connection not in self._slow and not connection.closed
                )
                waiting.full += [one for one in full if one not in self._slow and one not in waiting.full]
                waiting.written_s = self._clock()

    def tick(self) -> None:
        """A round of the loop is over: `check`, and count it."""
        if self._queue and self._clock() >= self._due_s(self._queue[0]):
            self._queue[0].late_rounds += 1
        self.check()

    def check(self) -> None:
        """Send what need not wait any longer."""
        if self._checking:
            return  # an answer was written while they are sent
        self._checking = True
        try:
            now_s = self._clock()
            while self._queue and self._is_over(self._queue[0], now_s):
                self._queue.popleft().act()
        finally:
            self._checking = False

    def flush(self) -> None:
        """Send everything now: what it waits for will never be seen."""
        while self._queue:
            self._queue.popleft().act()

    def next_deadline(self) -> float | None:
        """When `tick` is to be called at the latest, on the clock."""
        if not self._queue:
            return None
        head = self._queue[0]
        return max(self._due_s(head), self._clock() + LATE_S) if head.late_rounds else self._due_s(head)

    def _due_s(self, head: _Waiting) -> float:
        if head.writes or head.full:
            return head.written_s + WRITE_WAIT_S
        return min(head.moved_s + GROUP_WAIT_S, head.since_s + GROUP_WAIT_MAX_S)

    def forget(self, connection: Connection) -> None:
        """``connection`` has ended."""
        self._slow.pop(connection, None)
        self.check()

    def _is_quick(self, connection: Connection, end: int) -> bool:
        """Whether a connection that more is written to is worth waiting for."""
        caught_up = self._slow.get(connection)
        if caught_up is None:
            return True
        if connection.written >= caught_up and connection not in self._full_connections:
            del self._slow[connection]
            return True
        self._slow[connection] = end
        return False

    def _is_over(self, head: _Waiting, now_s: float) -> bool:
        if head.writes or head.full:
            for connection in [one for one, end in head.writes.items() if one.closed or one.written >= end]:
                del head.writes[connection]
            head.full = [one for one in head.full if one in self._full_connections and not one.closed]
            is_late = now_s >= head.written_s + WRITE_WAIT_S and head.late_rounds >= LATE_ROUNDS
            if (head.writes or head.full) and is_late:
                head.late_rounds = 0
                self._slow.update(head.writes)
                self._slow.update({one: one.written + one.outbox_bytes for one in head.full})
                head.writes, head.full = {}, []
            for connection in head.writes:
                connection.watched = True
        if head.groups:
            sendable = self._sendable()
            head.groups = [
                (group, seq) for group, seq in head.groups if group.id in sendable and group.cursor < seq
            ]
            cursors = sum(group.cursor for group, _ in head.groups)
            if cursors != head.cursors:
                head.cursors, head.moved_s, head.late_rounds = cursors, now_s, 0
            due_s = min(head.moved_s + GROUP_WAIT_S, head.since_s + GROUP_WAIT_MAX_S)
            if head.groups and now_s >= due_s and head.late_rounds >= LATE_ROUNDS:
                late = {group.id for group, _ in head.groups}
                self._behind |= late
                self._awaited -= late
                head.groups = []
        return not (head.writes or head.full or head.groups)
