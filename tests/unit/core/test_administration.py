"""What an operator asks for: channels, cursors, clients. Each story is checked and restored as all are."""

from __future__ import annotations

import pytest
from conversation import EPOCH_NS, LATE, SECOND, Conversation, publishes

from node.core.commands import (
    ChannelDelete,
    ChannelPurge,
    ClientKick,
    Command,
    NewTerm,
    SeekTo,
    SubscriptionPause,
    SubscriptionRemove,
    SubscriptionSeek,
)
from node.core.effects import OK, DropChannel


def talk_of(**settings: object) -> Conversation:
    talk = Conversation(**settings)
    talk.connect("me", "you")
    return talk


def seek(inbox_id: int, to: SeekTo, value: int = 0) -> SubscriptionSeek:
    return SubscriptionSeek(inbox_id, int(to), value, LATE)


def pause(talk: Conversation, inbox: str, *, at: float | None = None) -> None:
    assert talk.say(SubscriptionPause(talk.find(inbox).id, True, LATE), at=at).outcome == OK


def unpause(number: int) -> SubscriptionPause:
    return SubscriptionPause(number, False, LATE)


# --- channels ------------------------------------------------------------------------------------


def test_a_deleted_channel_starts_again_at_1() -> None:
    """S3, INA-05: under a new id and generation, without its subscriptions."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(3)
    talk.close("A")
    old = talk.state.channels["foo"]
    answer = talk.say(ChannelDelete("foo", False, LATE))
    assert answer.outcome == OK
    assert answer.effects.dropped == [DropChannel(old.id)]
    assert not talk.state.subscriptions
    effects = talk.publish().effects
    assert (effects.stored[0].channel, effects.stored[0].first) == (old.id + 1, 1)
    assert talk.state.channels["foo"].generation != old.generation


def test_a_channel_in_use_is_deleted_by_force_only() -> None:
    """Its subscriptions end, of every kind; acks and closes that come late do no harm."""
    talk = talk_of()
    talk.subscribe("A")
    talk.subscribe("B", durable="d")
    for inbox in ("C", "D"):
        talk.subscribe(inbox, "you", queue="q", durable="d")
    talk.subscribe("E", channel="bar")
    talk.publish(4)
    assert "4 online subscriptions" in talk.say(ChannelDelete("foo", False, LATE)).refusal
    answer = talk.say(ChannelDelete("foo", True, LATE))
    assert answer.outcome == OK
    assert "'foo' was deleted, with 4 online" in answer.effects.warnings[0].text
    assert [known.inbox for known in talk.state.subscriptions.values()] == ["E"]
    assert list(talk.state.by_ack_inbox) == [talk.acks["E"]]
    assert talk.ack("A", 1).outcome == OK
    assert talk.close("A").refusal == "stan: unknown channel"
    assert not talk.state.marked


def test_publishes_around_a_deletion_in_one_entry() -> None:
    """What stands before it goes with the channel; what stands behind it makes a new one."""
    talk = talk_of()
    talk.publish(2)
    answer = talk.say(*publishes(2), ChannelDelete("foo", False, LATE), *publishes(3))
    assert set(answer.outcomes) == {OK}
    assert [(store.channel, store.first, len(store.bodies)) for store in answer.effects.stored] == [(2, 1, 3)]
    assert answer.effects.dropped == [DropChannel(1)]
    log = talk.state.channels["foo"].log
    assert (log.first, log.last) == (1, 3)


# --- removing ------------------------------------------------------------------------------------


def test_a_subscription_is_removed() -> None:
    """An offline durable just so, an online one by force: its place is forgotten."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    number = talk.find("A").id
    assert "1 online subscription " in talk.say(SubscriptionRemove(number, False, False, LATE)).refusal
    talk.close("A")
    talk.publish(3)
    assert talk.say(SubscriptionRemove(number, False, False, LATE)).outcome == OK
    assert talk.say(SubscriptionRemove(number, False, True, LATE)).refusal == "there is no subscription 1"
    assert talk.subscribe("A", durable="d").sent == {}
    assert talk.say(SubscriptionRemove(talk.find("A").id, False, True, LATE)).outcome == OK
    assert talk.ack("A", 1).outcome == OK
    assert not talk.state.subscriptions


def test_a_removed_member_hands_over_what_it_holds() -> None:
    talk = talk_of()
    talk.subscribe("A", queue="q")
    talk.subscribe("B", "you", queue="q")
    talk.publish(4)
    held = talk.unacked("A")
    answer = talk.say(SubscriptionRemove(talk.find("A").id, False, True, LATE))
    assert answer.redelivered("B") == dict.fromkeys(held, 1)


def test_a_whole_queue_group_is_removed() -> None:
    talk = talk_of()
    for inbox in ("A", "B", "C"):
        talk.subscribe(inbox, queue="q", durable="d")
    talk.publish(4)
    assert "3 online" in talk.say(SubscriptionRemove(talk.find("B").id, True, False, LATE)).refusal
    talk.say(SubscriptionRemove(talk.find("B").id, True, True, LATE))
    assert not talk.state.subscriptions
    assert talk.state.channels["foo"].subscription_count == 0
    assert talk.subscribe("A", queue="q", durable="d", start=4).sent == {"A": [1, 2, 3, 4]}


# --- seeking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "value", "sent"),
    [
        (SeekTo.FIRST, 0, [1, 2, 3, 4]),
        (SeekTo.SEQUENCE, 3, [3, 4]),
        (SeekTo.SEQUENCE, -1, [1, 2, 3, 4]),
        (SeekTo.SEQUENCE, 9, []),
        (SeekTo.LAST, 0, [4]),
        (SeekTo.END, 0, []),
        (SeekTo.TIME, EPOCH_NS + 2 * SECOND, [3, 4]),
        (SeekTo.TIME, 0, [1, 2, 3, 4]),
        (SeekTo.TIME, 1 << 63, []),
    ],
)
def test_an_online_durable_goes_on_from_where_it_is_put(to: SeekTo, value: int, sent: list[int]) -> None:
    """What it may have had before says so, with count 1; what is published next is new."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    for second in range(4):
        talk.publish(at=second)
    talk.ack("A", 1, 2)
    answer = talk.say(seek(talk.find("A").id, to, value))
    assert answer.outcome == OK
    assert answer.sent.get("A", []) == sent
    assert answer.redelivered("A") == dict.fromkeys(sent, 1)
    assert talk.unacked("A") == sent
    answer = talk.publish()
    assert answer.sent == {"A": [5]}
    assert answer.redelivered("A") == {}


def test_a_seek_forgets_counts_and_deadlines() -> None:
    """AckWait and counts begin again with what is sent after it, and acks count for that."""
    talk = talk_of()
    talk.subscribe("A", durable="d", wait=10)
    talk.publish(2, at=0)
    assert talk.tick(at=10).redelivered("A") == {1: 1, 2: 1}
    assert talk.tick(at=20).redelivered("A") == {1: 2, 2: 2}
    assert talk.say(seek(talk.find("A").id, SeekTo.FIRST), at=25).redelivered("A") == {1: 1, 2: 1}
    assert talk.tick(at=30).sent == {}
    talk.ack("A", 1)
    assert talk.tick(at=35).redelivered("A") == {2: 2}


def test_an_offline_durable_is_put_elsewhere() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(3)
    talk.close("A")
    assert talk.say(seek(talk.find("A").id, SeekTo.SEQUENCE, 2)).sent == {}
    assert talk.subscribe("A", durable="d").sent == {"A": [2, 3]}
    talk.close("A")
    talk.say(seek(talk.find("A").id, SeekTo.END))
    assert talk.subscribe("A", durable="d").sent == {}


def test_a_queue_group_is_put_elsewhere_as_a_whole() -> None:
    """Any member names it. What members and nobody hold is forgotten, and shared out anew."""
    talk = talk_of()
    talk.subscribe("A", queue="q")
    talk.subscribe("B", "you", queue="q")
    talk.publish(6)
    talk.away("you")
    talk.away("me")
    talk.close("A")
    assert talk.find("B").group.orphans
    talk.say(seek(talk.find("B").id, SeekTo.SEQUENCE, 5))
    assert not talk.find("B").group.orphans
    assert talk.back("you").redelivered("B") == {5: 1, 6: 1}


def test_what_is_behind_the_old_cursor_is_new() -> None:
    """Seeking back while stalled: 1 and 2 may have been sent, 3 and 4 not."""
    talk = talk_of()
    talk.subscribe("A", durable="d", mif=2)
    talk.publish(4)
    talk.say(seek(talk.find("A").id, SeekTo.FIRST))
    answer = talk.ack("A", 1, 2)
    assert (answer.sent, answer.redelivered("A")) == ({"A": [3, 4]}, {})


def test_messages_published_in_the_same_entry() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d")
    answer = talk.say(*publishes(2), seek(1, SeekTo.END), *publishes(1))
    assert answer.sent == {"A": [3]}


def test_what_keeps_no_place_is_not_moved() -> None:
    talk = talk_of()
    talk.subscribe("A")
    talk.subscribe("B", durable="d")
    assert "only a durable" in talk.say(seek(1, SeekTo.FIRST)).refusal
    assert "no such place" in talk.say(SubscriptionSeek(2, 9, 0, LATE)).refusal
    assert "no subscription 7" in talk.say(seek(7, SeekTo.FIRST)).refusal


# --- pausing -------------------------------------------------------------------------------------


def test_nothing_is_sent_in_a_pause() -> None:
    """Neither new nor again; acks count; afterwards everything goes on."""
    talk = talk_of()
    talk.subscribe("A", wait=10)
    talk.publish(2, at=0)
    pause(talk, "A", at=4)
    assert talk.publish(2).sent == {}
    talk.ack("A", 1)
    assert talk.tick(at=50).sent == {}
    assert not talk.state.marked
    answer = talk.say(unpause(1), at=60)
    assert (answer.sent, answer.redelivered("A")) == ({"A": [3, 4]}, {})


def test_ack_waits_stand_still_in_a_pause() -> None:
    """2 had six seconds left, and has six seconds left; a new leader in between changes nothing."""
    talk = talk_of()
    talk.subscribe("A", wait=10)
    talk.publish(2, at=0)
    pause(talk, "A", at=4)
    pause(talk, "A", at=8)
    talk.term = 2
    talk.say(leader_commands=[NewTerm(2, talk.index)], at=30)
    assert talk.say(unpause(1), at=60).sent == {}
    assert talk.say(unpause(1), at=62).sent == {}
    assert talk.tick(at=65.9).sent == {}
    assert talk.tick(at=66).redelivered("A") == {1: 1, 2: 1}


def test_pauses_add_up() -> None:
    """What was sent between two of them stood still in the second only."""
    talk = talk_of()
    talk.subscribe("A", wait=10)
    talk.publish(1, at=0)
    pause(talk, "A", at=2)
    talk.say(unpause(1), at=12)
    talk.publish(1, at=13)
    pause(talk, "A", at=14)
    talk.say(unpause(1), at=24)
    assert talk.state.next_deadline() == 30 * SECOND
    assert talk.tick(at=30).redelivered("A") == {1: 1}
    assert talk.tick(at=32.9).sent == {}
    assert talk.tick(at=33).redelivered("A") == {2: 1}
    assert talk.tick(at=40).redelivered("A") == {1: 2}


def test_what_nobody_knew_committed_waits_its_whole_ack_wait_after_the_pause() -> None:
    """R10: a take-over in the pause starts them anew, and they stand still from there."""
    talk = talk_of()
    talk.subscribe("A", wait=10)
    talk.publish(1, at=0)
    pause(talk, "A", at=4)
    talk.term = 2
    talk.say(leader_commands=[NewTerm(2, 0)], at=30)
    assert talk.say(unpause(1), at=60).sent == {}
    assert talk.tick(at=69.9).sent == {}
    assert talk.tick(at=70).redelivered("A") == {1: 1}


def test_a_client_that_comes_and_goes_in_a_pause() -> None:
    """Its AckWaits stand still all the same; what it missed while away is sent when the pause is over."""
    talk = talk_of()
    talk.subscribe("A", wait=10)
    talk.publish(1, at=0)
    talk.publish(1, at=3)
    pause(talk, "A", at=4)
    talk.unresponsive("me", at=20)
    assert talk.unresponsive("me", False, at=30).sent == {}
    talk.away("me")
    assert talk.back("me", since=2).sent == {}
    assert talk.say(unpause(1), at=40).redelivered("A") == {2: 1}
    assert talk.tick(at=46).redelivered("A") == {1: 1}


def test_a_paused_durable_stays_paused_when_its_client_returns() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(2)
    pause(talk, "A")
    talk.close("A")
    assert talk.subscribe("B", durable="d").sent == {}
    answer = talk.say(unpause(1))
    assert answer.redelivered("B") == {1: 1, 2: 1}


def test_an_offline_durable_is_paused_and_resumed() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(2)
    talk.close("A")
    pause(talk, "A")
    assert talk.say(unpause(1)).sent == {}
    assert talk.subscribe("A", durable="d").sent == {"A": [1, 2]}


def test_a_queue_group_is_paused_as_a_whole() -> None:
    """Members come and go meanwhile; what one left behind waits for the end of the pause."""
    talk = talk_of()
    talk.subscribe("A", queue="q")
    talk.subscribe("B", "you", queue="q")
    talk.publish(4)
    number = talk.find("B").id
    pause(talk, "A")
    held = talk.unacked("A")
    assert talk.close("A").sent == {}
    assert talk.subscribe("C", queue="q").sent == {}
    assert talk.publish(2).sent == {}
    answer = talk.say(unpause(number))
    again = {**answer.redelivered("B"), **answer.redelivered("C")}
    assert again == dict.fromkeys(held, 1)
    assert sorted(answer.sent["B"] + answer.sent["C"]) == [*held, 5, 6]


def test_a_paused_cursor_is_moved() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(3)
    pause(talk, "A")
    assert talk.say(seek(1, SeekTo.SEQUENCE, 2)).sent == {}
    assert talk.say(unpause(1)).redelivered("A") == {2: 1, 3: 1}


# --- clients, refusals ---------------------------------------------------------------------------


def test_a_client_is_removed() -> None:
    """As if it had closed: durables stay, others end, and its publishes and pings are refused."""
    talk = talk_of()
    talk.subscribe("A")
    talk.subscribe("B", durable="d")
    answer = talk.say(ClientKick("me", LATE))
    assert answer.outcome == OK
    assert "'me' was removed" in answer.effects.warnings[0].text
    assert [known.inbox for known in talk.state.subscriptions.values()] == ["B"]
    assert talk.publish().refusal == "stan: invalid publish request"
    assert talk.say(ClientKick("me", LATE)).refusal == 'there is no client "me"'


@pytest.mark.parametrize(
    "command",
    [
        ChannelDelete("foo", True, 5 * SECOND),
        ChannelPurge("foo", 0, 5 * SECOND),
        SubscriptionRemove(1, True, True, 5 * SECOND),
        SubscriptionSeek(1, 3, 0, 5 * SECOND),
        SubscriptionPause(1, True, 5 * SECOND),
        ClientKick("me", 5 * SECOND),
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_comes_too_late_changes_nothing(command: Command) -> None:
    """R8: the operator has given up, and thinks it has failed."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(2)
    before = dict(talk.records)
    assert "too late" in talk.say(command, at=5.1).refusal
    changed = {key[:1] for key, value in talk.records.items() if before.get(key) != value}
    assert changed <= {b"m", b"n"}


@pytest.mark.parametrize("command", [ChannelDelete("bar", True, LATE), ChannelPurge("bar", 0, LATE)])
def test_there_is_no_such_channel(command: Command) -> None:
    assert talk_of().say(command).refusal == 'there is no channel "bar"'
