"""Requests exactly once (R5, R6, R7)."""

from __future__ import annotations

import pytest
from conversation import Conversation, client_open, publishes

from node.core.commands import (
    Command,
    SessionEnd,
    SessionOpen,
)
from node.core.effects import OK, ClientOpened, Effects, Refused, SubscriptionOpened
from node.core.entries import (
    Batch,
    encode_commands,
)


def batch(talk: Conversation, first: int, *commands: Command, waited: int = 1) -> Batch:
    return Batch(talk.session, first, waited, encode_commands(list(commands)))


def stored(effects: Effects) -> int:
    return sum(len(store.bodies) for store in effects.stored)


def opening(node: str, nonce: bytes) -> Batch:
    return Batch(None, 0, 0, encode_commands([SessionOpen(node, nonce)]))


def test_a_batch_sent_twice_is_applied_once() -> None:
    """§3: the leader died, so the origin sends it again; the outcome is told again, nothing else is done."""
    talk = Conversation()
    talk.connect("me")
    sent = batch(talk, 2, *publishes(3))
    first = talk.entry([sent], [])
    again = talk.entry([sent], [])
    assert stored(first) == 3
    assert stored(again) == 0
    assert talk.state.channels["foo"].log.last == 3
    assert again.replies == first.replies


def test_a_batch_that_overlaps_goes_on_where_it_was_left() -> None:
    """§3: serials that were seen are skipped, the others applied."""
    talk = Conversation()
    talk.connect("me")
    talk.entry([batch(talk, 2, *publishes(2))], [])
    effects = talk.entry([batch(talk, 2, *publishes(5))], [])
    assert stored(effects) == 3
    assert (effects.replies[0].first, effects.replies[0].last) == (2, 6)


def test_outcomes_are_kept_until_collected() -> None:
    """R6: a reply survives a snapshot: seen again, the serial tells what it told the first time."""
    talk = Conversation()
    talk.connect("me")
    commands: list[Command] = [
        talk.subscription("A"),
        client_open("me", b"other", "hb.other"),
        *publishes(),
        *publishes(client="nobody"),
    ]
    first = talk.entry([batch(talk, 2, *commands)], [])
    again = talk.entry([batch(talk, 2, *commands)], [])
    assert again.replies == first.replies
    assert again.opened == first.opened
    others = again.replies[0].others
    assert others[2] == SubscriptionOpened(talk.acks["A"])
    assert 4 not in others  # a publish that was stored: Ok, by being in the range
    assert others[5] == Refused("stan: invalid publish request")


def test_collected_outcomes_are_forgotten() -> None:
    """R6: what the origin no longer waits for is not kept."""
    talk = Conversation()
    talk.entry([batch(talk, 1, *publishes(5))], [])  # all refused: no such client
    (session,) = talk.state.sessions.values()
    assert list(session.outcomes) == [1, 2, 3, 4, 5]
    talk.entry([batch(talk, 6, *publishes(1), waited=4)], [])
    assert list(session.outcomes) == [4, 5, 6]
    talk.entry([batch(talk, 7, waited=7)], [])  # a batch may bring nothing but that
    assert session.outcomes == {}


def test_a_gap_is_a_bug() -> None:
    """R7: serials arrive in sequence, or something is badly wrong."""
    talk = Conversation()
    talk.checked = False
    with pytest.raises(AssertionError, match="gap in the session of n1"):
        talk.entry([batch(talk, 3, *publishes())], [])


def test_a_new_process_ends_the_earlier_session() -> None:
    """R5: commands of any other session are skipped."""
    talk = Conversation()
    talk.connect("me")
    (opened,) = talk.entry([opening("n1", b"second life")], []).sessions
    assert opened.nonce == b"second life"
    assert opened.session != talk.session
    effects = talk.entry([batch(talk, 2, *publishes())], [])
    assert stored(effects) == 0
    assert effects.replies == []
    talk.session = opened.session
    assert stored(talk.entry([batch(talk, 1, *publishes())], [])) == 1


def test_asking_twice_for_a_session_keeps_it() -> None:
    """R5: the first SessionOpen seemed lost; commands of its session may be on their way."""
    talk = Conversation()
    (opened,) = talk.entry([opening("n1", b"nonce")], []).sessions
    assert opened.session == talk.session
    talk.connect("me")


def test_each_node_has_its_own_session() -> None:
    """R5: serials of two origins have nothing to do with each other."""
    talk = Conversation()
    talk.connect("me")
    (opened,) = talk.entry([opening("n2", b"x")], []).sessions
    other = Batch(opened.session, 1, 1, encode_commands(publishes(2)))
    effects = talk.entry([other, batch(talk, 2, *publishes(1))], [])
    assert [(replies.node, replies.first, replies.last) for replies in effects.replies] == [
        ("n2", 1, 2),
        ("n1", 2, 2),
    ]
    assert stored(effects) == 3


def test_what_opens_something_is_told_ahead() -> None:
    """R2: replies to ClientOpen and SubscriptionOpen, then deliveries, then the others."""
    talk = Conversation()
    answer = talk.say(client_open("me"), talk.subscription("A"), *publishes())
    ahead = [outcome for replies in answer.effects.opened for outcome in replies.others.values()]
    assert ahead == [ClientOpened("me"), SubscriptionOpened(talk.acks["A"])]
    assert answer.outcomes == [*ahead, OK]
    assert answer.sent == {"A": [1]}


def test_a_node_that_is_no_member_has_no_session() -> None:
    """R5: what it sent is skipped, nothing of it is kept, and if it comes back it has another."""
    talk = Conversation()
    talk.connect("me")
    node, old = next((name, session.id) for name, session in talk.state.sessions.items())
    assert old == talk.session
    talk.say(leader_commands=[SessionEnd(1, node, (old[0], old[1] + 1)), SessionEnd(0, node, old)])
    assert node in talk.state.sessions, "another session, or of a term that is over"
    talk.say(
        leader_commands=[SessionEnd(1, node, old), SessionEnd(1, node, old), SessionEnd(1, "nobody", old)]
    )
    assert talk.state.sessions == {}
    assert stored(talk.entry([batch(talk, 2, *publishes())], [])) == 0
    talk.entry([opening(node, b"new")], [])
    again = talk.state.sessions[node]
    talk.say(leader_commands=[SessionEnd(1, node, old)])
    assert talk.state.sessions == {node: again}


def test_the_end_of_a_session_is_kept() -> None:
    """A checkpoint says so, else a node that restored it would still skip what others apply."""
    talk = Conversation()
    talk.entry([opening("other", b"1")], [])
    assert b"nother" in talk.records
    talk.say(leader_commands=[SessionEnd(1, "other", talk.state.sessions["other"].id)])
    assert b"nother" not in talk.records
