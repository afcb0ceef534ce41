"""Absent, silent, taken over, cold: what is sent to whom while things are broken."""

from __future__ import annotations

from conversation import EPOCH_NS, LATE, SECOND, Conversation, publishes

from node.core.commands import (
    ChannelPurge,
    ClientAway,
    ClientBack,
    ClientUnresponsive,
    ColdStart,
    NewTerm,
    SubscriptionAway,
    SubscriptionBack,
)
from node.core.effects import Returned
from node.core.entries import (
    Batch,
    Entry,
    encode_commands,
    encode_entry,
    encode_leader_command,
)
from node.protocol.positions import StartPosition


def talk_of(*client_ids: str, **settings: object) -> Conversation:
    talk = Conversation(**settings)
    talk.connect("me", *client_ids)
    return talk


def pair(wait: float = 30, **options: object) -> Conversation:
    """A queue group of A (client a) and B (client b)."""
    talk = talk_of("a", "b")
    talk.subscribe("A", "a", queue="q", wait=wait, **options)
    talk.subscribe("B", "b", queue="q", wait=wait, **options)
    return talk


# --- absent --------------------------------------------------------------------------------------


def test_nothing_is_sent_to_an_absent_client() -> None:
    """R15, T5: no new message, no redelivery; when it is back, what is overdue first, then the new."""
    talk = talk_of("a")
    talk.subscribe("A", "a", wait=1)
    talk.publish(2, at=0)
    talk.away("a", since=0.5)
    assert talk.publish(2, at=1.5).sent == {}
    assert talk.tick(at=5).sent == {}
    answer = talk.back("a", since=5)
    assert answer.sent == {"A": [1, 2, 3, 4]}
    assert answer.redelivered("A") == {1: 1, 2: 1}


def test_what_was_sent_while_the_client_was_gone_is_due_when_it_is_back() -> None:
    """R15: first sent after gone_since: at once, flagged. What it had before waits for its AckWait."""
    talk = talk_of("a")
    talk.subscribe("A", "a", wait=30)
    talk.publish(at=1)
    talk.publish(at=3)
    answer = talk.back("a", since=2, at=4)
    assert answer.counts == {("A", 2): 1}
    assert talk.tick(at=31).sent == {"A": [1]}
    assert talk.tick(at=34).sent == {"A": [2]}


def test_what_reached_the_new_connection_is_not_given_twice() -> None:
    """R15: between the moment its inboxes were heard again and the command that says so."""
    talk = talk_of("me")
    talk.subscribe("A")
    talk.publish(1, at=1)
    talk.publish(1, at=2)
    talk.publish(1, at=3)
    talk.publish(1, at=3.2)
    assert talk.back("me", since=2, reachable=3, at=3.3).redelivered("A") == {2: 1}
    assert talk.state.next_deadline() == 31 * SECOND, "AckWait goes on for all the others"
    assert talk.tick(at=31).redelivered("A") == {1: 1}


def test_every_node_is_told_whose_return_was_acted_on() -> None:
    """R15: else the next leader acts on it again, and AckWaits end early."""
    talk = talk_of("a", "b")
    talk.subscribe("A", "a")
    talk.subscribe("B", "b")
    client = talk.state.clients["a"]
    assert talk.back("a", since=2).effects.returned == [Returned(client.heartbeat_inbox), Returned("A")]
    talk.inbox_away("B", since=3)
    assert talk.inbox_back("B", since=3).effects.returned == [Returned("B")]


def test_what_was_sent_at_the_very_moment_counts_as_sent_while_gone() -> None:
    """R15: nobody can tell whether it arrived."""
    talk = talk_of("a")
    talk.subscribe("A", "a")
    talk.publish(at=2)
    assert talk.back("a", since=2).sent == {"A": [1]}


def test_the_earlier_of_two_departures_counts() -> None:
    """R15: gone since 1 by the finding that took it away, since 3 by the one that brings it back: 1."""
    talk = talk_of("a")
    talk.subscribe("A", "a")
    talk.publish(at=2)
    talk.now = 4
    talk.away("a", since=1)
    assert talk.back("a", since=3).sent == {"A": [1]}


def test_the_earlier_of_two_departures_of_an_inbox_counts() -> None:
    """R15: the same of a subscription's own inbox."""
    talk = talk_of("a")
    talk.subscribe("A", "a")
    talk.publish(at=2)
    talk.now = 4
    talk.inbox_away("A", since=1)
    assert talk.inbox_back("A", since=3).sent == {"A": [1]}


def test_an_absent_subscription_waits_though_its_client_is_heard() -> None:
    """R15: a subscription's own inbox counts too."""
    talk = talk_of("a")
    talk.subscribe("A", "a")
    talk.subscribe("B", "a")
    talk.inbox_away("A")
    assert talk.publish(2).sent == {"B": [1, 2]}
    assert talk.inbox_back("A").sent == {"A": [1, 2]}


def test_an_absent_members_messages_go_to_the_others() -> None:
    """§5.4, R15: away after the grace, so in the same entry B gets them, in order, counted on."""
    talk = pair()
    talk.publish(5)  # A: 1 3 5
    answer = talk.away("a")
    assert answer.sent == {"B": [1, 3, 5]}
    assert set(answer.counts.values()) == {1}
    assert talk.publish(2).sent == {"B": [6, 7]}


def test_if_all_are_absent_their_messages_wait() -> None:
    """R15: nobody to give them to; whoever is back first gets all."""
    talk = pair()
    talk.publish(4)
    talk.away("a")  # 1 and 3 move to B
    assert talk.away("b").sent == {}
    assert talk.publish(2).sent == {}
    assert not talk.state.marked
    answer = talk.back("a", since=99)
    assert answer.sent == {"A": [1, 2, 3, 4, 5, 6]}
    assert answer.redelivered("A") == {1: 2, 2: 1, 3: 2, 4: 1}
    assert talk.back("b", since=99).sent == {}


def test_a_member_leaves_while_all_others_are_absent() -> None:
    """R15, D36: what it leaves behind belongs to nobody, is not lost, and goes to the first who is back."""
    talk = pair()
    talk.publish(2)
    talk.away("b")
    talk.leave("a")
    assert talk.unacked("B") == []
    assert list(talk.find("B").group.orphans) == [1, 2]
    answer = talk.back("b", since=99)
    assert answer.sent == {"B": [1, 2]}
    assert answer.redelivered("B") == {1: 1, 2: 2}


def test_orphans_stay_when_the_last_member_leaves_too() -> None:
    """D38 with R15: the durable group's next member inherits what was left behind as well."""
    talk = pair(durable="d")
    talk.publish(2)
    talk.away("b")
    talk.leave("a")
    talk.leave("b")
    assert talk.subscribe("C", queue="q", durable="d").sent == {"C": [1, 2]}


def test_a_new_member_takes_what_the_absent_hold() -> None:
    """R15: a joining member is the only one that can hear, so it takes their messages over."""
    talk = pair()
    talk.publish(2)
    talk.away("a")
    talk.away("b")
    assert talk.subscribe("C", queue="q").sent == {"C": [1, 2]}


def test_a_member_that_is_back_gets_its_own_messages() -> None:
    """R15: what went into its dead connection goes to itself, not to the one with the fewest unacked."""
    talk = pair()
    talk.publish(4, at=2)
    answer = talk.back("a", since=1)
    assert answer.sent == {"A": [1, 3]}


def test_what_it_got_again_goes_by_the_rule_the_next_time() -> None:
    """D27: only what was lost with the connection is its own; when AckWait ends, D15 chooses as ever."""
    talk = pair(wait=5)
    talk.publish(at=2)
    assert talk.back("a", since=1, at=3).sent == {"A": [1]}
    assert talk.tick(at=8).sent == {"B": [1]}


def test_a_resumed_subscription_is_not_absent() -> None:
    """R15: its new inbox has nothing to do with the old one."""
    talk = talk_of("a")
    talk.subscribe("A", "a", durable="d")
    talk.inbox_away("A")
    talk.publish()
    talk.close("A", "a")
    assert talk.subscribe("B", "a", durable="d").sent == {"B": [1]}


def test_findings_about_another_generation_are_ignored() -> None:
    """R16: the client was replaced, the subscription resumed; the finding meant the one before."""
    talk = talk_of("a")
    talk.subscribe("A", "a", durable="d")
    client, subscription = talk.state.clients["a"], talk.find("A")
    old, older = subscription.generation, client.generation
    talk.leave("a")
    talk.connect("a")
    talk.say(leader_commands=[SubscriptionAway(1, subscription.id, old, 0)])  # offline: nothing to find
    talk.subscribe("B", "a", durable="d")
    stale = [
        ClientAway(1, "a", older, 0),
        ClientBack(1, "a", older, 0, 1),
        ClientUnresponsive(1, "a", older, True),
        SubscriptionAway(1, subscription.id, old, 0),
        SubscriptionBack(1, subscription.id, old, 0, 1),
        ClientAway(1, "unknown", older, 0),
        SubscriptionAway(1, 999, old, 0),
    ]
    assert talk.say(leader_commands=stale).sent == {}
    assert talk.find("B").reachable
    assert not talk.state.clients["a"].unresponsive


# --- silent --------------------------------------------------------------------------------------


def test_a_silent_client_gets_new_messages_but_no_redelivery() -> None:
    """D25, RDL-11, table 6: plain subscription; overdue ones come as soon as it answers again."""
    talk = talk_of("a")
    talk.subscribe("A", "a", wait=1, mif=3)
    talk.publish(2, at=0)
    talk.unresponsive("a", at=0.5)
    assert talk.publish(2, at=1.5).sent == {"A": [3]}
    assert talk.tick(at=4).sent == {}
    assert talk.state.next_deadline() is None
    assert talk.unresponsive("a", False).sent == {"A": [1, 2, 3]}


def test_saying_the_same_twice_changes_nothing() -> None:
    """R15: a leader's findings are changes; a repeated finding has no effect."""
    talk = talk_of("a")
    talk.subscribe("A", "a")
    talk.unresponsive("a")
    talk.unresponsive("a")
    talk.unresponsive("a", False)
    talk.away("a", since=0)
    talk.now = 5
    talk.away("a", since=4)
    assert talk.state.clients["a"].gone_since_ns == 0


def test_opening_a_subscription_ends_silence() -> None:
    """D46: a client that asks for something is alive; a durable it resumes gets its unacked at once."""
    talk = talk_of("a")
    talk.subscribe("A", "a", durable="d")
    talk.publish(2)
    talk.close("A", "a")
    talk.unresponsive("a")
    assert talk.subscribe("B", "a", durable="d").sent == {"B": [1, 2]}


# --- cold start ----------------------------------------------------------------------------------


def test_after_a_cold_start_everyone_waits_until_seen() -> None:
    """R14, §5.3, RST-05: all unacked ones are due, in sequence order, before new ones, once it is back."""
    talk = talk_of("a", "b")
    talk.subscribe("A", "a", wait=60)
    talk.subscribe("B", "b", wait=60)
    talk.publish(3)
    talk.ack("A", 2)
    talk.say(leader_commands=[NewTerm(2, talk.index), ColdStart(2)], at=1)
    talk.term = 2
    assert talk.publish(2).sent == {}
    assert not talk.state.marked
    answer = talk.back("a", since=1)
    assert answer.sent == {"A": [1, 3, 4, 5]}
    assert answer.redelivered("A") == {1: 1, 3: 1}
    assert talk.back("b", since=1).sent == {"B": [1, 2, 3, 4, 5]}


def test_after_a_cold_start_queue_messages_go_to_who_held_them() -> None:
    """R14, RST-08, D41: no reassignment while members return."""
    talk = pair()
    talk.publish(4)  # A: 1 3, B: 2 4
    talk.say(leader_commands=[ColdStart(1)], at=1)
    assert talk.back("a", since=1).sent == {"A": [1, 3]}
    assert talk.tick(at=3.9).sent == {}
    assert talk.back("b", since=1).sent == {"B": [2, 4]}
    assert talk.state.next_deadline() is not None


def test_who_is_not_back_within_the_grace_loses_its_queue_messages() -> None:
    """R14: still absent member_grace after ColdStart, its messages go to the others."""
    talk = pair()
    talk.publish(4)
    talk.say(leader_commands=[ColdStart(1)], at=1)
    talk.back("a", since=1)
    assert talk.state.next_deadline() == 4 * SECOND
    assert talk.tick(at=4).sent == {"A": [2, 4]}


def test_a_client_that_is_back_waits_ten_seconds_for_its_inbox_at_most() -> None:
    """R14: its subscription's own inbox was never reported; after 10 s it is sent to all the same."""
    talk = talk_of("a", "b")
    talk.subscribe("A", "a", wait=60)
    talk.subscribe("B", "b", wait=60)
    talk.publish(2)
    talk.say(leader_commands=[ColdStart(1)], at=1)
    client = talk.state.clients["a"]
    assert talk.say(leader_commands=[ClientBack(1, "a", client.generation, SECOND, SECOND)]).sent == {}
    talk.tick(at=4)
    assert talk.state.next_deadline() == 11 * SECOND
    assert talk.tick(at=11).sent == {"A": [1, 2]}  # B's client is still absent
    assert talk.tick(at=70.9).sent == {}
    assert talk.tick(at=71).sent == {"A": [1, 2]}
    talk.now = 72
    client = talk.state.clients["b"]
    assert talk.say(leader_commands=[ClientBack(1, "b", client.generation, SECOND, SECOND)]).sent == {}
    assert talk.inbox_back("B").sent == {"B": [1, 2]}, "the ten seconds were for those that were back"


def test_an_inbox_lost_after_the_cold_start_stays_absent() -> None:
    """R14, R15: the ten seconds end the wait of those that were never seen, not of one seen to go."""
    talk = talk_of("a")
    talk.subscribe("A", "a", wait=60)
    talk.say(leader_commands=[ColdStart(1)], at=1)
    talk.back("a", since=1)
    talk.now = 5
    talk.inbox_away("A")
    talk.publish()
    assert talk.tick(at=12).sent == {}
    assert talk.inbox_back("A").sent == {"A": [1]}


def test_nobody_is_silent_after_a_cold_start() -> None:
    """R14: a new leader's heartbeats start from nothing missed."""
    talk = talk_of("a")
    talk.subscribe("A", "a", wait=60)
    talk.publish()
    talk.unresponsive("a")
    talk.say(leader_commands=[ColdStart(1)], at=1)
    assert talk.back("a", since=1).sent == {"A": [1]}


def test_offline_durables_get_nothing_on_a_cold_start() -> None:
    """D44: until they are resumed, as ever."""
    talk = talk_of("a")
    talk.subscribe("A", "a", durable="d")
    talk.publish(2)
    talk.close("A", "a")
    talk.say(leader_commands=[ColdStart(1)], at=1)
    assert talk.tick(at=20).sent == {}
    talk.back("a", since=1)
    assert talk.subscribe("B", "a", durable="d").sent == {"B": [1, 2]}


def test_a_durable_closed_before_it_was_seen_again_is_resumed_as_ever() -> None:
    """R14, D46: its client came back and closed it; nothing of the cold start clings to it."""
    talk = talk_of("a")
    talk.subscribe("A", "a", durable="d")
    talk.publish()
    talk.say(leader_commands=[ColdStart(1)], at=1)
    talk.close("A", "a")
    talk.back("a", since=1)
    assert talk.subscribe("B", "a", durable="d").sent == {"B": [1]}


def test_a_message_gone_from_the_log_is_dropped_in_the_first_pass() -> None:
    """D43: it expired while all were down."""
    talk = talk_of("a", max_age_ns=10 * SECOND)
    talk.subscribe("A", "a")
    talk.publish(at=0)
    talk.publish(at=8)
    talk.say(leader_commands=[ColdStart(1)], at=12)
    assert talk.back("a", since=12).sent == {"A": [2]}
    assert talk.unacked("A") == [2]


def test_a_new_leader_resumes_where_the_machine_stood() -> None:
    """T2, T6: two leaders' entries, one log: what the first sent is not sent again by the second."""
    talk = talk_of("a")
    talk.subscribe("A", "a", start=StartPosition.FIRST)
    assert talk.publish(2, at=0).sent == {"A": [1, 2]}
    commands = encode_commands(list(publishes()))
    talk.index += 1
    first = talk.serial
    talk.serial += 1
    entry = Entry(
        1,
        SECOND,
        EPOCH_NS + SECOND,
        [encode_leader_command(NewTerm(2, talk.index - 1))],
        [Batch(talk.session, first, first, commands)],
    )
    effects = talk.apply(encode_entry(entry))
    assert [list(deliver.seqs) for deliver in effects.deliveries] == [[3]]


def test_nothing_due_is_due_nowhere() -> None:
    """A cold start makes all due, to its holder itself. A purge takes it all: then nothing is, to nobody."""
    talk = pair()
    talk.publish(4)
    talk.say(leader_commands=[ColdStart(1)], at=5)
    talk.say(ChannelPurge("foo", 0, LATE))
    assert talk.back("a").sent == {}
    assert not talk.find("A").due_here
