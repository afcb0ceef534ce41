"""Delivery and redelivery, rule by rule (D…) and example by example (E…)."""

from __future__ import annotations

from typing import Any

import pytest
from conversation import SECOND, Answer, Conversation, publishes

from node.core.commands import Acked, NewTerm, PauseRedelivery
from node.core.records import take_changes
from node.protocol.positions import StartPosition


def talk_of(*client_ids: str, **settings: Any) -> Conversation:
    talk = Conversation(**settings)
    talk.connect(*(client_ids or ("me",)))
    return talk


# --- new messages --------------------------------------------------------------------------------


def test_max_in_flight_holds_new_messages_back() -> None:
    """E1 (D2, D4, D9, D12): as many unacked as max in flight; each ack of one of them makes room for one."""
    talk = talk_of()
    talk.subscribe("A", mif=2)
    assert talk.publish(4, at=0).sent == {"A": [1, 2]}
    assert talk.find("A").stalled
    assert talk.ack("A", 2, at=1).sent == {"A": [3]}
    assert talk.ack("A", 2, 99, at=2).sent == {}
    assert talk.unacked("A") == [1, 3]
    assert talk.ack("A", 1, at=3).sent == {"A": [4]}
    assert talk.unacked("A") == [3, 4]


def test_a_first_send_is_not_flagged() -> None:
    """D7: flag and count belong to a cursor; another subscription's first copy says nothing."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.publish()
    again = talk.tick(at=1)
    assert again.counts == {("A", 1): 1}
    first = talk.subscribe("B", start=StartPosition.FIRST)
    assert first.counts == {("B", 1): 0}


def test_a_stalled_subscription_delays_no_other() -> None:
    """D13, DEL-06, DEL-07: subscriptions of a channel are independent, also those of one client."""
    talk = talk_of()
    talk.subscribe("A", mif=1)
    talk.subscribe("B")
    assert talk.publish(3).sent == {"A": [1], "B": [1, 2, 3]}


def test_messages_dropped_unsent_are_skipped() -> None:
    """D11, DEL-08: below the first available the cursor jumps to it."""
    talk = talk_of(max_msgs=3)
    talk.subscribe("A", mif=1)
    talk.publish()
    assert talk.publish(5).sent == {"A": [4]}
    assert talk.find("A").group.cursor == 4
    assert talk.ack("A", 4).sent == {"A": [5]}


def test_limits_are_ahead_of_dispatch() -> None:
    """R1: what an entry's own publishes push out of the log is not sent."""
    talk = talk_of(max_msgs=3)
    talk.subscribe("A")
    assert talk.publish(5).sent == {"A": [3, 4, 5]}


def test_delivery_goes_on_when_everything_has_expired() -> None:
    """D11: a cursor behind an empty log waits for what comes after it."""
    talk = talk_of(max_age_ns=5_000_000_000)
    talk.subscribe("A", mif=1)
    talk.publish(3, at=0)
    talk.tick(at=6)
    assert talk.ack("A", 1).sent == {}
    assert talk.publish().sent == {"A": [4]}


@pytest.mark.parametrize("queue", ["", "q"])
def test_a_member_whose_messages_have_all_expired_has_room(queue: str) -> None:
    """D24: it was stalled until its AckWait, although nothing of what it held could be sent again."""
    talk = talk_of(max_age_ns=5 * SECOND)
    talk.subscribe("A", mif=2, wait=60, queue=queue)
    talk.publish(2, at=0)
    assert talk.publish(2, at=3).sent == {}
    assert talk.tick(at=6).sent == {"A": [3, 4]}
    assert talk.unacked("A") == [3, 4]


@pytest.mark.parametrize("queue", ["", "q"])
def test_a_member_whose_messages_were_all_dropped_by_a_limit_has_room(queue: str) -> None:
    """D24: also one of several members, also while the others are full."""
    talk = talk_of(max_msgs=3)
    talk.subscribe("A", mif=2, wait=60, queue=queue)
    talk.publish(2)
    assert talk.publish(2).sent == {}, "one of the two is still there"
    assert talk.publish().sent == {"A": [3, 4]}


def test_a_member_is_freed_though_it_acknowledged_a_later_message() -> None:
    """D24: what A holds, 2 from B among it, is gone; 3, which it acknowledged, is still in the log."""
    talk = talk_of(max_age_ns=5 * SECOND)
    talk.subscribe("A", mif=2, wait=60, queue="q")
    talk.subscribe("B", mif=1, wait=60, queue="q")
    assert talk.publish(2, at=0).sent == {"A": [1], "B": [2]}
    assert talk.publish(at=3).sent == {"A": [3]}
    talk.ack("A", 3)
    assert talk.close("B").sent == {"A": [2]}
    assert talk.publish(at=4).sent == {}, "1 and 2 fill it"
    assert talk.tick(at=6).sent == {"A": [4]}
    assert talk.unacked("A") == [4]


def test_a_member_that_holds_a_message_of_the_log_is_not_freed() -> None:
    """D24: 1 and 2 are gone, 3 isn't; the Go server counts all three until AckWait has passed, too."""
    talk = talk_of(max_age_ns=5 * SECOND)
    talk.subscribe("A", mif=3, wait=60)
    talk.publish(2, at=0)
    talk.publish(1, at=3)
    assert talk.publish(1, at=4).sent == {}
    assert talk.tick(at=6).sent == {}
    assert talk.unacked("A") == [1, 2, 3]


def test_a_full_member_is_freed_beside_others() -> None:
    """D24, D16: messages flow while any member has room."""
    talk = talk_of(max_msgs=2)
    talk.subscribe("A", mif=1, wait=60, queue="q")
    talk.subscribe("B", mif=1, wait=60, queue="q")
    talk.publish(2)
    assert talk.publish().sent == {"A": [3]}


def test_version_1_frees_a_member_only_when_its_turn_comes() -> None:
    """R24."""
    talk = talk_of(version=1, max_age_ns=5 * SECOND)
    talk.subscribe("A", mif=2, wait=60)
    talk.publish(2, at=0)
    talk.publish(2, at=3)
    assert talk.tick(at=6).sent == {}
    assert talk.tick(at=7).sent == {}


def test_nothing_is_sent_offline() -> None:
    """D1, DUR-12: an offline durable gets nothing."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.close("A")
    assert talk.publish(3).sent == {}


# --- what is sent again ---------------------------------------------------------------------------


def test_due_messages_are_ahead_of_new_ones() -> None:
    """R1, T3: in one entry, first what is due in sequence order, then what is new."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    talk.publish(at=0.2)
    answer = talk.publish(2, at=1.5)
    assert answer.sent == {"A": [1, 2, 3, 4]}
    assert answer.redelivered("A") == {1: 1, 2: 1}


def test_redelivery_counts_wrap_to_one() -> None:
    """D7: after 2³²−1 the count is 1 again, never 0."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    member = talk.find("A")
    member.unacked[1] = member.unacked[1]._replace(deliveries=(1 << 32) - 1)
    talk.state.dirty.unacked[member.id] = None
    talk.records.update(dict(_changes(talk)))
    assert talk.tick(at=1).counts == {("A", 1): (1 << 32) - 1}
    assert talk.tick(at=2).counts == {("A", 1): 1}


def _changes(talk: Conversation) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in take_changes(talk.state) if value is not None]


# --- bounds --------------------------------------------------------------------------------------


def test_an_entry_sends_a_subscription_so_much_and_no_more() -> None:
    """R19: 500 a subscription; the rest is marked, and follows with the next entries."""
    talk = talk_of()
    talk.publish(1200)
    assert talk.subscribe("A", mif=5000, start=StartPosition.FIRST).sent == {"A": list(range(1, 501))}
    assert talk.state.marked
    assert talk.tick().sent == {"A": list(range(501, 1001))}
    assert talk.tick().sent == {"A": list(range(1001, 1201))}
    assert not talk.state.marked


def test_an_entry_sends_so_much_altogether_and_everyone_has_a_turn() -> None:
    """R19: 2,000 an entry; who is left out is first the next time."""
    talk = talk_of()
    talk.publish(600)
    talk.say(*(talk.subscription(f"S{n}", mif=5000, start=StartPosition.FIRST) for n in range(6)))
    told: dict[str, list[int]] = {f"S{n}": list(range(1, 501)) for n in range(4)}
    for _ in range(2):
        assert talk.state.marked
        for inbox, seqs in talk.tick().sent.items():
            told.setdefault(inbox, []).extend(seqs)
    assert told == {f"S{n}": list(range(1, 601)) for n in range(6)}
    assert not talk.state.marked


def test_redeliveries_within_the_bound_stay_ahead_of_new_messages() -> None:
    """R19, DUR-14: a resumed durable gets all it has not acked before anything new, however much."""
    talk = talk_of()
    talk.subscribe("A", durable="d", mif=5000)
    for _ in range(3):
        talk.publish(400)
    talk.tick()
    talk.close("A")
    talk.publish(2)
    got = talk.subscribe("B", durable="d", mif=5000).sent["B"]
    assert got == list(range(1, 501))
    while talk.state.marked:
        got += talk.publish().sent["B"]
    assert got[:1200] == list(range(1, 1201))
    assert got == sorted(got)
    assert len(got) == talk.state.channels["foo"].log.last


def test_a_dead_end_leaves_no_mark() -> None:
    """R19: a group that can't go on is not marked, or the leader would tick for ever."""
    talk = talk_of()
    talk.subscribe("A", mif=1, wait=1)
    talk.publish(5, at=0)
    assert not talk.state.marked
    talk.away("me")
    talk.tick(at=2)
    assert not talk.state.marked
    assert talk.state.next_deadline() is None


def test_one_entry_touches_many_channels_in_order() -> None:
    """R1: new messages are dispatched once a channel touched, in the order of first touch."""
    talk = talk_of()
    for channel in ("b", "a", "c"):
        talk.subscribe(channel, channel=channel)
    answer = talk.say(
        *publishes(channel="c"), *publishes(channel="a"), *publishes(channel="c"), *publishes(channel="b")
    )
    assert list(answer.sent.items()) == [("c", [1, 2]), ("a", [1]), ("b", [1])]
    assert [store.name for store in answer.effects.stored] == ["c", "a", "b"]


# --- while acknowledgements are still to come (R9) -----------------------------------------------


def paused(talk: Conversation, paused: bool = True) -> Answer:
    return talk.say(leader_commands=[PauseRedelivery(talk.term, paused)])


def test_nothing_is_sent_again_while_redelivery_is_paused() -> None:
    """R9: neither what is due by time, nor what a member left behind, nor what a client has missed."""
    talk = talk_of("me", "you")
    talk.subscribe("A", wait=1, queue="q")
    talk.publish(2, at=0)
    paused(talk)
    talk.subscribe("B", "you", queue="q")
    assert talk.tick(at=2).sent == {}
    assert talk.close("A").sent == {}
    assert talk.back("you", since=0).sent == {}
    acked = talk.say(Acked("foo", talk.acks["B"], (1,)))
    assert acked.sent == {}
    assert paused(talk, False).sent == {"B": [2]}


def test_new_messages_go_on_while_redelivery_is_paused() -> None:
    """R9: but not past what is due on the same cursor, which goes first when the pause is over (T3)."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.subscribe("B", wait=30)
    talk.publish(at=0)
    paused(talk)
    assert talk.publish(at=2).sent == {"B": [2]}
    assert paused(talk, False).sent == {"A": [1, 2]}


def test_a_take_over_ends_the_pause() -> None:
    """The next leader says for itself what it has to propose."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.publish(at=0)
    paused(talk)
    assert talk.tick(at=2).sent == {}
    talk.term += 1
    assert talk.say(leader_commands=[NewTerm(talk.term, talk.index)]).sent == {"A": [1]}


def test_a_late_pause_is_ignored() -> None:
    """R16: of a leader whose term is over."""
    talk = talk_of()
    talk.term += 1
    talk.say(leader_commands=[NewTerm(talk.term, talk.index), PauseRedelivery(talk.term - 1, True)])
    assert not talk.state.redelivery_paused
