"""How far deliveries were written, by connection, and the reports about it (R10, R15)."""

from __future__ import annotations

from typing import Any

import pytest

from node.core.commands import ANY_EPOCH, NOTHING_UNWRITTEN
from node.errors import RemoteProtocolError
from node.server.delivery_progress import (
    ENDED_MAX,
    ENDED_S,
    FORMER_EPOCH,
    LISTED_MAX,
    MARKS_MAX,
    DeliveryProgress,
    ProgressReports,
)


class Connection:
    """A connection whose outbox is written when the test calls `write`."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.written = self.outbox_bytes = 0

    def put(self, size: int) -> None:
        self.outbox_bytes += size

    def write(self, size: int) -> None:
        self.outbox_bytes -= size
        self.written += size


class Node:
    def __init__(self) -> None:
        self.now = 100.0
        self.progress = DeliveryProgress(lambda: self.now)

    def deliver(self, connection: Connection, entry: int, size: int = 10) -> None:
        connection.put(size)
        self.progress.handed(connection, entry)

    def take(self, applied: int, *waiting: tuple[Any, int]) -> tuple[Any, ...]:
        return self.progress.take(applied, waiting)


def test_without_deliveries_everything_is_written() -> None:
    assert Node().take(7) == (7, [], [])


def test_deliveries_in_the_outbox_are_not_written() -> None:
    node, first, second = Node(), Connection(1), Connection(2)
    node.deliver(first, 5)
    node.deliver(second, 6)
    first.write(10)
    assert node.take(8) == (8, [[2, 5]], [])
    second.write(9)
    assert node.take(8) == (8, [[2, 5]], []), "all but one byte"
    second.write(1)
    assert node.take(9) == (9, [], [])


def test_deliveries_waiting_for_capacity_are_not_written() -> None:
    """R3: deliveries stay numbers until the connection has capacity."""
    node, connection = Node(), Connection(1)
    assert node.take(9, (connection, 4)) == (9, [[1, 3]], [])
    node.deliver(connection, 3)
    assert node.take(9, (connection, 4)) == (9, [[1, 2]], [])


def test_other_bytes_in_the_outbox_do_not_count() -> None:
    node, connection = Node(), Connection(1)
    node.deliver(connection, 5)
    connection.put(100)  # a reply
    connection.write(10)
    assert node.take(8) == (8, [], [])


def test_an_entry_is_written_when_all_its_deliveries_are() -> None:
    node, connection = Node(), Connection(1)
    node.deliver(connection, 5)
    node.deliver(connection, 5)
    connection.write(10)
    assert node.take(8) == (8, [[1, 4]], [])


def test_after_a_snapshot_entries_may_be_out_of_order() -> None:
    """Only the entries of each subscription are in order; the lowest unwritten entry counts."""
    node, connection = Node(), Connection(1)
    for entry in (5, 9, 6):
        node.deliver(connection, entry)
    connection.write(10)
    assert node.take(9) == (9, [[1, 5]], [])
    connection.write(10)
    assert node.take(9) == (9, [[1, 5]], [])
    connection.write(10)
    assert node.take(9) == (9, [], [])


def test_a_drained_connection_ends_once() -> None:
    """A planned stop ends our half first, then the connection. Entries applied in between are not written."""
    node, connection = Node(), Connection(1)
    node.progress.ended(connection, None, 5)
    node.progress.ended(connection, None, 6)
    assert node.take(6) == (6, [], [[1, 5]])


def test_marks_are_bounded() -> None:
    """If many entries wait in an outbox, the last ones are merged, and none counts as written too early."""
    node, connection = Node(), Connection(1)
    for entry in range(1, 3 * MARKS_MAX + 1):
        node.deliver(connection, entry)
    (marks,) = node.progress._marks.values()
    assert len(marks) == MARKS_MAX
    for entry in range(1, 3 * MARKS_MAX + 1):
        assert node.take(1000)[1] == [[1, min(entry, MARKS_MAX) - 1]]
        connection.write(10)
    assert node.take(1000) == (1000, [], [])


def test_an_ended_connection_is_reported_with_its_last_written_entry() -> None:
    node, served, not_served, waited = Node(), Connection(1), Connection(2), Connection(3)
    node.deliver(served, 5)
    served.write(10)
    node.deliver(not_served, 6)
    node.progress.ended(served, None, 7)
    node.progress.ended(not_served, None, 7)
    node.progress.ended(waited, 4, 7)
    assert node.take(9) == (9, [], [[3, 3], [2, 5], [1, 7]])
    node.now += ENDED_S
    assert node.take(9) == (9, [], [])


def test_lists_are_bounded_without_counting_unwritten_deliveries() -> None:
    node = Node()
    connections = [Connection(number) for number in range(1, 2 * LISTED_MAX + 1)]
    for connection in connections:
        node.deliver(connection, 10 + connection.epoch)
    index, lagging, ended = node.take(1000)
    assert [epoch for epoch, _ in lagging] == list(range(1, LISTED_MAX + 1))
    assert index == 10 + LISTED_MAX
    assert ended == []


def test_ended_connections_are_bounded_and_lossy_ones_come_first() -> None:
    node, lost = Node(), Connection(1)
    node.deliver(lost, 5)
    node.progress.ended(lost, None, 9)
    for epoch in range(2, ENDED_MAX + 1):
        node.progress.ended(Connection(epoch), None, 9)
    _, _, ended = node.take(1000)
    assert len(ended) == LISTED_MAX
    assert ended[0] == [1, 4]
    assert ended[1] == [ENDED_MAX, 9], "then the newest"
    node.progress.ended(Connection(ENDED_MAX + 1), None, 9)
    assert len(node.progress._ended) == ENDED_MAX


def test_a_node_is_busy_while_deliveries_are_unwritten() -> None:
    node, connection = Node(), Connection(1)
    assert not node.progress.is_busy
    node.deliver(connection, 5)
    node.take(5)
    assert node.progress.is_busy
    connection.write(10)
    node.take(5)
    assert not node.progress.is_busy
    node.progress.ended(connection, None, 5)
    assert node.progress.is_busy


# --- reports ---------------------------------------------------------------------------------------


def test_a_report_applies_to_all_connections_except_listed_ones() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [[101, 40]], [[102, 30]]])
    assert [reports.written(("n1", epoch)) for epoch in (101, 102, 103)] == [40, 30, 50]
    assert reports.has_ended(("n1", 102))
    assert not reports.has_ended(("n1", 101))
    assert not reports.has_ended(("n1", 103))


def test_without_a_report_everything_may_be_lost() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [], []])
    assert reports.written(("n2", 1)) == 0
    assert reports.written(("n1", 99)) == 0, "of a process before the first that said something"
    assert reports.written(None) == NOTHING_UNWRITTEN


def test_the_report_of_a_previous_process_applies_to_its_connections() -> None:
    """The node was restarted before the leader acted on its clients' moves."""
    reports = ProgressReports()
    reports.received("n1", [100, 50, [[101, 40]], []])
    reports.received("n1", [200, 70, [], []])
    reports.received("n1", [200, 80, [], []])
    assert [reports.written(("n1", epoch)) for epoch in (101, 102, 201)] == [40, 50, 80]
    assert reports.has_ended(("n1", 101))
    assert not reports.has_ended(("n1", 201))
    assert reports.written(("n1", 99)) == 0


def test_for_any_connection_of_a_node_the_lowest_entry_applies() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [[101, 40]], [[102, 30]]])
    assert reports.written(("n1", ANY_EPOCH)) == 30
    assert reports.written(("n1", FORMER_EPOCH)) == 0, "nothing is known of that process"
    reports.received("n1", [200, 70, [], []])
    assert reports.written(("n1", ANY_EPOCH)) == 30, "its process before may have had it"
    assert reports.written(("n1", FORMER_EPOCH)) == 30


def test_reports_of_removed_members_are_forgotten() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [], []])
    reports.received("n1", [200, 50, [], []])
    reports.forget(["n2"])
    assert reports.written(("n1", 201)) == reports.written(("n1", 101)) == 0


@pytest.mark.parametrize(
    "report",
    [
        [],
        [1, 2, []],
        [1, -2, [], []],
        [-1, 2, [], []],
        [1, 2, [[1]], []],
        [1, 2, [], [[1, "x"]]],
        [1, 2, [[1, -1]], []],
        [1, 2, [[n, 1] for n in range(LISTED_MAX + 1)], []],
        ["x", 2, [], []],
        [1, 2, 3, []],
    ],
)
def test_a_malformed_report_is_refused(report: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        ProgressReports().received("n1", report)
