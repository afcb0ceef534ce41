"""Channels: created, filled, deleted (streaming protocol 4 and 8; S1, S3; I1 to I5)."""

from __future__ import annotations

from conversation import EPOCH_NS, LATE, SECOND, Conversation, publishes

from node.core.commands import ChannelDelete, ChannelExpire
from node.core.effects import OK, DropChannel


def talk_of(**settings: object) -> Conversation:
    talk = Conversation(**settings)
    talk.connect("me", "you")
    return talk


def expire(
    talk: Conversation, channel: str = "foo", *, term: int = 1, at: float | None = None
) -> list[object]:
    generation = talk.state.channels[channel].generation
    return list(talk.say(leader_commands=[ChannelExpire(term, channel, generation)], at=at).effects.dropped)


def test_sequences_count_up_in_each_channel() -> None:
    """PUB-01, PUB-08, S1: in the order in which they came; one Store effect a channel and entry."""
    talk = talk_of()
    effects = talk.say(*publishes(2), *publishes(channel="bar"), *publishes(2, size=3)).effects
    assert [(store.name, store.first, len(store.bodies)) for store in effects.stored] == [
        ("foo", 1, 4),
        ("bar", 1, 1),
    ]
    assert [len(body) for body in effects.stored[0].bodies] == [20, 20, 3, 3]
    assert talk.publish(channel="bar").effects.stored[0].first == 2


def test_timestamps_never_go_back() -> None:
    """PUB-11, S5: whatever a leader stamps, neither of the two times goes back."""
    talk = talk_of()
    talk.publish(at=10)
    talk.publish(at=4)
    log = talk.state.channels["foo"].log
    assert log.timestamp(2) == log.timestamp(1) == EPOCH_NS + 10 * SECOND
    assert talk.state.time_ns == 10 * SECOND


def test_names_that_differ_in_case_only() -> None:
    """PUB-06: refused with the reference's text, its misspelling included; the first still works."""
    talk = talk_of()
    talk.publish()
    text = 'rejecting channel "FOO" because channel "foo" alreay exists (different cases not allowed)'
    assert talk.publish(channel="FOO").refusal == text
    assert talk.publish().outcome == OK


def test_too_many_channels() -> None:
    """PUB-17: only the offending publish fails; others of the burst are stored without gaps."""
    talk = talk_of(max_channels=1)
    outcomes = talk.say(*publishes(), *publishes(channel="bar"), *publishes()).outcomes
    assert [outcome == OK for outcome in outcomes] == [True, False, True]
    assert talk.state.channels["foo"].log.last == 2
    assert talk.publish(channel="bar").refusal == "too many channels"


def test_no_limit_of_channels() -> None:
    """0 means unlimited."""
    talk = talk_of(max_channels=0)
    assert set(talk.say(*(publishes(channel=f"c{n}")[0] for n in range(150))).outcomes) == {OK}


def test_an_inactive_channel_is_deleted() -> None:
    """INA-01, INA-02, INA-05, S3: counted from the last publish; made again, it starts at 1."""
    talk = talk_of(max_inactivity_ns=10 * SECOND)
    talk.publish(3, at=0)
    talk.publish(at=5)
    assert talk.state.channels["foo"].expires_ns == 15 * SECOND
    assert talk.state.expiring_channels(15 * SECOND - 1) == []
    assert expire(talk, at=14.9) == []
    assert talk.state.expiring_channels(15 * SECOND) == [talk.state.channels["foo"]]
    assert expire(talk, at=15) == [DropChannel(1)]
    assert talk.state.channels == {}
    effects = talk.publish().effects
    assert (effects.stored[0].channel, effects.stored[0].first) == (2, 1)


def test_subscriptions_keep_a_channel() -> None:
    """INA-03, INA-04, I1, I2, I5: online ones do; offline durables don't, and go with it."""
    talk = talk_of(max_inactivity_ns=10 * SECOND)
    talk.subscribe("A", durable="d")
    talk.subscribe("B", "you", queue="q", durable="d")
    talk.publish(at=0)
    assert expire(talk, at=20) == []
    talk.close("A")
    talk.now = 25
    talk.heartbeats_fail("you")
    assert talk.state.channels["foo"].expires_ns == 35 * SECOND
    assert expire(talk, at=35) == [DropChannel(1)]
    assert talk.state.subscriptions == {}
    assert talk.subscribe("A", durable="d").sent == {}


def test_a_subscription_in_time_saves_the_channel() -> None:
    """I3, INA-06: whichever the log has first."""
    talk = talk_of(max_inactivity_ns=SECOND)
    talk.publish(at=0)
    talk.now = 9
    talk.subscribe("A")
    assert expire(talk) == []


def test_another_instance_of_the_channel_is_spared() -> None:
    """I4, R16: the generation it was proposed for, and the term, must be the present ones."""
    talk = talk_of(max_inactivity_ns=SECOND)
    talk.publish(at=0)
    old = talk.state.channels["foo"].generation
    expire(talk, at=1)
    talk.publish()
    talk.say(leader_commands=[ChannelExpire(1, "foo", old), ChannelExpire(1, "bar", old)], at=9)
    assert expire(talk, term=0) == []
    assert "foo" in talk.state.channels
    assert expire(talk) == [DropChannel(2)]


def test_a_deleted_channel_leaves_nothing() -> None:
    """INA-07: no deadline, no mark, no record; the checks after each entry would find them."""
    talk = talk_of(max_inactivity_ns=SECOND, max_age_ns=60 * SECOND)
    talk.subscribe("A", durable="d", mif=1)
    talk.publish(1500, at=0)
    talk.close("A")
    expire(talk, at=2)
    assert talk.state.next_age() is None
    assert talk.state.next_deadline() is None
    assert not talk.state.marked
    assert not [key for key in talk.records if key[:1] in b"hlgsu"]


def test_what_was_published_to_it_in_the_same_entry_goes_with_a_deleted_channel() -> None:
    """S3, INA-07: nothing is stored or dispatched afterwards; the next publish makes a new channel."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.close("A")
    answer = talk.say(*publishes(2), ChannelDelete("foo", False, LATE), *publishes(1))
    assert [(stored.channel, stored.first, len(stored.bodies)) for stored in answer.effects.stored] == [
        (2, 1, 1)
    ]
    talk.say(*publishes(2), ChannelDelete("foo", False, LATE))
    assert talk.state.channels == {}
    assert not talk.state.marked
    assert not [key for key in talk.records if key[:1] in b"hlgsu"]
