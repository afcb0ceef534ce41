"""Who is held up, and who holds up (R3, R8, R21)."""

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
    """As full, and with such connections stuck, as the test says."""

    def __init__(self) -> None:
        self.full = self.relaxed = False
        self.kicks = 0
        self.stuck: list[Connection] = []
        self.told: list[tuple[str, bool]] = []
        self.held_up: list[Connection] = []
        self.backpressure = Backpressure(
            self,
            stuck=lambda now_s: self.stuck,
            set_stuck=lambda connection, stuck: self.told.append((connection.name, stuck)),
            kick=self.kick,
            is_held_up=lambda connection: connection in self.held_up,
        )

    def kick(self) -> None:
        self.kicks += 1


def test_nobody_is_read_from_while_too_much_waits() -> None:
    node, a, b = Node(), Connection("a"), Connection("b")
    node.backpressure.read_done(a)
    assert a.reads
    node.full = True
    for connection in (a, b):
        node.backpressure.read_done(connection)
    assert not a.reads
    node.full = False
    node.backpressure.go_on()
    assert not a.reads, "a little room is not enough, or they would stop and go all the time"


def test_they_go_on_by_turns() -> None:
    """R21: the second one once the first has had its read, if there is room then."""
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


def test_who_crowds_a_link_is_not_read_from_until_it_has_room() -> None:
    """Nobody tells that it has: it is looked at again and again."""
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


def test_who_has_ended_has_no_turn() -> None:
    node, a = Node(), Connection("a")
    node.full = True
    node.backpressure.read_done(a)
    node.backpressure.closed(a)
    node.full, node.relaxed = False, True
    node.backpressure.go_on()
    assert not a.reads


def test_a_connection_is_said_to_be_stuck_once_and_once_that_it_is_not() -> None:
    """R3."""
    node, a, b = Node(), Connection("a"), Connection("b")
    node.stuck = [a, b]
    node.backpressure.pump(1.0)
    node.backpressure.pump(2.0)
    assert node.told == [("a", True), ("b", True)]
    node.backpressure.closed(b)
    node.stuck = []
    node.backpressure.pump(3.0)
    assert node.told[2:] == [("a", False)]
