"""Acknowledgements (delivery rules D31 to D33, and the table of acks)."""

from __future__ import annotations

from conversation import Conversation

from node.core.commands import Acked


def test_an_ack_on_another_members_inbox_counts() -> None:
    """D32, QUE-24, QUE-13: the message moved from A to B; A's late ack ends it, nothing comes again."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", queue="q", wait=1)
    talk.subscribe("B", queue="q", wait=1)
    talk.publish(at=0)
    assert talk.tick(at=1).sent == {"B": [1]}
    talk.ack("A", 1, at=1.5)
    assert talk.unacked("B") == []
    assert talk.tick(at=9).sent == {}


def test_who_lost_a_message_to_anothers_ack_is_not_stuck() -> None:
    """D32 Target, QUE-14: B was stalled by that one message; now it takes the next."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", queue="q", mif=1, wait=1)
    talk.publish(at=0)
    talk.subscribe("B", queue="q", mif=1, wait=60)
    talk.tick(at=1)  # 1 moves to B
    assert talk.unacked("B") == [1]
    talk.publish(3, at=1.1)  # A takes 2, both are stalled
    assert talk.ack("A", 1).sent == {"B": [3]}
    assert talk.ack("A", 2).sent == {"A": [4]}


def test_an_ack_reaches_what_nobody_holds_at_the_moment() -> None:
    """D32: the holder has left and all others are absent; an ack still ends the message."""
    talk = Conversation()
    talk.connect("me", "a", "b")
    talk.subscribe("A", "a", queue="q")
    talk.subscribe("B", "b", queue="q")
    talk.publish()
    talk.away("b")
    talk.close("A", "a")
    assert list(talk.find("B").group.orphans) == [1]
    talk.ack("B", 1)
    assert talk.back("b", since=99).sent == {}


def test_what_is_not_unacked_is_ignored() -> None:
    """D33, DEL-04, ACK-01: acked already, never sent, beyond the end."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=1)
    talk.publish(3)
    for seqs in ((2,), (99,), (0,), (-5,)):
        assert talk.ack("A", *seqs).sent == {}
    assert talk.ack("A", 1).sent == {"A": [2]}
    assert talk.ack("A", 1).sent == {}


def test_acks_act_on_the_inbox_they_are_sent_to() -> None:
    """ACK-02, table of acks: another subscription, and another channel's name, acknowledge nothing."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A")
    talk.subscribe("B")
    talk.subscribe("C", channel="bar")
    talk.publish()
    talk.ack("A", 1)
    talk.ack("B", 1, channel="bar")
    assert talk.unacked("A") == []
    assert talk.unacked("B") == [1]
    assert talk.say(Acked("foo", "ack.unknown", (1,))).outcomes


def test_the_old_ack_inbox_of_a_resumed_durable_is_dead() -> None:
    """ACK-03: acks to the inbox before the resume, and after a close, are ignored."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", durable="d")
    talk.publish()
    old = talk.acked("A", 1)
    talk.close("A")
    talk.say(old)
    assert talk.unacked("A") == [1]
    talk.subscribe("A", durable="d")
    talk.say(old)
    assert talk.unacked("A") == [1]


def test_acks_before_a_close_in_the_same_entry_count() -> None:
    """UNS-09, DUR-03: commands take effect in order, so a resumed durable starts after what was acked."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", durable="d")
    talk.publish(3)
    acked = talk.acked("A", 1, 2)
    talk.say(acked)
    talk.close("A")
    assert talk.subscribe("A", durable="d").sent == {"A": [3]}
