"""How far each node has written its deliveries to its clients' sockets (rules R10, R15).

A delivery is decided in the log and written by the node its client is connected to. If that node dies, or
the connection ends, in between, only that node knew how far it had come. So every node tells every other, as
it proceeds and not more often than ``REPORT_EVERY_S``: up to which entry everything was written. Then the
leader can say in the log what may not have been (``leader_duties``).

A report is one small frame::

    ["written", first_epoch, index, [[epoch, index], …], [[epoch, index], …]]

``first_epoch`` tells the processes of a node apart: epochs of connections grow from it. ``index`` holds for
all connections of that process but those listed: in the first list those that lag, in the second those that
have ended lately. What is *dropped for a cause* counts as written: acknowledged before, sent again since by
another entry, let go by a limit, or its inbox has no subscriber on the node.

Bytes count as written when the kernel has taken them. Those of a foreign node or an external NATS server
count when they are handed over, for what becomes of them there can't be seen.

Plain objects without I/O.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from node.core.commands import ANY_EPOCH, NOTHING_UNWRITTEN
from node.errors import RemoteProtocolError
from node.protocol.peer import shown
from node.server.presence import Where

REPORT_EVERY_S = 0.02
"""Between two reports of a node that delivers. What was written since the last one counts as unwritten when
the node dies: it comes again, flagged, unless it was acknowledged."""

IDLE_REPORT_EVERY_S = 0.5
"""Between two reports of a node that applies entries and has nothing to deliver."""

FORMER_EPOCH = -1
"""As the epoch of a connection: some connection of the node's process before the present one."""

LISTED_MAX = 64
"""Connections in each list of a report. If more lag, ``index`` is lower, and holds for the rest of them."""

ENDED_S = 10.0
"""How long a connection that has ended is listed: longer than its clients' move is remembered
(`presence.MOVED_MAX_NS`)."""

ENDED_MAX = 1024
"""Ended connections that are remembered at a time."""

MARKS_MAX = 128
"""Entries that are told apart in what waits in one connection's outbox; more go together."""


class Connection(Protocol):
    """What is needed of a client's connection."""

    @property
    def epoch(self) -> int: ...
    @property
    def written(self) -> int:
        """Bytes that the kernel has taken from it, ever."""

    @property
    def outbox_bytes(self) -> int:
        """Bytes that wait to be written."""


class _Ended(NamedTuple):
    """A connection that has ended."""

    written: int
    """The entry up to which all was written."""
    has_lost: bool
    """Something was not."""
    until_s: float
    """When it is listed no more."""


class DeliveryProgress:
    """How far this node has come, connection by connection.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: dict[Connection, deque[tuple[int, int]]] = {}
        """Of connections with deliveries in their outbox: (entry, ``written`` that finishes it), in order."""
        self._ended: OrderedDict[int, _Ended] = OrderedDict()
        """By epoch; the oldest first."""
        self.handed_over = False
        """Deliveries went into an outbox, or a connection ended, since the last `take`."""

    @property
    def is_busy(self) -> bool:
        """Return True if a report now would say more than the last about what was delivered here."""
        return self.handed_over or bool(self._marks)

    def handed(self, connection: Connection, entry: int) -> None:
        """Note that deliveries decided by ``entry`` were put into the outbox of ``connection``."""
        self.handed_over = True
        end = connection.written + connection.outbox_bytes
        marks = self._marks.get(connection)
        if marks is None:
            self._marks[connection] = deque([(entry, end)])
            return
        if len(marks) >= MARKS_MAX:
            entry = min(entry, marks[-1][0])
        while marks and marks[-1][0] >= entry:  # finished together, no sooner
            marks.pop()
        marks.append((entry, end))

    def ended(self, connection: Connection, waits: int | None, applied: int) -> None:
        """Note that ``connection`` has ended. Of one that is drained first this is told twice.

        Args:
            connection: of this node.
            waits: the first entry of which something was still waiting for room in its outbox.
            applied: the last entry that was performed on this node.
        """
        first = self._first(connection, waits)
        self._marks.pop(connection, None)
        index = applied if first is None else min(first - 1, applied)
        drained = self._ended.pop(connection.epoch, None)
        if drained is not None:  # our half has ended before: nothing was written since
            index = min(index, drained.written)
        self.handed_over = True
        self._ended[connection.epoch] = _Ended(index, first is not None, self._clock() + ENDED_S)
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    def take(self, applied: int, waiting: Iterable[tuple[Connection, int]]) -> tuple[Any, ...]:
        """Return a report without its kind and first epoch; see the module.

        Args:
            applied: the last entry that was performed on this node.
            waiting: connections without room, with the first entry of which something waits.
        """
        self.handed_over = False
        waits = dict(waiting)
        lag: list[tuple[int, int]] = []
        for connection in {**self._marks, **waits}:
            first = self._first(connection, waits.get(connection))
            if first is None:
                del self._marks[connection]
            else:
                lag.append((first - 1, connection.epoch))
        lag.sort()
        index = applied
        if len(lag) > LISTED_MAX:
            index = min(applied, lag[LISTED_MAX][0])
            del lag[LISTED_MAX:]
        return (
            index,
            [[epoch, min(written, applied)] for written, epoch in lag],
            [[epoch, written] for epoch, written in self._lately_ended(index)],
        )

    def _first(self, connection: Connection, waits: int | None) -> int | None:
        """Return the first entry of which something is not written; None if everything is."""
        marks = self._marks.get(connection)
        if marks is not None:
            written = connection.written
            while marks and marks[0][1] <= written:
                marks.popleft()
            if marks:
                return marks[0][0] if waits is None else min(marks[0][0], waits)
        return waits

    def _lately_ended(self, index: int) -> list[tuple[int, int]]:
        """Return at most ``LISTED_MAX`` of them: those that have lost something first, then the newest."""
        now = self._clock()
        while self._ended and next(iter(self._ended.values())).until_s <= now:
            self._ended.popitem(last=False)
        found = [(epoch, ended) for epoch, ended in reversed(self._ended.items()) if ended.written < index]
        if len(found) > LISTED_MAX:
            found.sort(key=lambda each: not each[1].has_lost)
        return [(epoch, ended.written) for epoch, ended in found[:LISTED_MAX]]


@dataclass(slots=True)
class _Report:
    first_epoch: int
    index: int = 0
    lagging: dict[int, int] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)

    def written(self, epoch: int) -> int:
        if epoch in {ANY_EPOCH, FORMER_EPOCH}:
            return min((self.index, *self.lagging.values(), *self.ended.values()))
        found = self.ended.get(epoch)
        return self.lagging.get(epoch, self.index) if found is None else found


class ProgressReports:
    """What every node last said, its process before the present one included."""

    def __init__(self) -> None:
        self._latest: dict[str, _Report] = {}
        self._former: dict[str, _Report] = {}

    def received(self, node: str, report: Sequence[Any]) -> None:
        """Take in a report of ``node``: what follows the kind of its frame.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        match report:
            case [int(first), int(index), [*lagging], [*ended]] if (
                first >= 0 and index >= 0 and max(len(lagging), len(ended)) <= LISTED_MAX
            ):
                taken = _Report(first, index, _pairs(node, lagging), _pairs(node, ended))
            case _:
                raise RemoteProtocolError(f"{node}: not a report of deliveries: {shown(report)}")
        before = self._latest.get(node)
        if before is not None and before.first_epoch != first:
            self._former[node] = before
        self._latest[node] = taken

    def written(self, where: Where | None) -> int:
        """Return the entry up to which deliveries to a connection were written, as far as is known.

        0 if its node has told nothing of it: then all may be lost. ``NOTHING_UNWRITTEN`` for no connection.
        """
        if where is None:
            return NOTHING_UNWRITTEN
        report = self._report(where)
        return 0 if report is None else report.written(where[1])

    def has_ended(self, where: Where) -> bool:
        """Return True if the node of that connection has said that it ended, or is another process now."""
        latest = self._latest.get(where[0])
        return latest is not None and (where[1] in latest.ended or where[1] < latest.first_epoch)

    def forget(self, nodes: Iterable[str]) -> None:
        """Forget what nodes said that are not members any more; ``nodes`` are the members."""
        for table in (self._latest, self._former):
            for node in table.keys() - {*nodes}:
                del table[node]

    def _report(self, where: Where) -> _Report | None:
        node, epoch = where
        latest = self._latest.get(node)
        if latest is None or epoch >= latest.first_epoch:
            return latest
        former = self._former.get(node)
        if epoch == FORMER_EPOCH:
            return former
        if epoch == ANY_EPOCH:
            return former or latest
        return former if former is not None and epoch >= former.first_epoch else None


def _pairs(node: str, listed: list[Any]) -> dict[int, int]:
    pairs: dict[int, int] = {}
    for pair in listed:
        match pair:
            case [int(epoch), int(index)] if index >= 0:
                pairs[epoch] = index
            case _:
                raise RemoteProtocolError(f"{node}: not how far a connection was served: {shown(pair)}")
    return pairs
