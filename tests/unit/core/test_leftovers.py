"""What comes and goes leaves nothing: no record, no mark, no deadline; however it went."""

from __future__ import annotations

from typing import Any

import pytest
from conversation import LATE, SECOND, Conversation, client_open

from node.core.commands import (
    ChannelDelete,
    ChannelPurge,
    ClientKick,
    SeekTo,
    SubscriptionPause,
    SubscriptionRemove,
    SubscriptionSeek,
    Unsubscribe,
)

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"durable": "d"},
    {"queue": "q"},
    {"queue": "q", "durable": "d"},
)


def come_and_go(talk: Conversation, number: int) -> None:
    """A client with one subscription of each kind, some unacked, some paused; they end in turns otherwise."""
    name, channel = f"c{number}", f"ch{number % 3}"
    talk.connect(name)
    inboxes = [f"{name}.{kind}" for kind in range(len(KINDS))]
    for inbox, kind in zip(inboxes, KINDS, strict=True):
        talk.subscribe(inbox, name, channel=channel, wait=5, **kind)
    talk.publish(4, channel=channel, client=name)
    talk.ack(inboxes[0], 1, 2, channel=channel)
    numbers = [talk.find(inbox).id for inbox in inboxes]
    talk.say(SubscriptionSeek(numbers[1], int(SeekTo.FIRST), 0, LATE))
    talk.say(SubscriptionPause(numbers[2 + number % 2], True, LATE))
    talk.tick(at=talk.now + 6)
    match number % 5:
        case 0:
            for inbox in inboxes:
                talk.say(Unsubscribe(name, channel, talk.acks[inbox], ""))
            talk.leave(name)
        case 1:
            for subscription in numbers:
                talk.say(SubscriptionRemove(subscription, True, True, LATE))
            talk.say(ClientKick(name, LATE))
        case 2:
            talk.away(name)
            talk.say(ClientKick(name, LATE))
        case 3:
            talk.say(client_open(name, b"other", "hb.other"))
            talk.heartbeats_fail(name)
        case _:
            talk.say(ChannelPurge(channel, 0, LATE))
            talk.leave(name)
    talk.say(ChannelDelete(channel, True, LATE))


@pytest.mark.parametrize("checked", [True, False])
def test_what_comes_and_goes_leaves_nothing(checked: bool) -> None:
    """Ten rounds are checked entry by entry; of 400 only what is left in the end."""
    talk = Conversation(max_age_ns=3600 * SECOND)
    talk.checked = checked
    for number in range(10 if checked else 400):
        come_and_go(talk, number)
    state = talk.state
    left = (state.clients, state.by_conn, state.channels, state.channels_by_id, state.by_folded_name)
    assert not any((*left, state.subscriptions, state.by_ack_inbox, state.redelivery_due, state.sendable))
    assert state.next_deadline() is None
    assert state.next_age() is None
    assert not state.sessions["n1"].outcomes
    if checked:
        assert {key[:1] for key in talk.records} == {b"m", b"n", b"x"}
