"""Subscriptions: what is refused, where they start, what becomes of them when they end."""

from __future__ import annotations

from typing import Any

import pytest
from conversation import SECOND, Answer, Conversation, publishes

from node.core.commands import SessionOpen, SubscriptionClose, SubscriptionReplace, Unsubscribe
from node.core.effects import OK, DurableTaken, SubscriptionOpened
from node.core.entries import Batch, encode_commands
from node.protocol.positions import StartPosition

NEW, LAST, DELTA, SEQ, FIRST = (
    StartPosition.NEW_ONLY,
    StartPosition.LAST_RECEIVED,
    StartPosition.TIME_DELTA_START,
    StartPosition.SEQUENCE_START,
    StartPosition.FIRST,
)


def talk_of(*client_ids: str, **settings: Any) -> Conversation:
    talk = Conversation(**settings)
    talk.connect("me", *client_ids)
    return talk


# --- validation ----------------------------------------------------------------------------------


def test_checks_that_need_the_state_come_in_their_order() -> None:
    """Protocol 5.1, checks 7 to 11: a request that fails several is told the first."""
    talk = talk_of(max_channels=2, max_subscriptions=1)
    talk.subscribe("A", durable="d")
    bad = {"durable": "d:e", "queue": "q"}
    assert talk.subscribe("X", "nobody", channel="new", **bad).refusal == "stan: unknown clientID"
    assert list(talk.state.channels) == ["foo"]  # checks up to 7 create nothing
    assert "alreay exists" in talk.subscribe("X", channel="FOO", **bad).refusal
    colon = "stan: durable name of a durable queue subscriber can't contain the character ':'"
    assert talk.subscribe("X", channel="new", **bad).refusal == colon
    assert list(talk.state.channels) == ["foo", "new"]  # from 9 on the channel is there
    assert talk.subscribe("X", channel="more", **bad).refusal == "too many channels"
    assert talk.subscribe("X", durable="d").outcome == DurableTaken(talk.acks["A"], "A")
    assert talk.subscribe("X").refusal == "too many subscriptions per channel"


def test_a_colon_is_fine_in_any_other_durable() -> None:
    """Protocol 5.1, check 9: only queue and durable together."""
    talk = talk_of()
    assert isinstance(talk.subscribe("A", durable="a:b").outcome, SubscriptionOpened)
    assert isinstance(talk.subscribe("B", queue="a:b").outcome, SubscriptionOpened)


def test_a_subscription_that_comes_too_late_changes_nothing() -> None:
    """R8: no channel, no subscription, for the client has given up."""
    talk = talk_of()
    talk.now = 3
    assert talk.subscribe("A", valid_until=2 * SECOND).refusal == ""
    assert talk.state.channels == {}
    assert isinstance(talk.subscribe("A", valid_until=3 * SECOND).outcome, SubscriptionOpened)


def test_offline_durables_count_and_their_resume_does_not() -> None:
    """LIM-07, max_subs: offline ones are counted, and can be resumed at the limit."""
    talk = talk_of(max_subscriptions=2)
    talk.subscribe("A", durable="d")
    talk.subscribe("B", queue="q", durable="d")
    talk.close("A")
    talk.close("B")
    assert talk.subscribe("C").refusal == "too many subscriptions per channel"
    assert isinstance(talk.subscribe("A", durable="d").outcome, SubscriptionOpened)
    assert isinstance(talk.subscribe("B", queue="q", durable="d").outcome, SubscriptionOpened)
    assert talk.subscribe("C", queue="q", durable="d").refusal == "too many subscriptions per channel"


def test_an_ack_inbox_in_use_is_refused() -> None:
    """SUB-12: they are drawn at random; if an origin draws one twice, nobody's acks get mixed up."""
    talk = talk_of()
    talk.subscribe("A")
    command = talk.subscription("B")._replace(ack_inbox=talk.acks["A"])
    assert talk.say(command).refusal == "stan: invalid subscription request"
    assert talk.state.by_ack_inbox[talk.acks["A"]].inbox == "A"


# --- start positions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"start": NEW}, []),  # POS-01
        ({"start": LAST}, [9]),  # POS-02
        ({"start": FIRST}, [5, 6, 7, 8, 9]),  # POS-03
        ({"start": SEQ, "seq": 7}, [7, 8, 9]),  # POS-04
        ({"start": SEQ, "seq": 2}, [5, 6, 7, 8, 9]),  # POS-05
        ({"start": SEQ, "seq": 99}, []),  # POS-06
        ({"start": SEQ, "seq": 0}, [5, 6, 7, 8, 9]),  # POS-07
        ({"start": DELTA, "delta": 2.5}, [8, 9]),  # POS-08: stored at 8 and 9, now it is 10
        ({"start": DELTA, "delta": 2}, [8, 9]),
        ({"start": DELTA, "delta": 99}, [5, 6, 7, 8, 9]),  # POS-09
        ({"start": DELTA, "delta": 0.5}, []),
        ({"start": DELTA, "delta": 0}, []),
        ({"start": DELTA, "delta": -3}, []),
    ],
)
def test_start_positions(options: dict[str, object], sent: list[int]) -> None:
    """Protocol 5.2: nine messages stored one a second, the first four are gone."""
    talk = talk_of(max_msgs=5)
    for second in range(1, 10):
        talk.publish(at=second)
    talk.now = 10
    assert talk.subscribe("A", **options).sent.get("A", []) == sent
    assert talk.publish().sent == {"A": [10]}


@pytest.mark.parametrize("start", [NEW, LAST, FIRST, SEQ, DELTA])
def test_every_position_on_an_empty_channel(start: int) -> None:
    """POS-10: all succeed, and get message 1 next."""
    talk = talk_of()
    assert talk.subscribe("A", start=start, seq=7, delta=5).sent == {}
    assert talk.find("A").last_sent == 0
    assert talk.publish().sent == {"A": [1]}


@pytest.mark.parametrize("start", [NEW, LAST, FIRST, SEQ, DELTA])
def test_every_position_when_all_has_expired(start: int) -> None:
    """POS-11, S2: only new ones, and the sequence goes on."""
    talk = talk_of(max_age_ns=SECOND)
    talk.publish(3, at=0)
    talk.tick(at=5)
    assert talk.subscribe("A", start=start, seq=2, delta=99).sent == {}
    assert talk.find("A").last_sent == 3
    assert talk.publish().sent == {"A": [4]}


def test_new_only_is_after_the_publishes_before_it_in_its_entry() -> None:
    """R1: exactly those; and time-based positions see them with the entry's timestamp."""
    talk = talk_of()
    answer = talk.say(
        *publishes(2), talk.subscription("A"), *publishes(3), talk.subscription("B"), *publishes()
    )
    assert answer.sent == {"A": [3, 4, 5, 6], "B": [6]}
    answer = talk.say(
        *publishes(), talk.subscription("C", start=DELTA, delta=1), talk.subscription("D", start=DELTA)
    )
    assert answer.sent["C"] == [1, 2, 3, 4, 5, 6, 7]
    assert "D" not in answer.sent


# --- durables ------------------------------------------------------------------------------------


def test_a_resumed_durable_goes_on() -> None:
    """E12 (D46, DUR-01, DUR-02): what is unacked, in order, flagged; then what came meanwhile."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(3)
    talk.ack("A", 1, 2)
    talk.close("A")
    talk.publish(2)
    talk.now = 0.001
    answer = talk.subscribe("B", durable="d", start=FIRST)
    assert answer.sent == {"B": [3, 4, 5]}
    assert answer.redelivered("B") == {3: 1}


def test_a_resume_ignores_max_in_flight_for_what_is_unacked() -> None:
    """E13 (DUR-05, DUR-06): all three come at once though max in flight is 1 now; new ones wait."""
    talk = talk_of()
    talk.subscribe("A", durable="d", mif=10)
    talk.publish(3)
    talk.close("A")
    talk.publish()
    assert talk.subscribe("B", durable="d", mif=1).sent == {"B": [1, 2, 3]}
    assert talk.ack("B", 1, 2).sent == {}
    assert talk.ack("B", 3).sent == {"B": [4]}


def test_a_resume_ignores_the_start_position() -> None:
    """E15 (DUR-04): closed with nothing unacked, 100 published, resumed at 95: gets 1 to 100."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.close("A")
    talk.publish(100)
    answer = talk.subscribe("A", durable="d", start=SEQ, seq=95, mif=1000)
    assert answer.sent == {"A": list(range(1, 101))}


def test_the_new_ack_wait_runs_from_the_resume() -> None:
    """D47: what is still unacked comes again W later, by the new W, its count going on."""
    talk = talk_of()
    talk.subscribe("A", durable="d", wait=60)
    talk.publish(at=0)
    talk.close("A")
    talk.now = 10
    assert talk.subscribe("A", durable="d", wait=2).counts == {("A", 1): 1}
    assert talk.tick(at=11.9).sent == {}
    assert talk.tick(at=12).counts == {("A", 1): 2}


def test_durables_are_told_apart() -> None:
    """DUR-08, DUR-15: by client, channel and name, as a tuple and not as joined text."""
    talk = talk_of("x", "x-foo")
    talk.subscribe("A", "x", durable="foo-d")
    assert isinstance(talk.subscribe("B", "x-foo", durable="d").outcome, SubscriptionOpened)
    assert isinstance(talk.subscribe("C", "x", durable="foo-d", channel="bar").outcome, SubscriptionOpened)


def test_the_second_may_replace_the_first() -> None:
    """DUR-11, replace_durable: it takes over cursor and unacked; the old handle is worth nothing."""
    talk = talk_of(replace_durable=True)
    talk.subscribe("A", durable="d")
    talk.publish(2)
    old = talk.acks["A"]
    assert talk.subscribe("B", durable="d").sent == {"B": [1, 2]}
    assert talk.say(SubscriptionClose("me", "foo", old)).refusal == "stan: invalid subscription"
    assert talk.find("B").online


def test_a_durable_survives_its_client() -> None:
    """DUR-10: client close and heartbeat removal put it offline."""
    talk = talk_of("a")
    talk.subscribe("A", "a", durable="d")
    talk.publish()
    talk.heartbeats_fail("a")
    assert not talk.find("A").online
    talk.connect("a")
    assert talk.subscribe("B", "a", durable="d").sent == {"B": [1]}


def test_unsubscribe_forgets_a_durable() -> None:
    """DUR-09: afterwards it is new, and its start position counts."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(3)
    assert talk.unsubscribe("A").outcome == OK
    assert talk.state.subscriptions == {}
    assert talk.subscribe("A", durable="d", start=LAST).sent == {"A": [3]}


def test_an_offline_durable_can_be_unsubscribed_by_name() -> None:
    """UNS-12: with its name and no inbox."""
    talk = talk_of("you")
    talk.subscribe("A", durable="d")
    talk.close("A")
    assert talk.say(Unsubscribe("you", "foo", "", "d")).refusal == "stan: invalid subscription"
    assert talk.say(Unsubscribe("me", "foo", "", "d")).outcome == OK
    assert talk.state.subscriptions == {}


def test_an_online_durable_is_not_unsubscribed_by_name() -> None:
    """As with the Go server. Anybody knows client IDs and durable names: anybody could have ended it."""
    talk = talk_of("you")
    talk.subscribe("A", durable="d")
    assert talk.say(Unsubscribe("me", "foo", "", "d")).refusal == "stan: invalid subscription"
    assert talk.find("A").online
    talk.close("A")
    assert talk.say(Unsubscribe("me", "foo", "", "d")).outcome == OK


def test_version_1_unsubscribes_an_online_durable_by_name() -> None:
    """R24: so decided the first release, and so decide all nodes while one of them may run it."""
    talk = Conversation(version=1)
    talk.connect("me")
    talk.subscribe("B", durable="d")
    assert talk.say(Unsubscribe("me", "foo", "", "d")).outcome == OK
    assert talk.state.by_ack_inbox == {}


def test_a_durable_is_not_unsubscribed_by_name_when_nobody_waits_for_it() -> None:
    """UNS-12, R8: its client has given up, and may have resumed it since. An inbox can't mean another."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.close("A")
    assert talk.say(Unsubscribe("me", "foo", "", "d", SECOND), at=1.1).refusal == ""
    talk.subscribe("A", durable="d")
    assert talk.say(Unsubscribe("me", "foo", talk.acks["A"], "d", SECOND)).outcome == OK


# --- ends ----------------------------------------------------------------------------------------


def test_errors_of_close_and_unsubscribe() -> None:
    """UNS-02, UNS-03, UNS-04, UNS-07: channel, then subscription, then owner."""
    talk = talk_of("you")
    talk.subscribe("A")
    for command in (SubscriptionClose, lambda *fields: Unsubscribe(*fields, "")):
        assert talk.say(command("me", "bar", "x")).refusal == "stan: unknown channel"
        assert talk.say(command("me", "foo", "x")).refusal == "stan: invalid subscription"
        assert talk.say(command("you", "foo", talk.acks["A"])).refusal == "stan: unknown clientID"
    assert talk.find("A").online
    assert talk.close("A").outcome == OK
    assert talk.close("A").refusal == "stan: invalid subscription"


def test_a_subscription_is_closed_on_its_own_channel_only() -> None:
    """An ack inbox of another channel is no subscription of this one."""
    talk = talk_of()
    talk.subscribe("A")
    talk.subscribe("B", channel="bar")
    assert talk.say(SubscriptionClose("me", "bar", talk.acks["A"])).refusal == "stan: invalid subscription"


def test_close_by_message_inbox() -> None:
    """SUB-14: a client whose subscribe request timed out knows no ack inbox."""
    talk = talk_of("you")
    talk.say(talk.subscription("A"), SubscriptionClose("me", "foo", "A"))
    assert talk.state.subscriptions == {}
    talk.subscribe("A", "you")
    talk.subscribe("A", "me")  # two clients chose alike: each closes its own
    assert talk.say(SubscriptionClose("me", "foo", "A")).outcome == OK
    assert talk.say(SubscriptionClose("me", "foo", "A")).refusal == "stan: unknown clientID"
    assert talk.find("A").client_id == "you"


def test_a_plain_subscription_leaves_nothing() -> None:
    """RDL-15: neither cursor, nor unacked, nor a deadline."""
    talk = talk_of()
    talk.subscribe("A", wait=1)
    talk.publish(2)
    talk.close("A")
    assert talk.state.subscriptions == {}
    assert talk.state.channels["foo"].groups == {}
    assert talk.state.next_deadline() is None


# --- a subscribe whose answer was lost ------------------------------------------------------------


def replaces(talk: Conversation, inbox: str, ack_inbox: str) -> Answer:
    """The origin found that nobody hears the durable with that ack inbox."""
    return talk.say(SubscriptionReplace(*talk.subscription(inbox, durable="d"), replaces=ack_inbox))


def test_the_same_inbox_gets_the_same_answer() -> None:
    """Its answer was lost; it could acknowledge nothing that it was sent, which comes again at once (D46)."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    ack_inbox = talk.acks["A"]
    talk.publish(2)
    again = talk.subscribe("A", durable="d")
    assert again.outcome == SubscriptionOpened(ack_inbox)
    assert again.counts == {("A", 1): 1, ("A", 2): 1}
    assert len(talk.state.subscriptions) == 1


def test_a_durable_that_is_heard_is_a_duplicate() -> None:
    """Whether anybody hears it now is for the node that was asked to say."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    assert talk.subscribe("B", durable="d").outcome == DurableTaken(talk.acks["A"], "A")
    assert [member.inbox for member in talk.state.subscriptions.values()] == ["A"]


def test_exactly_the_durable_that_nobody_hears_is_replaced() -> None:
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.publish(2)
    first = talk.acks["A"]
    answer = replaces(talk, "B", first)
    assert answer.outcome == SubscriptionOpened(talk.acks["B"])
    assert answer.sent == {"B": [1, 2]}
    assert replaces(talk, "C", first).outcome == DurableTaken(talk.acks["B"], "B"), "that one is gone"
    assert talk.close("B").outcome == OK
    assert replaces(talk, "D", "any").outcome == SubscriptionOpened(talk.acks["D"]), "as any other subscribe"


@pytest.mark.parametrize("unreachable", ["client", "inbox"])
def test_an_absent_durable_is_replaced(unreachable: str) -> None:
    """R15: the cluster has agreed that nobody hears it."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    talk.away("me") if unreachable == "client" else talk.inbox_away("A")
    assert talk.subscribe("B", durable="d").outcome == SubscriptionOpened(talk.acks["B"])


def test_an_answer_that_died_with_its_node_is_lost() -> None:
    """The client's library hears the first inbox on its new connection, too; it was never told of it."""
    talk = talk_of()
    (other,) = talk.entry([Batch(None, 0, 0, encode_commands([SessionOpen("n2", b"2")]))], []).sessions
    talk.subscribe("A", durable="d")
    first = encode_commands([talk.subscription("B", durable="d")])
    talk.entry([Batch(other.session, 1, 1, first)], [])
    assert [member.inbox for member in talk.state.subscriptions.values()] == ["B"]


def test_an_answer_that_was_collected_is_not_lost() -> None:
    """R6: the first origin has told so by what it sent since."""
    talk = talk_of()
    (other,) = talk.entry([Batch(None, 0, 0, encode_commands([SessionOpen("n2", b"2")]))], []).sessions
    talk.subscribe("A", durable="d")
    talk.publish()
    first = encode_commands([talk.subscription("B", durable="d")])
    talk.entry([Batch(other.session, 1, 1, first)], [])
    assert [member.inbox for member in talk.state.subscriptions.values()] == ["A"]


@pytest.mark.parametrize("collected", [False, True])
def test_a_new_process_leaves_answers_that_may_be_lost(collected: bool) -> None:
    """Its node was restarted; the session whose outcome waited has ended."""
    talk = talk_of()
    talk.subscribe("A", durable="d")
    if collected:
        talk.publish()
    (again,) = talk.entry([Batch(None, 0, 0, encode_commands([SessionOpen("n1", b"2")]))], []).sessions
    talk.session, talk.serial = again.session, 1
    answer = talk.subscribe("B", durable="d")
    taken = DurableTaken("ack.A.1", "A")
    assert answer.outcome == (taken if collected else SubscriptionOpened(talk.acks["B"]))


def test_version_1_refuses_every_second_subscribe() -> None:
    """R24."""
    talk = talk_of(version=1)
    talk.subscribe("A", durable="d")
    talk.inbox_away("A")
    for inbox in ("A", "B"):
        assert talk.subscribe(inbox, durable="d").refusal == "stan: duplicate durable registration"
