"""How far deliveries were written, connection by connection, and what nodes say of it (R10, R15)."""

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
    """A connection whose outbox is written when the test says so."""

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


def test_nothing_delivered_is_everything_written() -> None:
    assert Node().take(7) == (7, [], [])


def test_what_waits_in_the_outbox_is_not_written() -> None:
    node, first, second = Node(), Connection(1), Connection(2)
    node.deliver(first, 5)
    node.deliver(second, 6)
    first.write(10)
    assert node.take(8) == (8, [[2, 5]], [])
    second.write(9)
    assert node.take(8) == (8, [[2, 5]], []), "all but one byte"
    second.write(1)
    assert node.take(9) == (9, [], [])


def test_what_waits_for_room_is_not_written() -> None:
    """R3: deliveries are numbers until there is room."""
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


def test_an_entry_is_written_when_all_of_it_is() -> None:
    node, connection = Node(), Connection(1)
    node.deliver(connection, 5)
    node.deliver(connection, 5)
    connection.write(10)
    assert node.take(8) == (8, [[1, 4]], [])


def test_after_a_snapshot_entries_may_come_out_of_order() -> None:
    """Each subscription's own follow one another; then what is lowest is what counts."""
    node, connection = Node(), Connection(1)
    for entry in (5, 9, 6):
        node.deliver(connection, entry)
    connection.write(10)
    assert node.take(9) == (9, [[1, 5]], [])
    connection.write(10)
    assert node.take(9) == (9, [[1, 5]], [])
    connection.write(10)
    assert node.take(9) == (9, [], [])


def test_a_connection_ends_once() -> None:
    """A planned stop ends our half first, then the connection: what is applied in between was not written."""
    node, connection = Node(), Connection(1)
    node.progress.ended(connection, None, 5)
    node.progress.ended(connection, None, 6)
    assert node.take(6) == (6, [], [[1, 5]])


def test_marks_are_bounded() -> None:
    """However many entries wait in an outbox: the last ones go together, and none counts too early."""
    node, connection = Node(), Connection(1)
    for entry in range(1, 3 * MARKS_MAX + 1):
        node.deliver(connection, entry)
    (marks,) = node.progress._marks.values()
    assert len(marks) == MARKS_MAX
    for entry in range(1, 3 * MARKS_MAX + 1):
        assert node.take(1000)[1] == [[1, min(entry, MARKS_MAX) - 1]]
        connection.write(10)
    assert node.take(1000) == (1000, [], [])


def test_a_connection_that_ended_says_how_far_it_was_served() -> None:
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


def test_lists_are_bounded_and_nothing_counts_as_written_that_is_not() -> None:
    node = Node()
    connections = [Connection(number) for number in range(1, 2 * LISTED_MAX + 1)]
    for connection in connections:
        node.deliver(connection, 10 + connection.epoch)
    index, lagging, ended = node.take(1000)
    assert [epoch for epoch, _ in lagging] == list(range(1, LISTED_MAX + 1))
    assert index == 10 + LISTED_MAX
    assert ended == []


def test_ended_connections_are_bounded_and_losses_go_first() -> None:
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


def test_there_is_something_to_tell_while_something_is_on_its_way() -> None:
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


# --- what others are told --------------------------------------------------------------------------


def test_a_report_holds_for_all_connections_but_those_listed() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [[101, 40]], [[102, 30]]])
    assert [reports.written(("n1", epoch)) for epoch in (101, 102, 103)] == [40, 30, 50]
    assert reports.has_ended(("n1", 102))
    assert not reports.has_ended(("n1", 101))
    assert not reports.has_ended(("n1", 103))


def test_nothing_is_known_of_who_said_nothing() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [], []])
    assert reports.written(("n2", 1)) == 0
    assert reports.written(("n1", 99)) == 0, "of a process before the first that said something"
    assert reports.written(None) == NOTHING_UNWRITTEN


def test_what_a_process_said_holds_for_its_connections_when_there_is_another() -> None:
    """The node was restarted before anybody acted on its clients' moves."""
    reports = ProgressReports()
    reports.received("n1", [100, 50, [[101, 40]], []])
    reports.received("n1", [200, 70, [], []])
    reports.received("n1", [200, 80, [], []])
    assert [reports.written(("n1", epoch)) for epoch in (101, 102, 201)] == [40, 50, 80]
    assert reports.has_ended(("n1", 101))
    assert not reports.has_ended(("n1", 201))
    assert reports.written(("n1", 99)) == 0


def test_of_some_connection_of_a_node_only_the_least_is_sure() -> None:
    reports = ProgressReports()
    reports.received("n1", [100, 50, [[101, 40]], [[102, 30]]])
    assert reports.written(("n1", ANY_EPOCH)) == 30
    assert reports.written(("n1", FORMER_EPOCH)) == 0, "nothing is known of that process"
    reports.received("n1", [200, 70, [], []])
    assert reports.written(("n1", ANY_EPOCH)) == 30, "its process before may have had it"
    assert reports.written(("n1", FORMER_EPOCH)) == 30


def test_who_is_no_member_is_forgotten() -> None:
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
def test_what_is_no_report_is_refused(report: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        ProgressReports().received("n1", report)
