"""Sends answers after the deliveries that were decided before them, on all connections of a node (R2).

A publish is acknowledged when the messages that its entry sends to clients of this node have been written to
their connections. So a client that publishes on one connection and reads on another, as the clients' own test
suites do, has received everything when the last acknowledgement arrives. Two things can delay a delivery:

- the writer of its connection has not run yet, or the connection has no capacity;
- an entry sends only as many messages as its limit allows (R19); the entries behind it send the rest.

Answers wait for both, but not long: a client that doesn't read must not hold up the publishers of others. A
connection or group that takes longer is *behind*; answers wait for it again only after it has caught up.

A plain object without I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.core.state import Group

WRITE_WAIT_S = 0.05
"""How long answers wait for the deliveries to one connection."""

LATE_ROUNDS = 3
"""Rounds of the event loop that connections and groups get after these times."""

LATE_S = 0.001
"""Maximum time between those rounds."""

GROUP_WAIT_S = 0.25
"""How long answers wait for the rest of a burst while nothing of it is sent."""

GROUP_WAIT_MAX_S = 1.0
"""How long they wait while more of it is sent: each part takes an entry, and a slow disk delays entries."""


class Connection(Protocol):
    """The part of a client's connection that is needed here."""

    watched: bool
    """If set, the connection calls `ReplyOrder.check` when bytes were written."""

    @property
    def closed(self) -> bool: ...
    @property
    def written(self) -> int: ...
    @property
    def outbox_bytes(self) -> int: ...


@dataclass(slots=True)
class _Waiting:
    """Answers, and the deliveries that they wait for."""

    act: Callable[[], None]
    writes: dict[Connection, int]
    """By connection: the value that ``written`` has to reach."""
    full: list[Connection]
    """Connections whose deliveries wait for capacity."""
    groups: list[tuple[Group, int]]
    """Groups, and the cursor that each has to reach."""
    since_s: float
    written_s: float
    """When a connection was last added to ``writes`` or ``full``."""
    moved_s: float
    """When the cursor of one of ``groups`` was last seen to move."""
    cursors: int
    """The sum of their cursors then."""
    late_rounds: int = 0
    """Rounds of the loop since the time was over. In a process that was suspended no writer has run."""


class ReplyOrder:
    """Answers that wait for deliveries, in order.

    Args:
        clock: monotonic seconds.
        sendable: groups that have messages to send and capacity for them, by ID (``State.sendable``).
        full_connections: connections whose deliveries wait for capacity.
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
        self._slow: dict[Connection, int] = {}  # until ``written`` reaches the value
        self._behind: set[int] = set()
        self._awaited: set[int] = set()
        self._sent: dict[Connection, int] = {}  # since answers wait: the value ``written`` has to reach
        self._sent_full: dict[Connection, None] = {}
        self._checking = False

    @property
    def waits(self) -> bool:
        """Whether any answers wait."""
        return bool(self._queue)

    def awaits(self, group: Group) -> bool:
        """Return True if answers wait for the rest of a burst to ``group``."""
        return group.id in self._awaited

    def after(
        self,
        act: Callable[[], None],
        *,
        writes: Iterable[tuple[Connection, int]],
        full: Sequence[Connection],
        groups: Sequence[tuple[Group, int]],
    ) -> None:
        """Call ``act`` after earlier answers, when all these deliveries are written or their time is over.

        Args:
            act: sends answers.
            writes: connections, and the value that ``written`` has to reach for each.
            full: connections whose deliveries wait for capacity since this entry.
            groups: groups of which this entry sent a part, and the sequence that each has to reach.
        """
        if self._behind or self._awaited:
            sendable = self._sendable().keys()
            self._behind &= sendable
            self._awaited &= sendable
        writes = list(writes)
        self._note_sent(writes, full)
        now_s = self._clock()
        on_time = [(group, seq) for group, seq in groups if group.id not in self._behind]
        waiting = _Waiting(
            act,
            {connection: end for connection, end in writes if self._is_quick(connection, end)},
            [connection for connection in full if connection not in self._slow],
            on_time,
            since_s=now_s,
            written_s=now_s,
            moved_s=now_s,
            cursors=sum(group.cursor for group, _ in on_time),
        )
        self._awaited.update(group.id for group, _ in waiting.groups)
        self._queue.append(waiting)
        self.check()

    def sent(self, writes: Iterable[tuple[Connection, int]], full: Sequence[Connection]) -> None:
        """Note that an entry without answers sent messages, perhaps the rest of a burst.

        Args:
            writes: connections, and the value that ``written`` has to reach for each.
            full: connections whose deliveries wait for capacity since this entry.
        """
        self._note_sent(writes, full)
        self.check()

    def _note_sent(self, writes: Iterable[tuple[Connection, int]], full: Iterable[Connection]) -> None:
        if self._queue:
            self._sent.update(writes)
            self._sent_full.update(dict.fromkeys(full))

    def _await_rest(self, head: _Waiting, now_s: float) -> None:
        """Make ``head``, whose groups have reached the end of their burst, wait until all of it is written.

        Entries without answers sent the rest of the burst, and its last messages are still in outboxes.
        """
        self._sent = {
            connection: end
            for connection, end in self._sent.items()
            if not connection.closed and connection.written < end
        }
        self._sent_full = dict.fromkeys(one for one in self._sent_full if one in self._full_connections)
        head.writes.update(
            (connection, end) for connection, end in self._sent.items() if connection not in self._slow
        )
        head.full += [one for one in self._sent_full if one not in self._slow and one not in head.full]
        head.written_s = now_s

    def tick(self) -> None:
        """Count a round of the loop, and `check`."""
        if self._queue and self._clock() >= self._due_s(self._queue[0]):
            self._queue[0].late_rounds += 1
        self.check()

    def check(self) -> None:
        """Send the answers that need not wait any longer."""
        if self._checking:
            return  # called because an answer was written, by the loop below
        self._checking = True
        try:
            now_s = self._clock()
            while self._queue and self._is_over(self._queue[0], now_s):
                self._queue.popleft().act()
            if not self._queue:
                self._sent, self._sent_full = {}, {}
        finally:
            self._checking = False

    def flush(self) -> None:
        """Send all answers now: the deliveries that they wait for will not happen."""
        while self._queue:
            self._queue.popleft().act()

    def next_deadline(self) -> float | None:
        """Return when to call `tick` at the latest, on the clock; None if no answers wait."""
        if not self._queue:
            return None
        head = self._queue[0]
        return max(self._due_s(head), self._clock() + LATE_S) if head.late_rounds else self._due_s(head)

    def _due_s(self, head: _Waiting) -> float:
        if head.writes or head.full:
            return head.written_s + WRITE_WAIT_S
        return min(head.moved_s + GROUP_WAIT_S, head.since_s + GROUP_WAIT_MAX_S)

    def forget(self, connection: Connection) -> None:
        """Stop waiting for ``connection``: it has ended."""
        self._slow.pop(connection, None)
        self._sent.pop(connection, None)
        self._sent_full.pop(connection, None)
        self.check()

    def _is_quick(self, connection: Connection, end: int) -> bool:
        """Return False if a connection is behind. If it is, it has to reach ``end`` to catch up."""
        caught_up = self._slow.get(connection)
        if caught_up is None:
            return True
        if connection.written >= caught_up and connection not in self._full_connections:
            del self._slow[connection]
            return True
        self._slow[connection] = end
        return False

    def _is_over(self, head: _Waiting, now_s: float) -> bool:
        if head.groups:
            self._look_at_groups(head, now_s)
        if head.writes or head.full:
            self._look_at_writes(head, now_s)
        return not (head.writes or head.full or head.groups)

    def _look_at_groups(self, head: _Waiting, now_s: float) -> None:
        sendable = self._sendable()
        head.groups = [
            (group, seq) for group, seq in head.groups if group.id in sendable and group.cursor < seq
        ]
        if not head.groups:
            self._await_rest(head, now_s)
            return
        cursors = sum(group.cursor for group, _ in head.groups)
        if cursors != head.cursors:
            head.cursors, head.moved_s, head.late_rounds = cursors, now_s, 0
        due_s = min(head.moved_s + GROUP_WAIT_S, head.since_s + GROUP_WAIT_MAX_S)
        if now_s >= due_s and head.late_rounds >= LATE_ROUNDS:
            late = {group.id for group, _ in head.groups}
            self._behind |= late
            self._awaited -= late
            head.groups = []

    def _look_at_writes(self, head: _Waiting, now_s: float) -> None:
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
