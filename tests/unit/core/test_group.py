"""Queue groups: who is next, who gets what is sent again, what becomes of those who leave."""

from __future__ import annotations

from random import Random

import pytest
from conversation import Conversation, publishes

from node.core.commands import ClientClose
from node.protocol.positions import StartPosition


def group_of(
    *inboxes: str, mif: int = 10, wait: float = 30, durable: str = "", **settings: object
) -> Conversation:
    """A queue group ``q``; each member has a client of its own, named like its inbox in lower case."""
    talk = Conversation(**settings)
    talk.connect("me", *(inbox.lower() for inbox in inboxes))
    for inbox in inboxes:
        talk.subscribe(inbox, inbox.lower(), queue="q", mif=mif, wait=wait, durable=durable)
    return talk


# --- new messages --------------------------------------------------------------------------------


def test_equal_members_take_turns() -> None:
    """E2 (D15, QUE-03): without acks, 1→A, 2→B, 3→C, 4→A …; the list rotates with it."""
    talk = group_of("A", "B", "C")
    assert talk.publish().sent == {"A": [1]}
    assert talk.members("A") == ["B", "C", "A"]
    assert talk.publish().sent == {"B": [2]}
    assert talk.members("A") == ["C", "A", "B"]
    assert talk.publish().sent == {"C": [3]}
    assert talk.publish(3).sent == {"A": [4], "B": [5], "C": [6]}
    assert talk.members("A") == ["A", "B", "C"]


def test_fewest_unacked_is_next() -> None:
    """E3 (QUE-05): [A, B, C] with 2, 0, 1 unacked: next is B, and since it isn't the head the list stays."""
    talk = group_of("A", "B", "C")
    talk.publish(6)
    talk.ack("B", 2, 5)
    talk.ack("C", 3)
    assert talk.members("A") == ["A", "B", "C"]
    assert talk.publish().sent == {"B": [7]}
    assert talk.members("A") == ["A", "B", "C"]


def test_a_stalled_member_does_not_stall_the_group() -> None:
    """E4 (D16, QUE-06): A (max in flight 1) holds 1, so 2 to 6 go to B."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", queue="q", mif=1)
    talk.subscribe("B", queue="q", mif=10)
    assert talk.publish().sent == {"A": [1]}
    assert talk.publish(5).sent == {"B": [2, 3, 4, 5, 6]}


def test_auto_acking_members_share_evenly() -> None:
    """E5 (QUE-04): 5 members that ack at once, 2,048 messages in bursts: each gets more than 400."""
    for burst in (1, 3, 64, 256):
        talk = group_of("A", "B", "C", "D", "E", mif=1024)
        talk.checked = False
        got = dict.fromkeys("ABCDE", 0)
        left = 2048
        while left:
            answer = talk.publish(min(burst, left))
            left -= min(burst, left)
            for inbox, seqs in answer.sent.items():
                got[inbox] += len(seqs)
                talk.ack(inbox, *seqs)
        assert min(got.values()) > 400, (burst, got)


def test_all_stalled_then_one_has_room() -> None:
    """QUE-07, QUE-08, D18: at the sum of all max in flight nothing new flows; one ack lets one more go."""
    talk = group_of("A", "B", mif=2)
    assert sum(map(len, talk.publish(9).sent.values())) == 4
    assert talk.ack("B", 2).sent == {"B": [5]}
    assert not talk.state.marked


def test_deliveries_stand_in_the_order_of_sequences() -> None:
    """QUE-04: not member by member; on a connection they share, acks come back evenly then."""
    talk = group_of("A", "B")
    effects = talk.publish(5).effects
    assert [deliver.seqs for deliver in effects.deliveries] == [[1], [2], [3], [4], [5]]
    talk.unresponsive("a")
    effects = talk.publish(3).effects  # neighbours to one member go together
    assert [deliver.seqs for deliver in effects.deliveries] == [[6, 7, 8]]


def test_members_share_evenly_though_acks_come_late() -> None:
    """E5 (QUE-04): at each burst a random part of what is in flight was acked, in the order it was sent."""
    rng = Random(5)
    talk = group_of("A", "B", "C", "D", "E", mif=1024)
    talk.checked = False
    got = dict.fromkeys("ABCDE", 0)
    flying: list[tuple[str, int]] = []
    for _ in range(16):
        acked, flying = flying[: (cut := rng.randint(0, len(flying)))], flying[cut:]
        answer = talk.say(*publishes(128), *(talk.acked(inbox, seq) for inbox, seq in acked))
        for deliver in answer.effects.deliveries:
            inbox = talk.state.subscriptions[deliver.subscription].inbox
            got[inbox] += len(deliver.seqs)
            flying += [(inbox, seq) for seq in deliver.seqs]
    assert min(got.values()) > 400, got


def test_members_share_evenly_though_one_is_heard_first() -> None:
    """E5 (QUE-04): between bursts whole blocks of acks come in, of one member, of two or of none."""
    rng = Random(4)
    talk = group_of("A", "B", "C", "D", "E", mif=1024)
    talk.checked = False
    got = dict.fromkeys("ABCDE", 0)
    for _ in range(16):
        for inbox, seqs in talk.publish(128).sent.items():
            got[inbox] += len(seqs)
        for inbox in rng.sample("ABCDE", rng.randint(0, 2)):
            talk.ack(inbox, *talk.unacked(inbox), at=talk.now + 0.002)
    assert min(got.values()) > 400, got


def test_a_slow_member_gets_less_of_a_burst() -> None:
    """D15: B has held its messages for more than a moment, so it isn't that its acks are on the way."""
    talk = group_of("A", "B", "C", mif=1024)
    talk.publish(90)
    talk.ack("A", *talk.unacked("A"), at=talk.now + 1)
    talk.ack("C", *talk.unacked("C"))
    sent = talk.publish(60).sent
    assert {inbox: len(seqs) for inbox, seqs in sent.items()} == {"A": 30, "C": 30}


@pytest.mark.parametrize(("version", "shares"), [(1, {"A": 60}), (2, {"A": 20, "B": 20, "C": 20})])
def test_members_share_a_burst_evenly_on_a_busy_machine(version: int, shares: dict[str, int]) -> None:
    """E5 (QUE-04): 400 ms lie between two blocks of acks. A had nearly a quarter of stan.py's 2,048."""
    talk = group_of("A", "B", "C", mif=1024, version=version)
    talk.publish(180)
    talk.ack("A", *talk.unacked("A"), at=talk.now + 0.4)
    sent = talk.publish(60).sent
    assert {inbox: len(seqs) for inbox, seqs in sent.items()} == shares


def test_members_that_stood_still_together_share_evenly() -> None:
    """E5 (QUE-04): all hold messages for longer than a moment, and A is merely the first to be heard."""
    talk = group_of("A", "B", "C", mif=1024)
    talk.publish(90)
    talk.publish(90, at=talk.now + 0.6)
    talk.ack("A", *talk.unacked("A")[:30], at=talk.now + 0.6)
    sent = talk.publish(60).sent
    assert {inbox: len(seqs) for inbox, seqs in sent.items()} == {"A": 20, "B": 20, "C": 20}


def test_every_group_and_plain_subscription_gets_each_message() -> None:
    """QUE-02, D14: two groups and a plain subscription, each message once for each."""
    talk = group_of("A", "B")
    talk.subscribe("C", queue="other")
    talk.subscribe("D")
    answer = talk.publish(4)
    assert sorted(answer.sent["A"] + answer.sent["B"]) == [1, 2, 3, 4]
    assert answer.sent["C"] == answer.sent["D"] == [1, 2, 3, 4]


def test_a_joining_member_gets_nothing_old() -> None:
    """D17, QUE-19: no start position, nothing others hold; it takes part from the next message on."""
    talk = group_of("A")
    talk.publish(3)
    assert talk.subscribe("B", queue="q", start=StartPosition.FIRST).sent == {}
    assert talk.publish().sent == {"B": [4]}


def test_a_silent_member_is_passed_over() -> None:
    """D15, QUE-21: who misses heartbeats gets nothing while another can take it."""
    talk = group_of("A", "B")
    talk.unresponsive("a")
    assert talk.publish(4).sent == {"B": [1, 2, 3, 4]}
    talk.unresponsive("a", False)
    assert talk.publish().sent == {"A": [5]}


def test_a_silent_member_is_better_than_none() -> None:
    """D16 Target, QUE-25, table 5.3: [A stalled, B silent]: B takes it as long as it has room."""
    talk = group_of("A", "B", mif=2)
    talk.unresponsive("b")
    assert talk.publish(6).sent == {"A": [1, 2], "B": [3, 4]}
    assert talk.members("A")[0] == "A"


def test_all_silent_and_none_stalled() -> None:
    """Table 5.3, QUE-22: still sent, to the head of the list, up to max in flight."""
    talk = group_of("A", "B", mif=2)
    talk.unresponsive("a")
    talk.unresponsive("b")
    assert talk.publish(5).sent == {"A": [1, 3], "B": [2, 4]}


# --- AckWait -------------------------------------------------------------------------------------


def test_one_message_and_two_members() -> None:
    """Table 5.1 (D5, D27, D28, QUE-09, QUE-11, QUE-12): W(A) = 1 s, W(B) = 3 s, never acked."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", queue="q", wait=1)
    talk.subscribe("B", queue="q", wait=3)
    assert talk.publish(at=0).sent == {"A": [1]}
    assert talk.tick(at=1).counts == {("B", 1): 1}
    assert talk.unacked("A") == []
    assert talk.tick(at=3.9).sent == {}
    assert talk.tick(at=4).counts == {("A", 1): 2}
    assert talk.tick(at=5).counts == {("B", 1): 3}


def test_a_single_member_gets_it_itself() -> None:
    """QUE-10."""
    talk = group_of("A", wait=1)
    talk.publish(at=0)
    assert talk.tick(at=1).counts == {("A", 1): 1}


def test_who_gets_another_members_message_was_sent_it() -> None:
    """D37: its own last sequence rises, the group's cursor stays."""
    talk = group_of("A", "B", mif=5)
    talk.publish(4)  # A: 1 3, B: 2 4
    talk.ack("A", 1, 3)
    assert talk.find("A").last_sent == 3
    assert talk.close("B", "b").sent == {"A": [2, 4]}
    assert (talk.find("A").last_sent, talk.find("A").group.cursor) == (4, 4)


def test_redelivery_goes_on_though_all_are_stalled() -> None:
    """D30, D3: nobody is eligible, so the head of the list gets it, and the list rotates."""
    talk = group_of("A", "B", mif=1, wait=1)
    talk.publish(2, at=0)
    answer = talk.tick(at=1)
    assert sorted(seq for seqs in answer.sent.values() for seq in seqs) == [1, 2]
    assert answer.sent == {"A": [1], "B": [2]}


def test_silence_does_not_stop_a_groups_redelivery() -> None:
    """D29, QUE-22: silent members are only passed over; all silent, the head gets it."""
    talk = group_of("A", "B", wait=1)
    talk.publish(at=0)
    talk.unresponsive("a")
    assert talk.tick(at=1).sent == {"B": [1]}
    talk.unresponsive("b")
    assert sum(map(len, talk.tick(at=2).sent.values())) == 1


def test_redelivery_passes_over_the_stalled_and_the_silent() -> None:
    """D15, D27: with fewest unacked, and yet neither gets it while a third one can."""
    talk = Conversation()
    talk.connect("me", "a")
    talk.subscribe("S", queue="q", mif=1)
    talk.publish(at=0)
    talk.subscribe("C", queue="q", mif=10, wait=60)
    talk.publish(4, at=0)
    talk.subscribe("Q", "a", queue="q", mif=10)
    talk.unresponsive("a")
    assert (talk.unacked("S"), talk.unacked("C"), talk.unacked("Q")) == ([1], [2, 3, 4, 5], [])
    assert talk.tick(at=30).sent == {"C": [1]}


def test_what_a_member_still_holds_keeps_its_deadline() -> None:
    """D20: 1 has moved from A to B; 2 is A's own, and due half a second later."""
    talk = group_of("A", wait=1)
    talk.publish(at=0)
    talk.publish(at=0.5)
    talk.subscribe("B", queue="q", wait=60)
    assert talk.tick(at=1).sent == {"B": [1]}
    assert talk.state.next_deadline() == 1_500_000_000
    assert talk.tick(at=1.5).counts != {}


def test_absent_members_keep_their_place_in_the_list() -> None:
    """D15 with R15: only the one that was chosen, at the head of those that can hear, moves to the end."""
    talk = group_of("A", "B", "X", "C")
    talk.away("x")
    talk.publish()
    assert talk.members("A") == ["B", "X", "C", "A"]
    talk.publish(4)
    assert talk.members("A") == ["X", "C", "A", "B"]


def test_due_messages_of_several_members_go_in_sequence_order() -> None:
    """R1, D27: all that is due in the group, in the order of sequences, whoever held it."""
    talk = group_of("A", "B", wait=1)
    talk.publish(6, at=0)  # A: 1 3 5, B: 2 4 6
    answer = talk.tick(at=1)
    order = [seq for deliver in answer.effects.deliveries for seq in deliver.seqs]
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    assert all(seqs == sorted(seqs) for seqs in answer.sent.values())
    assert set(answer.redelivered("A").values()) | set(answer.redelivered("B").values()) == {1}


def test_the_member_that_lost_a_message_has_room_again() -> None:
    """D28: A's message has moved to B, so A, with max in flight 1, takes a new one at once."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", queue="q", mif=1, wait=1)
    talk.publish(at=0)
    talk.subscribe("B", queue="q", mif=1, wait=60)
    assert talk.publish(2, at=0.5).sent == {"B": [2]}
    talk.ack("B", 2, at=0.6)  # and gets 3
    assert talk.unacked("B") == [3]
    answer = talk.tick(at=1)
    assert sorted(seq for seqs in answer.sent.values() for seq in seqs) == [1]


# --- leaving -------------------------------------------------------------------------------------


def test_a_leaving_members_messages_go_to_the_others_at_once() -> None:
    """E11 (D34, D35 Target, D36, QUE-15, QUE-17): flagged, counted on, in the same entry."""
    talk = group_of("A", "B", "C", wait=60)
    talk.publish(9)  # A: 1 4 7
    talk.ack("B", 2, 5, 8)
    talk.ack("C", 3, 6, 9)
    answer = talk.close("A", "a")
    assert sorted(answer.sent["B"] + answer.sent["C"]) == [1, 4, 7]
    assert answer.redelivered("B") | answer.redelivered("C") == {1: 1, 4: 1, 7: 1}
    assert [abs(len(answer.sent["B"]) - len(answer.sent["C"]))] == [1]
    assert talk.publish(2).sent  # new ones flow on
    assert talk.find("B").group.cursor == 11


def test_redistribution_ignores_max_in_flight() -> None:
    """D34, QUE-18: the one that remains is full, and gets them all the same; new ones wait."""
    talk = group_of("A", "B", mif=2)
    talk.publish(6)
    assert talk.unsubscribe("A", "a").sent == {"B": [1, 3]}
    assert len(talk.unacked("B")) == 4
    assert talk.ack("B", 1, 2).sent == {}
    assert talk.ack("B", 3).sent == {"B": [5]}


def test_redistributed_messages_are_ahead_of_new_ones() -> None:
    """R1 and the command table: in sequence order, ahead of new ones, in the same entry."""
    talk = group_of("A", "B", mif=2)
    talk.publish(4)
    talk.ack("B", 2, 4)
    talk.publish(3)
    assert talk.unacked("B") == [5, 6]
    talk.ack("B", 5, 6)
    answer = talk.close("A", "a")
    assert answer.sent["B"][:2] == [1, 3]


def test_members_that_leave_together_are_dealt_out_in_sequence_order() -> None:
    """D35 Target with R19: more than an entry can send; the lowest go first, whoever left them."""
    talk = group_of("A", "B", mif=1000)
    talk.connect("c")
    for _ in range(2):
        talk.publish(500)
    talk.say(talk.subscription("C", "c", queue="q", mif=1), *(ClientClose(client) for client in "ab"))
    got = talk.unacked("C")
    assert got == list(range(1, 501))
    assert talk.tick().sent == {"C": list(range(501, 1001))}


def test_however_a_member_leaves_its_messages_are_handed_over() -> None:
    """QUE-16, HBT-04: unsubscribe, client close and heartbeat removal alike."""
    for leave in ("unsubscribe", "leave", "heartbeats_fail"):
        talk = group_of("A", "B")
        talk.publish(2)
        answer = {
            "unsubscribe": lambda talk=talk: talk.unsubscribe("A", "a"),
            "leave": lambda talk=talk: talk.leave("a"),
            "heartbeats_fail": lambda talk=talk: talk.heartbeats_fail("a"),
        }[leave]()
        assert answer.sent == {"B": [1]}, leave
        assert answer.counts == {("B", 1): 1}


def test_the_last_member_of_a_plain_group_takes_it_along() -> None:
    """QUE-20: group, cursor and unacked are gone; the next member starts a new group where it wants."""
    talk = group_of("A")
    talk.publish(3)
    talk.close("A", "a")
    assert talk.state.channels["foo"].groups == {}
    assert talk.subscribe("B", queue="q", start=StartPosition.FIRST).sent == {"B": [1, 2, 3]}


# --- durable groups ------------------------------------------------------------------------------


def test_the_last_member_of_a_durable_group_becomes_its_shadow() -> None:
    """D38, D39, DQU-01, DQU-02: the next to join, any client, gets what is unacked, then what is new."""
    talk = group_of("A", durable="d", wait=60)
    talk.publish(3)
    talk.ack("A", 2)
    talk.leave("a")
    assert not talk.find("A").online
    talk.publish(2)
    answer = talk.subscribe("B", queue="q", durable="d", start=StartPosition.NEW_ONLY)
    assert answer.sent == {"B": [1, 3, 4, 5]}
    assert answer.redelivered("B") == {1: 1, 3: 1}
    assert talk.find("B").group.name == "d:q"


def test_unsubscribe_of_the_last_member_ends_a_durable_group() -> None:
    """DQU-04, DQU-05: the last one's unsubscribe removes it; another's only hands over."""
    talk = group_of("A", "B", durable="d")
    talk.publish(2)
    assert talk.unsubscribe("A", "a").sent == {"B": [1]}
    talk.unsubscribe("B", "b")
    assert talk.state.channels["foo"].groups == {}
    assert talk.state.subscriptions == {}


def test_durable_and_plain_groups_of_one_name_are_two() -> None:
    """DQU-03: both get each message; nor does a plain group named like a durable one's display collide."""
    talk = group_of("A", durable="dur")
    talk.subscribe("B", queue="q")
    talk.subscribe("C", queue="dur:q")
    assert talk.publish().sent == {"A": [1], "B": [1], "C": [1]}


def test_both_clients_of_a_durable_group_crash_and_come_back() -> None:
    """E14 (DQU-06): 20 published, max in flight 1, W 60 s; all come promptly, to whoever is there first."""
    talk = Conversation()
    talk.connect("me", "m1", "m2")
    talk.subscribe("A", "m1", queue="q", durable="d", mif=1, wait=60)
    talk.subscribe("B", "m2", queue="q", durable="d", mif=1, wait=60)
    talk.publish(20)
    assert talk.leave("m1").sent == {"B": [1]}  # dealt to the old m2, which is dead
    talk.leave("m2")
    talk.connect("m1", "m2")
    answer = talk.subscribe("C", "m1", queue="q", durable="d", mif=1, wait=60)
    assert answer.sent == {"C": [1, 2]}
    seen = [1, 2]
    held = [("C", 1), ("C", 2)]
    assert talk.subscribe("D", "m2", queue="q", durable="d", mif=1, wait=60).sent == {"D": [3]}
    seen.append(3)
    held.append(("D", 3))
    while held:
        for inbox, seqs in talk.ack(*held.pop(0)).sent.items():
            seen += seqs
            held += [(inbox, seq) for seq in seqs]
    assert seen == list(range(1, 21))
