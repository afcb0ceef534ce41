"""A new term: AckWaits run on, but for what nobody can have sent."""

from __future__ import annotations

import pytest
from conversation import Conversation, publishes

from node.core import new_term
from node.core.commands import ColdStart, NewTerm


def test_ack_waits_run_on_over_a_change_of_leader() -> None:
    """§5.2, CLU-05: sent at 0 with W = 30; the leader dies at 20; due at 30, not at 50."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=30)
    talk.publish(at=0)
    known = talk.index
    talk.say(leader_commands=[NewTerm(2, known)], at=20)
    talk.term = 2
    assert talk.tick(at=29.9).sent == {}
    assert talk.tick(at=30).counts == {("A", 1): 1}


def test_sent_means_committed() -> None:
    """R10: entries above what the new leader knew committed may have been seen by nobody: W starts now."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=5)
    talk.publish(at=0)
    known = talk.index
    talk.publish(2, at=1)
    talk.say(leader_commands=[NewTerm(2, known)], at=4)
    talk.term = 2
    assert talk.tick(at=5).sent == {"A": [1]}
    assert talk.tick(at=8.9).sent == {}
    assert talk.tick(at=9).sent == {"A": [2, 3]}


def test_acks_that_waited_are_ahead_of_what_fell_due() -> None:
    """R9, R1: the term's first entry carries the acks of the gap, so nothing they name is redelivered."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=1)
    talk.publish(3, at=0)
    answer = talk.say(talk.acked("A", 1, 3), *publishes(), leader_commands=[NewTerm(2, talk.index)], at=9)
    assert answer.sent == {"A": [2, 4]}


def test_due_messages_come_in_sequence_order_after_an_election() -> None:
    """T3: whatever their deadlines were."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=1)
    talk.publish(3, at=0)
    talk.ack("A", 2, at=0.5)
    talk.tick(at=1)
    talk.publish(2, at=1.5)
    answer = talk.say(*publishes(), leader_commands=[NewTerm(2, talk.index)], at=60)
    assert answer.sent == {"A": [1, 3, 4, 5, 6]}


def test_counts_go_on_over_a_change_of_leader() -> None:
    """D7 Target, CLU-10: the count is part of the state."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=1)
    talk.publish(at=0)
    talk.tick(at=1)
    talk.say(leader_commands=[NewTerm(2, talk.index)], at=1.5)
    talk.term = 2
    assert talk.tick(at=2).counts == {("A", 1): 2}


def test_an_old_terms_commands_are_void() -> None:
    """R16: neither a deposed leader's findings nor its take-over say anything."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("A", "a")
    talk.say(leader_commands=[NewTerm(5, talk.index)])
    talk.away("a")  # still in term 1
    talk.say(leader_commands=[NewTerm(3, 0), ColdStart(3)])
    assert talk.state.term == 5
    assert talk.find("A").reachable


@pytest.mark.parametrize("again", [False, True])
def test_so_many_ack_waits_start_again_in_one_entry(monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """R19: others with the next, by the clock of the first; nothing is sent before all have, in this term or
    another."""
    monkeypatch.setattr(new_term, "RESTARTED_MAX", 6)
    talk = Conversation()
    talk.connect("me", "a")
    for n in range(6):
        talk.subscribe(f"S{n}", "a", wait=5)
    talk.publish(2, at=1)
    assert talk.say(*publishes(), leader_commands=[NewTerm(2, 0)], at=7).sent == {}
    assert talk.state.marked
    talk.term = 2
    if again:
        talk.term = 3
        assert talk.say(leader_commands=[NewTerm(3, talk.index)]).sent == {}
    else:
        assert talk.state.restart is not None
    sent = talk.tick(at=8).sent
    assert sent == {f"S{n}": [3] for n in range(6)}
    assert talk.tick(at=11.9).sent == {}
    assert talk.tick(at=12).sent == {f"S{n}": [1, 2] for n in range(6)}
