"""Connections that are paused, and stuck connections (R3, R8, R21)."""

from __future__ import annotations

from node.server.backpressure import LINK_S, Backpressure


class Connection:
    def __init__(self, name: str) -> None:
        self.name = name
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Node:
    """The test sets whether the origin is full, and which connections are stuck."""

    def __init__(self) -> None:
        self.full = self.relaxed = False
        self.kicks = 0
        self.stuck: list[Connection] = []
        self.reported: list[tuple[str, bool]] = []
        self.held_up: list[Connection] = []
        self.backpressure = Backpressure(
            self,
            stuck=lambda now_s: self.stuck,
            set_stuck=lambda connection, stuck: self.reported.append((connection.name, stuck)),
            kick=self.kick,
            is_held_up=lambda connection: connection in self.held_up,
        )

    def kick(self) -> None:
        self.kicks += 1


def test_no_connection_is_read_from_while_the_origin_is_full() -> None:
    node, a, b = Node(), Connection("a"), Connection("b")
    node.backpressure.read_done(a)
    assert a.reads
    node.full = True
    for connection in (a, b):
        node.backpressure.read_done(connection)
    assert not a.reads
    node.full = False
    node.backpressure.go_on()
    assert not a.reads, "a little capacity is not enough, or connections would pause and resume all the time"


def test_paused_connections_resume_one_at_a_time() -> None:
    """R21: the second connection resumes after the first has read, if there is capacity then."""
    node, a, b = Node(), Connection("a"), Connection("b")
    node.full = True
    for connection in (a, b):
        node.backpressure.read_done(connection)
    node.full, node.relaxed = False, True
    node.backpressure.go_on()
    assert (a.reads, b.reads, node.kicks) == (True, False, 1)
    node.full, node.relaxed = True, False
    node.backpressure.read_done(a)
    node.backpressure.go_on()
    assert (a.reads, b.reads) == (False, False)
    node.full, node.relaxed = False, True
    node.backpressure.go_on()
    assert (a.reads, b.reads) == (False, True)


def test_a_connection_that_fills_a_link_is_paused_until_the_link_has_capacity() -> None:
    """The link is polled, because it doesn't report that it has capacity."""
    node, a, b, c = Node(), Connection("a"), Connection("b"), Connection("c")
    assert node.backpressure.next_s == float("inf")
    node.held_up = [a, b]
    for connection in (a, b, c):
        node.backpressure.read_done(connection)
    assert (a.reads, b.reads, c.reads) == (False, False, True)
    node.backpressure.go_on()
    assert not a.reads
    assert node.backpressure.next_s == LINK_S
    node.held_up = []
    node.backpressure.go_on()
    assert (a.reads, b.reads) == (True, False), "the second one once the first has had its read"
    node.full = True
    node.backpressure.go_on()
    assert not b.reads, "too much waits here by now"
    assert node.backpressure.next_s == float("inf")
    node.full, node.relaxed = False, True
    node.backpressure.go_on()
    assert b.reads
    node.held_up = [a]
    node.backpressure.read_done(a)
    node.backpressure.closed(a)
    assert node.backpressure.next_s == float("inf")


def test_an_ended_connection_is_not_resumed() -> None:
    node, a = Node(), Connection("a")
    node.full = True
    node.backpressure.read_done(a)
    node.backpressure.closed(a)
    node.full, node.relaxed = False, True
    node.backpressure.go_on()
    assert not a.reads


def test_stuck_is_announced_once_and_its_end_once() -> None:
    """R3."""
    node, a, b = Node(), Connection("a"), Connection("b")
    node.stuck = [a, b]
    node.backpressure.pump(1.0)
    node.backpressure.pump(2.0)
    assert node.reported == [("a", True), ("b", True)]
    node.backpressure.closed(b)
    node.stuck = []
    node.backpressure.pump(3.0)
    assert node.reported[2:] == [("a", False)]
