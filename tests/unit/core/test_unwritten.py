"""Deliveries that died with a connection: due at once when their client is heard elsewhere (R10, R15)."""

from __future__ import annotations

import pytest
from conversation import Conversation, client_open

from node.core.commands import (
    ANY_EPOCH,
    NOTHING_UNWRITTEN,
    ClientReachable,
    ClientUnreachable,
    NewTerm,
    Unwritten,
)
from node.core.effects import Returned
from node.core.records import all_records, digest, restore
from node.core.state import Lost

WAIT_S = 30


def unwritten(written: int, restarted_after: int = 0, restarted_to: int = 0) -> Unwritten:
    return Unwritten(written, restarted_after, restarted_to)


def talk_of(*client_ids: str, **options: object) -> Conversation:
    talk = Conversation()
    talk.connect("me", *client_ids)
    for client in client_ids:
        talk.subscribe(client.upper(), client, wait=WAIT_S, **options)  # type: ignore[arg-type]
    return talk


def test_what_was_decided_and_not_written_before_the_node_died_comes_at_once() -> None:
    """Issue 10: decided just before the leader noticed that the subscriber's node was dead."""
    talk = talk_of("a")
    talk.publish(at=1.0)
    written = talk.index
    talk.publish(at=1.1)
    answer = talk.back("a", since=1.2, reachable=1.3, at=1.4, unwritten=unwritten(written))
    assert answer.redelivered("A") == {2: 1}


def test_what_was_written_keeps_its_deadline() -> None:
    talk = talk_of("a")
    talk.publish(2, at=1.0)
    assert talk.back("a", since=1.2, reachable=1.3, at=1.4, unwritten=unwritten(talk.index)).sent == {}
    assert talk.tick(at=1.0 + WAIT_S - 0.001).sent == {}
    assert talk.tick(at=1.0 + WAIT_S).redelivered("A") == {1: 1, 2: 1}


def test_what_was_acknowledged_meanwhile_does_not_come() -> None:
    talk = talk_of("a")
    talk.publish(2, at=1.0)
    talk.ack("A", 1, at=1.1)
    assert talk.back("a", since=1.2, at=1.4, unwritten=unwritten(0)).redelivered("A") == {2: 1}


def test_what_the_new_connection_was_sent_does_not_come_again() -> None:
    talk = talk_of("a")
    talk.publish(at=1.0)
    talk.publish(at=1.3)
    assert talk.back("a", since=1.1, reachable=1.2, at=1.4, unwritten=unwritten(0)).redelivered("A") == {1: 1}


def test_what_a_take_over_dated_anew_comes_at_once_too() -> None:
    """R10: the entry was stamped by the leader that died, and committed by the next one.

    The node to which its client moved in between applies an entry that was stamped before the client came,
    so it does not send that message. Its record says the time of the take-over, when the client was heard.
    """
    talk = talk_of("a")
    known = talk.index
    talk.publish(at=1.0)
    talk.term = 2
    talk.say(leader_commands=[NewTerm(2, known)], at=2.0)
    began_term = talk.index
    moved = {"since": 1.1, "reachable": 1.5, "at": 2.2}
    assert talk.back("a", **moved, unwritten=unwritten(NOTHING_UNWRITTEN)).sent == {}  # type: ignore[arg-type]
    answer = talk.back("a", **moved, unwritten=unwritten(known, known, began_term))  # type: ignore[arg-type]
    assert answer.redelivered("A") == {1: 1}


def test_a_member_of_a_queue_group_gets_its_own_again() -> None:
    talk = talk_of("a", "b", queue="q")
    talk.publish(4, at=1.0)
    held = talk.unacked("A")
    answer = talk.back("a", since=1.2, reachable=1.3, at=1.4, unwritten=unwritten(talk.index - 1))
    assert answer.redelivered("A") == dict.fromkeys(held, 1)
    assert "B" not in answer.sent


def test_it_is_remembered_while_the_client_is_away() -> None:
    """The next leader may not know how far the dead connection was served: the state does."""
    talk = talk_of("a")
    talk.publish(at=1.0)
    written = talk.index
    talk.publish(at=1.1)
    talk.away("a", since=1.2, written=written)
    assert isinstance(talk.find("A").missed, Lost)
    answer = talk.back("a", since=9.0, reachable=9.0, at=9.1, unwritten=unwritten(NOTHING_UNWRITTEN))
    assert answer.redelivered("A") == {2: 1}


def test_one_inbox_by_itself() -> None:
    talk = talk_of("a")
    talk.publish(at=1.0)
    written = talk.index
    talk.publish(at=1.1)
    talk.inbox_away("A", since=1.2, written=written)
    answer = talk.inbox_back("A", since=1.5, unwritten=unwritten(NOTHING_UNWRITTEN))
    assert answer.redelivered("A") == {2: 1}


def test_what_is_noted_twice_is_all_noted() -> None:
    """Two connections ended, one after the other, before anything could be sent again."""
    talk = talk_of("a")
    talk.publish(at=1.0)
    talk.publish(at=1.1)
    first = talk.index - 1
    talk.unresponsive("a", at=1.2)  # nothing is sent again to a plain subscription of a silent client
    talk.back("a", since=1.2, reachable=1.2, at=1.3, unwritten=unwritten(first, 3, 4))
    talk.back("a", since=1.4, reachable=1.4, at=1.5, unwritten=unwritten(first - 1))
    lost = talk.find("A").missed
    assert isinstance(lost, Lost)
    assert (lost.written, lost.restarted_after, lost.restarted_to) == (first - 1, 3, 4)
    talk.back("a", since=1.4, reachable=1.4, at=1.6, unwritten=unwritten(first, 2, 3))
    lost = talk.find("A").missed
    assert isinstance(lost, Lost)
    assert (lost.written, lost.restarted_after, lost.restarted_to) == (first - 1, 2, 4)
    assert talk.unresponsive("a", False).redelivered("A") == {1: 1, 2: 1}


@pytest.mark.parametrize("since", [1.0, 50.0])
def test_with_a_finding_of_version_1_it_stays_noted(since: float) -> None:
    """A leader of an earlier entry says only since when: that adds to what is known."""
    talk = talk_of("a")
    talk.publish(at=1.0)
    talk.away("a", since=1.2, written=0)
    assert talk.back("a", since=since).redelivered("A") == {1: 1}


def test_it_survives_a_checkpoint() -> None:
    talk = talk_of("a")
    talk.publish(at=1.0)
    talk.away("a", since=1.2, written=0)
    again = restore(sorted(all_records(talk.state)))
    assert digest(again) == digest(talk.state)
    (subscription,) = (each for each in again.subscriptions.values() if each.inbox == "A")
    assert subscription.missed == talk.find("A").missed
    assert isinstance(subscription.missed, Lost)


def test_below_version_2_nobody_knows_these_commands() -> None:
    """R24: a node of the older release ignores them, so this one must."""
    talk = Conversation(version=1)
    talk.connect("me", "a")
    talk.subscribe("A", "a", wait=WAIT_S)
    talk.publish(at=1.0)
    generation = talk.state.clients["a"].generation
    answer = talk.say(leader_commands=[ClientUnreachable(1, "a", generation, 0, 0)])
    assert answer.effects.warnings
    assert not talk.state.clients["a"].unreachable
    assert talk.say(leader_commands=[ClientReachable(1, "a", generation, 0, 1, 0, 0, 0, "n2", 7)]).sent == {}


def test_a_client_is_where_it_was_registered_until_a_leader_says_otherwise() -> None:
    """R15: so a leader that was started later knows that it has moved."""
    talk = talk_of("a")
    client = talk.state.clients["a"]
    assert client.reachable_at == ("n1", ANY_EPOCH)
    talk.say(client_open("a"))
    talk.back("a", since=1, unwritten=unwritten(0))
    assert client.reachable_at == ("n2", 7)
    talk.say(client_open("a"))
    assert client.reachable_at == ("n2", 7), "its answer was lost, and it asks again: no new client"
    again = restore(sorted(all_records(talk.state)))
    assert again.clients["a"].reachable_at == ("n2", 7)


def test_version_1_does_not_say_where_a_client_is() -> None:
    talk = Conversation(version=1)
    talk.connect("a")
    assert talk.state.clients["a"].reachable_at is None


def test_a_finding_without_a_time_that_is_repeated_makes_nothing_due_again() -> None:
    """R15: a leader under load repeats a finding that it has not seen applied."""
    talk = talk_of("a")
    talk.publish(at=1.0)
    assert talk.back("a", since=0.9, at=1.4, unwritten=unwritten(0)).redelivered("A") == {1: 1}
    assert talk.back("a", since=0.9, at=2.4, unwritten=unwritten(0)).sent == {}
    assert talk.tick(at=1.4 + WAIT_S).redelivered("A") == {1: 2}


def test_the_same_connection_is_found_again_after_the_client_was_unreachable() -> None:
    talk = talk_of("a")
    talk.publish(at=1.0)
    assert talk.back("a", since=0.9, at=1.4, unwritten=unwritten(0)).redelivered("A") == {1: 1}
    talk.away("a", since=1.3, written=0)
    assert talk.back("a", since=1.3, at=2.4, unwritten=unwritten(0)).redelivered("A") == {1: 2}


def test_an_inbox_that_is_subscribed_to_after_its_clients_return_is_still_news() -> None:
    """R15: what was sent to it until then arrived nowhere; the leader must not forget that it moves."""
    talk = talk_of("a")
    client = talk.state.clients["a"]
    answer = talk.back("a", since=0.9, at=1.4, unwritten=unwritten(0))
    assert answer.effects.returned == [Returned(client.heartbeat_inbox, "n2", 7)]
    moved = {"since": 2.0, "reachable": 2.1, "at": 2.2}
    answer = talk.back("a", **moved, unwritten=unwritten(0))  # type: ignore[arg-type]
    assert answer.effects.returned == [Returned(client.heartbeat_inbox, "n2", 7), Returned("A", "n2", 7)]
