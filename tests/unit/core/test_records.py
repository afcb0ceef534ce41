"""A checkpoint by changes (that it is always the whole state, every conversation checks beside its story)."""

from __future__ import annotations

from conversation import SECOND, Conversation

from node.core.commands import ColdStart
from node.core.log import BLOCK_MESSAGES
from node.core.records import digest, take_changes


def story() -> Conversation:
    """Something of everything."""
    talk = Conversation(max_age_ns=600 * SECOND, channels={"foo.>": {"max_msgs": 3000}})
    talk.connect("me", "a", "b")
    talk.subscribe("A", "a", queue="q", durable="d", channel="foo.x", wait=5, mif=50)
    talk.subscribe("B", "b", queue="q", durable="d", channel="foo.x", wait=5, mif=50)
    talk.subscribe("C", channel="foo.x", mif=2)
    talk.subscribe("D", "b", durable="e", channel="bar")
    talk.publish(2500, channel="foo.x", at=1)
    talk.publish(3, channel="bar")
    talk.ack("A", 1, 5, 9, channel="foo.x")
    talk.publish(1000, channel="foo.x")
    talk.publish(client="nobody")
    talk.unresponsive("a")
    talk.away("b")
    talk.close("C", channel="foo.x")
    return talk


def test_only_what_changed_is_written() -> None:
    """The cost of a checkpoint is that of the change: here one publish, sent to one of two groups."""
    talk = story()
    talk.checked = False
    assert [key for key, _ in take_changes(talk.state)] == [b"m", b"x"]
    talk.publish(channel="foo.x")
    changed = sorted(key[:1] for key, _ in take_changes(talk.state))
    assert changed == [b"h", b"l", b"m", b"n", b"x"]
    talk.ack("A", 2, channel="foo.x")
    assert {key[:1] for key, _ in take_changes(talk.state)} <= {b"g", b"m", b"n", b"u", b"x"}


def test_dropped_blocks_are_deleted() -> None:
    """Of a log only its blocks are rewritten that grew or went."""
    talk = Conversation(max_msgs=10)
    talk.connect("me")
    talk.publish(BLOCK_MESSAGES)
    assert len([key for key in talk.records if key[:1] == b"l"]) == 1
    talk.publish(BLOCK_MESSAGES)
    (key,) = [key for key in talk.records if key[:1] == b"l"]
    assert key[-1] == 1


def test_unacked_messages_are_written_in_ranges() -> None:
    """Ten thousand of one entry take no more room than ten."""
    talk = Conversation()
    talk.checked = False
    talk.connect("me")
    talk.subscribe("A", mif=10_000)
    sizes = []
    for messages in (10, 10_000):
        talk.publish(messages)
        while talk.state.marked:
            talk.tick()
        (value,) = [value for key, value in take_changes(talk.state) if key[:1] == b"u"]
        assert value is not None
        sizes.append(len(value))
    assert sizes[1] < 20 * sizes[0]


def test_the_digest_tells_states_apart() -> None:
    """R30: equal on equal states, another after anything happened."""
    one, two = story(), story()
    assert digest(one.state) == digest(two.state)
    seen = {digest(one.state)}
    one.say(leader_commands=[ColdStart(1)])
    seen.add(digest(one.state))
    one.back("a")
    seen.add(digest(one.state))
    one.tick(at=30)
    seen.add(digest(one.state))
    assert len(seen) == 4
