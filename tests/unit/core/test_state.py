"""What the state shows to those who only read it."""

from __future__ import annotations

from conversation import SECOND, Conversation

from node.core.state import State, folded


def test_a_new_state_waits_for_nothing() -> None:
    state = State()
    assert state.next_deadline() is None
    assert state.next_age() is None
    assert not state.marked


def test_the_earliest_deadline() -> None:
    """R20: AckWaits of all subscriptions; never later than the truth."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=5)
    talk.subscribe("B", wait=3)
    talk.publish(at=1)
    assert talk.state.next_deadline() == 4 * SECOND


def test_what_monitoring_shows_of_a_subscription() -> None:
    """DQU-08, MON-04, MON-06: names, offline ones with their last client, stalled."""
    talk = Conversation()
    talk.connect("me", "you")
    talk.subscribe("A", durable="d", mif=1)
    talk.subscribe("B", "you", queue="q", durable="d")
    talk.subscribe("C", queue="p")
    talk.publish(2)
    member = talk.find("A")
    assert (member.durable, member.queue, member.group.name) == ("d", "", "")
    assert (member.stalled, member.last_sent, member.channel.name) == (True, 1, "foo")
    assert talk.find("B").group.name == "d:q"
    assert talk.find("C").group.name == "p"
    talk.leave("me")
    assert (member.online, member.client_id, member.reachable, member.unresponsive) == (
        False,
        "me",
        False,
        False,
    )


def test_folding_is_ascii() -> None:
    """R30: Unicode's case tables differ between Python versions."""
    assert folded("FooÄ") == "fooÄ"
