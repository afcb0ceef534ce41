"""What is due at once, and in what order. That an entry looks for it within bounds is in ``test_bounds``."""

from __future__ import annotations

import pytest
from conversation import Conversation

from node.core import dispatch


def test_messages_gone_from_the_log_are_forgotten_in_their_turn() -> None:
    """E10 (D24, RDL-10): until the timer they take up max in flight; then they go, and new ones come."""
    talk = Conversation(max_msgs=3)
    talk.connect("me")
    talk.subscribe("A", mif=3, wait=1)
    talk.publish(3, at=0)
    assert talk.publish(at=0.5).sent == {}
    assert talk.unacked("A") == [1, 2, 3]
    answer = talk.tick(at=1)
    assert answer.sent == {"A": [2, 3, 4]}
    assert answer.redelivered("A") == {2: 1, 3: 1}


def test_an_ack_in_the_same_entry_is_ahead_of_the_deadline() -> None:
    """D26, R1: what is acked by the time its turn comes is not sent."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(2, at=0)
    assert talk.ack("A", 1, at=1).sent == {"A": [2]}


def test_due_messages_come_in_sequence_order_whatever_their_deadlines() -> None:
    """RDL-06, T3: 1 was sent again after 2, so 2 is due before it; due together, 1 is first."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.publish(at=0.5)
    talk.tick(at=1)  # 1 again
    assert list(talk.find("A").unacked) == [2, 1]
    assert talk.tick(at=3).sent == {"A": [1, 2]}


def test_deadlines_that_passed_behind_due_messages_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1, R19: while a subscription has due messages left over, the AckWait of its others goes on.

    The simulator of sessions saw new messages sent ahead of those that had become due meanwhile; and a
    restored node, which had looked at the clock, send others than one that had been there all the time.
    """
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=20, wait=1, durable="d")
    talk.publish(10, at=0)
    talk.close("A")
    monkeypatch.setattr(dispatch, "GROUP_MESSAGES_MAX", 7)
    resumed = talk.say(talk.subscription("B", mif=20, wait=1, durable="d"), at=0.5)
    assert resumed.sent == {"B": [1, 2, 3, 4, 5, 6, 7]}
    assert talk.publish(1, at=2).sent == {"B": [1, 2, 3, 4, 5, 6, 7]}
    assert talk.tick(at=2).sent == {"B": [8, 9, 10, 11]}


def test_a_silent_client_that_subscribes_is_heard_on_all_its_subscriptions() -> None:
    """D25, D46: what fell due while it was silent is sent again, and not only to what it opens."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.unresponsive("me")
    assert talk.tick(at=2).sent == {}
    assert talk.say(talk.subscription("B"), at=3).sent == {"A": [1]}
    assert talk.tick(at=4).sent == {"A": [1]}


def test_what_came_after_a_return_was_not_missed() -> None:
    """R15: a silent client gets new messages while what it missed waits for it to answer."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=60)
    talk.publish(at=2)
    talk.unresponsive("a")
    assert talk.back("a", since=1, at=3).sent == {}
    assert talk.publish(at=4).sent == {"A": [2]}
    assert talk.unresponsive("a", False, at=5).counts == {("A", 1): 1}


def test_what_was_missed_twice_over_is_all_missed() -> None:
    """R15: before what was missed the first time could be sent again its client was gone once more."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=60)
    talk.publish(at=2)
    talk.unresponsive("a")
    talk.back("a", since=1, at=3)
    talk.publish(at=5)
    talk.back("a", since=4, at=6)
    assert talk.unresponsive("a", False, at=7).counts == {("A", 1): 1, ("A", 2): 1}
