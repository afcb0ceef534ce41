"""How far each node has written its deliveries to its clients' sockets (rules R10, R15).

A delivery is decided in the log and written by the node that its client is connected to. If that node dies or
the connection ends in between, only that node knew how far it had written. So while every node writes
deliveries, it reports to all others up to which entry everything was written, at most once in
``REPORT_EVERY_S``. From these reports the leader finds deliveries that may not have been written, and records
this in the log (``leader_duties``).

A report is one small frame::

    ["written", first_epoch, index, [[epoch, index], …], [[epoch, index], …]]

``first_epoch`` distinguishes the processes of a node: the epochs of its connections start there. ``index``
applies to all connections of that process except the listed ones. The first list contains connections that
lag, the second those that have ended recently. A delivery also counts as written if it was *dropped for a
cause*: it was acknowledged earlier, or redelivered since by another entry, or dropped by a limit, or its
inbox has no subscriber on the node.

Bytes count as written when the kernel has taken them. Bytes for a node of another cluster or an external NATS
server count when they are handed over, because this node can't see whether that node or server writes them.

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
"""Interval of the reports of a node that delivers. If the node dies, deliveries written since the last report
count as unwritten: they are redelivered, flagged, unless they were acknowledged."""

IDLE_REPORT_EVERY_S = 0.5
"""Interval of the reports of a node that applies entries and has nothing to deliver."""

FORMER_EPOCH = -1
"""Used as a connection's epoch: any connection of the node's previous process."""

LISTED_MAX = 64
"""Maximum connections in each list of a report. If more lag, ``index`` is lowered to cover the others."""

ENDED_S = 10.0
"""Time for which an ended connection is listed: longer than the leader remembers that a client has moved
(`presence.MOVED_MAX_NS`)."""

ENDED_MAX = 1024
"""Maximum number of ended connections that are remembered."""

MARKS_MAX = 128
"""Maximum number of entries tracked separately in one connection's outbox; further ones are merged."""


class Connection(Protocol):
    """The part of a client connection used here."""

    @property
    def epoch(self) -> int: ...
    @property
    def written(self) -> int:
        """Total bytes that the kernel has taken from this connection."""

    @property
    def outbox_bytes(self) -> int:
        """Bytes waiting to be written."""


class _Ended(NamedTuple):
    """A connection that has ended."""

    written: int
    """The entry up to which all deliveries were written."""
    has_lost: bool
    """Some deliveries were not written."""
    until_s: float
    """Time until which the connection is listed."""


class DeliveryProgress:
    """How far this node has written its deliveries, by connection.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: dict[Connection, deque[tuple[int, int]]] = {}
        """For connections with deliveries in their outbox: pairs (entry, value of ``written`` at which all of
        the entry's deliveries are written), in order."""
        self._ended: OrderedDict[int, _Ended] = OrderedDict()
        """Ended connections by epoch, oldest first."""
        self.handed_over = False
        """True if deliveries were put into an outbox, or a connection ended, since the last `take`."""

    @property
    def is_busy(self) -> bool:
        """True if a report now would differ from the last one about deliveries here."""
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
        while marks and marks[-1][0] >= entry:  # those entries are finished together with this one
            marks.pop()
        marks.append((entry, end))

    def ended(self, connection: Connection, waits: int | None, applied: int) -> None:
        """Note that ``connection`` has ended. This is called twice for a connection that was drained.

        Args:
            connection: a connection of this node.
            waits: the first entry with a delivery that was still waiting for capacity in its outbox; None
                if none was.
            applied: the last entry whose effects were executed on this node.
        """
        first = self._first(connection, waits)
        self._marks.pop(connection, None)
        index = applied if first is None else min(first - 1, applied)
        drained = self._ended.pop(connection.epoch, None)
        if drained is not None:  # our half of the stream ended earlier: nothing was written since
            index = min(index, drained.written)
        self.handed_over = True
        self._ended[connection.epoch] = _Ended(index, first is not None, self._clock() + ENDED_S)
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    def take(self, applied: int, waiting: Iterable[tuple[Connection, int]]) -> tuple[Any, ...]:
        """Return a report without its kind and first epoch; see the module.

        Args:
            applied: the last entry whose effects were executed on this node.
            waiting: connections whose outbox is full, each with the first entry that has a waiting delivery.
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
        """Return the first entry with an unwritten delivery; None if all are written."""
        marks = self._marks.get(connection)
        if marks is not None:
            written = connection.written
            while marks and marks[0][1] <= written:
                marks.popleft()
            if marks:
                return marks[0][0] if waits is None else min(marks[0][0], waits)
        return waits

    def _lately_ended(self, index: int) -> list[tuple[int, int]]:
        """Return at most ``LISTED_MAX`` ended connections behind ``index``.

        Connections with unwritten deliveries come first, then the newest.
        """
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
    """The last report of each node, and the last report of its previous process."""

    def __init__(self) -> None:
        self._latest: dict[str, _Report] = {}
        self._former: dict[str, _Report] = {}

    def received(self, node: str, report: Sequence[Any]) -> None:
        """Store a report of ``node``, given as the values behind the kind of its frame.

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
        """Return the entry up to which deliveries to a connection were written, according to the reports.

        Returns 0 if its node has reported nothing about it: then all may be lost. Returns
        ``NOTHING_UNWRITTEN`` if there is no connection.
        """
        if where is None:
            return NOTHING_UNWRITTEN
        report = self._report(where)
        return 0 if report is None else report.written(where[1])

    def has_ended(self, where: Where) -> bool:
        """Return True if the connection's node has reported that it ended, or has been restarted since."""
        latest = self._latest.get(where[0])
        return latest is not None and (where[1] in latest.ended or where[1] < latest.first_epoch)

    def forget(self, nodes: Iterable[str]) -> None:
        """Forget the reports of all nodes except ``nodes``, the members."""
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
