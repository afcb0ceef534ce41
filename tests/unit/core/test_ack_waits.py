"""AckWait: when what is unacked comes again, rule by rule (D…) and example by example (E…)."""

from __future__ import annotations

from conversation import Conversation


def test_unacked_messages_come_again_after_each_ack_wait() -> None:
    """E6 (D3, D22, D23, RDL-02, RDL-03): at +W, +2W …, although stalled, counted 1, 2 …"""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=1, wait=1)
    assert talk.publish(2, at=0).sent == {"A": [1]}
    assert talk.tick(at=0.999).sent == {}
    assert talk.tick(at=1.0).counts == {("A", 1): 1}
    assert talk.tick(at=1.999).sent == {}
    assert talk.tick(at=2.0).counts == {("A", 1): 2}


def test_messages_keep_their_own_schedules() -> None:
    """E7 (D19, D20, RDL-05): 1 sent at 0.0 and 2 at 0.6 come again at 1.0, 1.6, 2.0, 2.6."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.publish(at=0.6)
    seen = []
    for tenth in range(7, 30):
        seen += [(tenth / 10, seq) for seq in talk.tick(at=tenth / 10).sent.get("A", [])]
    assert seen == [(1.0, 1), (1.6, 2), (2.0, 1), (2.6, 2)]


def test_neighbouring_deadlines_go_together() -> None:
    """E8 (D20, D21 Target): deadlines 10 ms apart, one tick after both: together, in sequence order."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.publish(at=0.010)
    assert talk.state.next_deadline() == 1_000_000_000
    assert talk.tick(at=1.010).sent == {"A": [1, 2]}


def test_acks_leave_the_timer_alone() -> None:
    """E9 (D19): 1 acked, so at 1.0 nothing is due; the timer goes on for 2, until 1.5."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.ack("A", 1, at=0.2)
    talk.publish(at=0.5)
    assert talk.state.next_deadline() == 1_000_000_000
    assert talk.tick(at=1.0).sent == {}
    assert talk.state.next_deadline() == 1_500_000_000
    assert talk.tick(at=1.5).sent == {"A": [2]}


def test_the_timer_goes_off_when_nothing_is_unacked() -> None:
    """D20: fired with nothing pending, there is no deadline any more."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.ack("A", 1)
    talk.tick(at=1)
    assert talk.state.next_deadline() is None


def test_a_late_redelivery_waits_its_whole_ack_wait() -> None:
    """D21 Target, RDL-12: the next deadline counts from the redelivery, not from when it was due."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.tick(at=7.5)
    assert talk.tick(at=8.4).sent == {}
    assert talk.tick(at=8.5).counts == {("A", 1): 2}


def test_a_redelivered_message_can_be_acked() -> None:
    """RDL-08, RDL-13: the ack of a redelivered message frees its place and stops it for good."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=1, wait=1)
    talk.publish(2, at=0)
    talk.tick(at=1)
    assert talk.ack("A", 1).sent == {"A": [2]}
    assert talk.tick(at=2).sent == {"A": [2]}


def test_ack_waits_are_independent() -> None:
    """RDL-14: two subscriptions, two AckWaits."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", wait=1)
    talk.subscribe("B", wait=2)
    talk.publish(at=0)
    assert talk.tick(at=1).sent == {"A": [1]}
    assert talk.tick(at=2).sent == {"A": [1], "B": [1]}
