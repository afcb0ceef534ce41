"""A purge: what leaves the log, and what is unacked no longer."""

from __future__ import annotations

import pytest
from conversation import LATE, Conversation, publishes

from node.core import purging
from node.core.commands import ChannelPurge
from node.core.effects import Drop


def test_a_purge_drops_messages_and_keeps_the_last_sequence() -> None:
    talk = Conversation()
    talk.connect("me", "you")
    talk.publish(5)
    answer = talk.say(ChannelPurge("foo", 3, LATE))
    assert answer.effects.dropped == [Drop(1, 3)]
    log = talk.state.channels["foo"].log
    assert (log.first, log.last, log.bytes) == (4, 5, log.size(4) + log.size(5))
    assert talk.say(ChannelPurge("foo", 2, LATE)).effects.dropped == []
    assert talk.say(ChannelPurge("foo", -7, LATE)).effects.dropped == []
    talk.say(ChannelPurge("foo", 0, LATE))
    assert (log.first, log.last, len(log)) == (6, 5, 0)
    assert talk.publish().effects.stored[0].first == 6


def test_a_purge_takes_what_the_entry_has_published_so_far() -> None:
    talk = Conversation()
    talk.connect("me", "you")
    talk.subscribe("A")
    answer = talk.say(*publishes(3), ChannelPurge("foo", 0, LATE), *publishes(1))
    assert answer.sent == {"A": [4]}
    assert [(store.first, len(store.bodies)) for store in answer.effects.stored] == [(1, 4)]
    assert answer.effects.dropped == [Drop(1, 3)]


def test_purged_messages_are_unacked_no_longer() -> None:
    """Who was stalled by them has room at once, in the same entry; the offline and the absent alike."""
    talk = Conversation()
    talk.connect("me", "you")
    talk.subscribe("A", mif=2)
    talk.subscribe("B", durable="d")
    for inbox in ("C", "D"):
        talk.subscribe(inbox, "you", queue="q")
    talk.publish(4)
    talk.close("B")
    talk.away("you")
    talk.close("C", "you")
    assert talk.unacked("A") == [1, 2]
    answer = talk.say(ChannelPurge("foo", 3, LATE))
    assert answer.sent == {"A": [4]}
    group = talk.find("D").group
    assert [*talk.find("B").unacked] == [4]
    assert sorted([*group.orphans, *talk.unacked("D")]) == [4]
    assert talk.tick(at=31).sent == {"A": [4]}


def test_a_cursor_below_a_purge_moves_on() -> None:
    talk = Conversation()
    talk.connect("me", "you")
    talk.publish(5)
    talk.subscribe("A", durable="d", start=4, mif=1)
    talk.close("A")
    talk.say(ChannelPurge("foo", 4, LATE))
    assert talk.find("A").group.cursor == 4
    assert talk.subscribe("A", durable="d").sent == {"A": [5]}


def test_a_purge_of_much_that_is_unacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """R19: it is forgotten by and by, before anything new is sent; what is acked meanwhile is no matter."""
    monkeypatch.setattr(purging, "LOOKED_AT_MAX", 4)
    talk = Conversation()
    talk.connect("me", "you")
    for inbox, client in (("A", "me"), ("B", "you")):
        talk.subscribe(inbox, client, mif=10, queue="q")
    talk.publish(16)
    assert talk.unacked("A") == [*range(1, 17, 2)]
    assert talk.say(ChannelPurge("foo", 6, LATE), *publishes(8)).sent == {}
    assert (talk.unacked("A"), talk.unacked("B")) == ([3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16])
    talk.ack("A", 3, 5, 7)
    assert talk.unacked("B") == [4, 6, 8, 10, 12, 14, 16]
    got: list[int] = []
    while talk.state.marked:
        assert not got
        got += [seq for seqs in talk.tick().sent.values() for seq in seqs]
    assert sorted(got) == [*range(17, 25)]
    assert sorted(talk.unacked("A") + talk.unacked("B")) == [*range(8, 25)]
