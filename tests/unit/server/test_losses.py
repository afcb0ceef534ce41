"""Deliveries that an ended connection may have missed (R10, R15)."""

from __future__ import annotations

from typing import Any

from node.core.commands import NOTHING_UNWRITTEN, Unwritten
from node.server.delivery_progress import IDLE_REPORT_EVERY_S, REPORT_EVERY_S
from node.server.losses import NEW_TERMS_MAX, Losses
from node.server.presence import MOVED_MAX_NS


class Node:
    def __init__(self) -> None:
        self.now = 50.0
        self.index = 1
        self.busy = False
        self.links: list[str] = ["n2", "n3"]
        self.sent: list[tuple[str, Any]] = []
        self.losses = Losses(
            "n1",
            100,
            take=lambda: (self.index, [], []),
            is_busy=lambda: self.busy,
            links_up=lambda: self.links,
            send=self.send,
        )

    def send(self, peer: str, frame: Any) -> bool:
        self.sent.append((peer, frame))
        return True

    def pump(self, seconds: float = 0.0) -> list[Any]:
        """Let time pass, calling `pump` when it is due. Returns the frames sent."""
        end = self.now + seconds
        self.sent.clear()
        while True:
            due = self.losses.pump(self.now)
            if due > end:
                break
            assert due > self.now
            self.now = due
        self.now = end
        return list(self.sent)


def test_every_member_is_sent_the_report() -> None:
    node = Node()
    frame = ("written", 100, 1, [], [])
    assert node.pump() == [("n2", frame), ("n3", frame)]
    assert node.pump(5.0) == [], "the same again is no news"
    node.index = 2
    assert [peer for peer, _ in node.pump(IDLE_REPORT_EVERY_S)] == ["n2", "n3"]


def test_a_delivering_node_reports_more_often_within_a_limit() -> None:
    node = Node()
    node.links = ["n2"]
    node.busy = True
    node.pump()
    sent = 0
    for _ in range(1000):
        node.index += 1
        sent += len(node.pump(0.001))
    assert 0.9 <= sent * REPORT_EVERY_S <= 1.0


def test_a_member_that_was_not_linked_is_sent_the_last_report() -> None:
    node = Node()
    node.losses.peer_up("n3")
    assert node.sent == []
    node.pump()
    node.sent.clear()
    node.losses.peer_up("n3")
    assert node.sent == [("n3", ("written", 100, 1, [], []))]


def test_the_deliveries_that_a_connection_missed() -> None:
    node = Node()
    node.losses.received("n2", [200, 40, [[201, 30]], []])
    node.pump()
    nothing = Unwritten(NOTHING_UNWRITTEN, 0, 0)
    assert node.losses.unwritten([("n2", 201)], ("n3", 1), 0, 0) == Unwritten(30, 0, 0)
    assert node.losses.unwritten([("n2", 202)], None, 0, 0) == Unwritten(40, 0, 0)
    assert node.losses.unwritten([("n1", 101)], ("n3", 1), 0, 0) == Unwritten(1, 0, 0)
    assert node.losses.unwritten([("n2", 201)], ("n2", 201), 0, 0) == nothing, "it was stuck for a while"
    assert node.losses.unwritten([None], ("n2", 201), 0, 0) == nothing
    assert node.losses.unwritten([("n2", 201), ("n2", 202), None], ("n3", 1), 0, 0) == Unwritten(30, 0, 0)
    assert node.losses.unwritten([("n2", 202), ("n4", 1)], ("n3", 1), 0, 0) == Unwritten(0, 0, 0), (
        "n4 has reported nothing"
    )


def test_messages_sent_between_two_leader_changes_have_arrived() -> None:
    """R10: only messages that got a new send time after their client had come may have been left out."""
    node = Node()
    before, now = ("n2", 201), ("n3", 1)
    node.losses.began_term(1000, 10, 15)
    node.losses.began_term(3000, 28, 30)
    assert node.losses.unwritten([before], now, 4000, 1000)[1:] == (10, 30)
    assert node.losses.unwritten([before], now, 4000, 1001)[1:] == (28, 30), "16 to 28 were sent to n3"
    assert node.losses.unwritten([before], now, 4000, 3001)[1:] == (0, 0)


def test_leader_changes_are_remembered_as_long_as_moves() -> None:
    """R10: messages that got a new send time may have been left out if their client had moved meanwhile."""
    node = Node()
    before, now = ("n2", 201), ("n3", 1)
    node.losses.began_term(0, 10, 15)
    node.losses.began_term(MOVED_MAX_NS, 12, 20)
    assert node.losses.unwritten([before], now, MOVED_MAX_NS, 0)[1:] == (10, 20)
    assert node.losses.unwritten([before], now, 2 * MOVED_MAX_NS + 1, 0)[1:] == (12, 20)
    assert node.losses.unwritten([before], now, 4 * MOVED_MAX_NS, 0)[1:] == (0, 0)
    for number in range(2 * NEW_TERMS_MAX):
        node.losses.began_term(0, number, number)
    assert len(node.losses._new_terms) == NEW_TERMS_MAX


def test_a_connection_that_may_receive_again_has_lost_nothing() -> None:
    """R3: a stuck connection counts as not listening, but its waiting deliveries may still be written."""
    node = Node()
    node.losses.received("n2", [200, 40, [[201, 30]], [[202, 20]]])
    linked = {"n2"}
    assert node.losses.written_at_end(("n2", 201), linked) == NOTHING_UNWRITTEN
    assert node.losses.written_at_end(("n2", 202), linked) == 20
    assert node.losses.written_at_end(("n2", 201), set()) == 30, "its node is dead"
    assert node.losses.written_at_end(None, linked) == NOTHING_UNWRITTEN


def test_reports_of_members_that_were_removed_are_forgotten() -> None:
    node = Node()
    node.losses.received("n2", [200, 40, [], []])
    node.losses.forget(["n1", "n3"])
    assert node.losses.unwritten([("n2", 201)], None, 0, 0).written == 0
