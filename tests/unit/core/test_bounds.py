"""An entry's work is bounded, however much is unacked (R19). Looks at records are counted, not time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conversation import LATE, SECOND, Answer, Conversation, publishes

from node.core import dispatch, due, new_term, presence, purging
from node.core.commands import ChannelPurge, ClientBack, ColdStart, NewTerm, SubscriptionPause
from node.core.state import Record, Subscription

UNACKED = 60_000
LOOKS_MAX = 2 * due.ORDERED_MAX + dispatch.ENTRY_MESSAGES_MAX
"""What one entry may look at of one subscription."""


class Counted(dict[int, Record]):
    """Counts the records that somebody iterates over."""

    looks = 0

    def _counted(self, found: Iterator[Any]) -> Iterator[Any]:
        for one in found:
            self.looks += 1
            yield one

    def __iter__(self) -> Iterator[int]:
        return self._counted(super().__iter__())

    def __reversed__(self) -> Iterator[int]:
        return self._counted(super().__reversed__())

    def keys(self) -> Any:
        return self._counted(iter(super().keys()))

    def values(self) -> Any:
        return self._counted(iter(super().values()))

    def items(self) -> Any:
        return self._counted(iter(super().items()))


def counted(subscription: Subscription) -> Counted:
    found = subscription.unacked = Counted(subscription.unacked)
    return found


def crowded(*, wait: float = 30, **options: Any) -> Conversation:
    """``A`` holds 60,000 unacked messages."""
    talk = Conversation(max_msgs=0, max_bytes=0)
    talk.checked = False
    talk.connect("me", "you")
    talk.subscribe("A", mif=1_000_000, wait=wait, **options)
    for _ in range(UNACKED // 2000):
        talk.say(*publishes(2000))
    while talk.state.marked:
        talk.tick()
    assert len(talk.find("A").unacked) == UNACKED
    return talk


def drain(talk: Conversation, first: Callable[[], Answer], inbox: str = "A") -> list[int]:
    """What comes of an entry and of the ticks after it; each within its bounds."""
    held = counted(talk.find("A"))
    got: list[int] = []
    answer = first()
    while True:
        sent = answer.sent.get(inbox, [])
        assert held.looks <= LOOKS_MAX, held.looks
        assert len(sent) <= 2 * dispatch.GROUP_MESSAGES_MAX, "due ones, then new ones"
        got += sent
        if not talk.state.marked:
            return got
        held.looks = 0
        answer = talk.tick()


def test_what_falls_due_all_at_once() -> None:
    """Half a million took 55 ms, and more than ten in each entry after that."""
    talk = crowded()
    got = drain(talk, lambda: talk.tick(at=31))
    assert got == list(range(1, UNACKED + 1))


def test_a_cold_start() -> None:
    talk = crowded()
    held = counted(talk.find("A"))
    talk.say(leader_commands=[NewTerm(2, 1 << 40), ColdStart(2)], at=5)
    talk.term = 2
    assert held.looks <= LOOKS_MAX
    got = drain(talk, lambda: talk.back("me", at=6))
    assert got == list(range(1, UNACKED + 1))


def test_a_durable_that_is_resumed() -> None:
    talk = crowded(durable="d")
    held = counted(talk.find("A"))
    talk.close("A")
    assert held.looks <= LOOKS_MAX
    again = talk.subscription("A", durable="d", mif=1_000_000)
    got = drain(talk, lambda: talk.say(again))
    assert got == list(range(1, UNACKED + 1))


def test_a_member_that_nobody_hears() -> None:
    """What it holds goes to the other, in order."""
    talk = crowded(queue="q")
    talk.subscribe("B", "you", queue="q", mif=1)
    got = drain(talk, lambda: talk.away("me"), "B")
    assert got == list(range(1, UNACKED + 1))


def test_a_member_that_leaves() -> None:
    talk = crowded(queue="q")
    talk.subscribe("B", "you", queue="q", mif=1)
    group = talk.find("A").group
    talk.close("A")
    group.orphans = held = Counted(group.orphans)
    got = list(talk.find("B").unacked)
    while talk.state.marked:
        held.looks = 0
        got += talk.tick().sent["B"]
        assert held.looks <= LOOKS_MAX
    assert got == list(range(1, UNACKED + 1))


def test_members_that_leave_a_durable_group_one_after_the_other() -> None:
    """The last one too. Putting what each had held into one order took 370 ms with half a million."""
    talk = crowded(queue="q", durable="d")
    group = talk.find("A").group
    talk.subscribe("B", "you", queue="q", durable="d")
    talk.say(*publishes(10))
    while talk.state.marked:
        talk.tick()
    talk.away("me")
    last = counted(talk.find("A"))
    talk.inbox_away("B")
    talk.close("A")
    held = [last, counted(talk.find("B"))]
    talk.close("B", "you")
    assert looks_of(held) <= LOOKS_MAX
    assert group.shadow is not None
    answer = talk.subscribe("C", "you", queue="q", durable="d", mif=1)
    got = answer.sent["C"]
    while talk.state.marked:
        got += talk.tick().sent["C"]
    assert sorted(got) == list(range(1, UNACKED + 11))


def test_new_messages_wait_for_all_that_is_due() -> None:
    """R1: however many entries it takes."""
    talk = crowded()
    talk.publish(3, at=31)
    got = drain(talk, lambda: talk.publish(2))
    assert got == list(range(501, UNACKED + 6))


def test_so_many_subscriptions_fall_due_in_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others with the next; none of them gets anything new before what is due."""
    monkeypatch.setattr(dispatch, "FIRED_MAX", 2)
    talk = Conversation()
    talk.connect("me")
    for n in range(5):
        talk.subscribe(f"S{n}", mif=10, wait=1, channel=f"c{n}")
        talk.publish(1, channel=f"c{n}", at=n / 100)
    every = [command for n in range(5) for command in publishes(channel=f"c{n}")]
    assert talk.say(*every, at=2).sent == {"S0": [1, 2], "S1": [1, 2]}
    assert talk.state.marked
    assert talk.tick().sent == {"S2": [1, 2], "S3": [1, 2]}
    assert talk.tick().sent == {"S4": [1, 2]}
    assert not talk.state.marked


def test_a_large_group_costs_more_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its members is looked at for each message."""
    monkeypatch.setattr(dispatch, "MEMBERS_FOR_ONE", 2)
    talk = Conversation()
    talk.checked = False
    talk.connect("me")
    for n in range(20):
        talk.subscribe(f"Q{n}", queue="q", mif=1000)
    talk.say(*publishes(1000))
    got = [seq for member in talk.find("Q0").group.members for seq in member.unacked]
    assert len(got) == dispatch.ENTRY_MESSAGES_MAX // (1 + 20 // 2)
    while talk.state.marked:
        talk.tick()
    assert talk.find("Q0").group.cursor == 1000


def test_a_deadline_outlives_messages_that_were_due_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is due than an entry sends. The last one's due messages are acked before it has its turn; it
    holds a younger message, whose AckWait was forgotten."""
    monkeypatch.setattr(dispatch, "ENTRY_MESSAGES_MAX", 4)
    talk = Conversation()
    talk.connect("me")
    for n in range(3):
        talk.subscribe(f"S{n}", mif=10, wait=30, channel=f"c{n}")
        talk.publish(2, channel=f"c{n}", at=0)
    talk.publish(1, channel="c2", at=20)
    assert talk.tick(at=31).sent == {"S0": [1, 2], "S1": [1, 2]}
    assert talk.ack("S2", 1, 2, channel="c2").sent == {}
    assert talk.tick(at=49).sent == {}
    assert talk.tick(at=50).sent == {"S2": [3]}


@pytest.mark.parametrize("queue", ["", "q"])
def test_a_deadline_outlives_a_purge(monkeypatch: pytest.MonkeyPatch, queue: str) -> None:
    """What was due is gone from the log, what is younger isn't; nor is its AckWait."""
    monkeypatch.setattr(dispatch, "GROUP_MESSAGES_MAX", 2)
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=10, wait=30, queue=queue)
    talk.publish(5, at=0)
    while talk.state.marked:
        talk.tick()
    talk.publish(1, at=20)
    assert talk.tick(at=31).sent == {"A": [1, 2]}
    assert talk.say(ChannelPurge("foo", 5, LATE)).sent == {}
    assert talk.tick(at=49).sent == {}
    assert talk.tick(at=50).sent == {"A": [6]}


def test_a_due_subscription_is_not_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored node arms everyone's deadline. Those of overdue groups were counted, and left others for
    the next entry whom the live nodes found in this one."""
    monkeypatch.setattr(dispatch, "ENTRY_MESSAGES_MAX", 1)
    monkeypatch.setattr(dispatch, "FIRED_MAX", 3)
    talk = Conversation()
    talk.connect("me")
    for n in range(9):
        talk.subscribe(f"S{n}", mif=10, wait=1, channel=f"c{n}")
        talk.publish(1, channel=f"c{n}", at=n / 100)
    talk.tick(at=2)
    assert len(talk.state.redelivery_due) == 2
    talk.tick()
    assert len(talk.state.redelivery_due) == 4


def test_members_of_one_group_are_found_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them have something due: it is the group that is looked at."""
    monkeypatch.setattr(dispatch, "FIRED_MAX", 2)
    talk = Conversation()
    talk.connect("me")
    for n in range(5):
        talk.subscribe(f"Q{n}", mif=10, wait=1, queue="q")
    talk.subscribe("A", mif=10, wait=1, channel="bar")
    talk.say(*publishes(5), *publishes(1, channel="bar"), at=0)
    answer = talk.tick(at=2)
    assert sorted(seq for seqs in answer.sent.values() for seq in seqs) == [1, 1, 2, 3, 4, 5]


CROWD = 30
"""Subscriptions in ``many``, each with 2,000 unacked messages."""


def many() -> tuple[Conversation, list[Counted]]:
    """A client with a crowd of subscriptions that hold much, and what they hold."""
    talk = Conversation(max_msgs=0, max_bytes=0)
    talk.checked = False
    talk.connect("me")
    for n in range(CROWD):
        talk.subscribe(f"S{n}", mif=1_000_000, wait=300)
    talk.say(*publishes(2000), at=1)
    while talk.state.marked:
        talk.tick()
    return talk, [counted(subscription) for subscription in talk.state.subscriptions.values()]


def looks_of(held: list[Counted]) -> int:
    looks = sum(each.looks for each in held)
    for each in held:
        each.looks = 0
    return looks


@pytest.mark.parametrize("moved", [True, False])
def test_a_client_with_many_subscriptions_is_back(moved: bool) -> None:
    """Each missed all it holds: 300 with 8,000 took 1.3 s in one entry. All get it, in order."""
    talk, held = many()
    if not moved:
        talk.away("me", since=0)
    looks_of(held)
    answer = talk.back("me", since=0, at=2)
    got: dict[str, list[int]] = {}
    entries = 0
    while answer.sent or talk.state.marked:
        assert looks_of(held) <= due.LOOKS_MAX + LOOKS_MAX
        for inbox, seqs in answer.sent.items():
            got.setdefault(inbox, []).extend(seqs)
        entries += 1
        answer = talk.tick()
    assert len(got) == CROWD
    assert all(seqs == list(range(1, 2001)) for seqs in got.values())
    assert entries <= 1 + CROWD * 2000 // dispatch.ENTRY_MESSAGES_MAX + CROWD * 4000 // due.LOOKS_MAX


def test_a_purge_of_what_many_hold() -> None:
    """10,000 with 50 each, of which half are purged, took 38 ms in one entry."""
    talk, held = many()
    answer = talk.say(ChannelPurge("foo", 1000, LATE), *publishes(5))
    got: dict[str, list[int]] = {}
    while answer.sent or talk.state.marked:
        assert looks_of(held) <= due.LOOKS_MAX + LOOKS_MAX
        got |= answer.sent
        answer = talk.tick()
    assert got == {f"S{n}": [*range(2001, 2006)] for n in range(CROWD)}
    assert all(list(each) == [*range(1001, 2006)] for each in held)


def test_a_purge_of_some_that_one_holds() -> None:
    """Half a million of which half are purged took 34 ms."""
    talk = crowded()
    held = counted(talk.find("A"))
    talk.say(ChannelPurge("foo", UNACKED // 2, LATE))
    assert len(held) >= UNACKED - LOOKS_MAX
    while talk.state.marked:
        before = len(held)
        talk.tick()
        assert before - len(held) <= purging.LOOKED_AT_MAX
    assert list(held) == list(range(UNACKED // 2 + 1, UNACKED + 1))
    assert held.looks <= UNACKED // 2 + 100, "nobody has looked through it but this test"


def test_a_take_over_that_knew_little() -> None:
    """Half a million records above the commit index it knew took 85 ms."""
    talk, held = many()
    talk.say(leader_commands=[NewTerm(2, 0)], at=5)
    talk.term = 2
    assert looks_of(held) <= 2 * (new_term.RESTARTED_MAX + 2000)
    while talk.state.marked:
        talk.tick()
        assert looks_of(held) <= new_term.RESTARTED_MAX + 2000 + CROWD
    assert all({record.sent_at_ns for record in dict.values(each)} == {5 * SECOND} for each in held)


def test_the_end_of_a_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets go so many subscriptions an entry, however many have waited for their inboxes."""
    monkeypatch.setattr(presence, "RELEASED_MAX", 2)
    talk = Conversation()
    talk.connect("me")
    for n in range(5):
        talk.subscribe(f"S{n}", mif=10)
    talk.publish(3)
    talk.say(leader_commands=[ColdStart(1)], at=5)
    client = talk.state.clients["me"]
    talk.say(leader_commands=[ClientBack(1, "me", client.generation, 0, LATE)], at=6)
    assert talk.tick(at=15).sent == {"S0": [1, 2, 3], "S1": [1, 2, 3]}
    assert talk.state.marked
    assert talk.tick().sent == {"S2": [1, 2, 3], "S3": [1, 2, 3]}
    assert talk.tick().sent == {"S4": [1, 2, 3]}
    assert not talk.state.marked
    assert not talk.state.cold_release_ns


def test_others_new_messages_dont_wait_for_those_that_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is to look for."""
    monkeypatch.setattr(due, "LOOKS_MAX", 4)
    talk = Conversation()
    talk.connect("me", "you")
    for n in range(3):
        talk.subscribe(f"S{n}", mif=10)
    talk.subscribe("B", "you", channel="bar")
    talk.publish(4, at=1)
    known = talk.state.clients["me"]
    back = ClientBack(1, "me", known.generation, 0, LATE)
    answer = talk.say(*publishes(1, channel="bar", client="you"), leader_commands=[back], at=2)
    assert answer.sent == {"S0": [1, 2, 3, 4], "B": [1]}
    assert talk.publish(1).sent == {"S0": [5], "S1": [1, 2, 3, 4, 5]}
    assert talk.tick().sent == {"S2": [1, 2, 3, 4, 5]}


def test_what_was_missed_is_found_after_a_pause() -> None:
    """When it was sent and when it was missed are told by one clock, which stood still meanwhile."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A", mif=10, wait=100)
    for at in (1, 3, 5):
        talk.publish(1, at=at)
    talk.say(SubscriptionPause(1, True, LATE))
    assert talk.back("me", since=2, reachable=4, at=6).sent == {}
    assert talk.find("A").missed
    assert talk.say(SubscriptionPause(1, False, LATE), at=20).sent == {"A": [2]}


def test_the_end_of_a_pause() -> None:
    """It has nothing to put right: with half a million unacked that took 100 ms."""
    talk = crowded()
    talk.say(SubscriptionPause(1, True, LATE), at=5)
    held = counted(talk.find("A"))
    assert talk.say(SubscriptionPause(1, False, LATE), at=100).sent == {}
    assert held.looks <= 10
    assert drain(talk, lambda: talk.tick(at=124.9)) == []
    assert drain(talk, lambda: talk.tick(at=125)) == list(range(1, UNACKED + 1))


def test_who_goes_again_before_its_turn_keeps_nothing_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a checkpoint say so."""
    monkeypatch.setattr(dispatch, "ENTRY_MESSAGES_MAX", 1)
    talk = Conversation(member_grace_ns=0)
    talk.connect("me")
    talk.subscribe("S", mif=10, wait=10)
    talk.subscribe("A", mif=10, wait=5, queue="q")
    talk.publish(1, at=0)
    while talk.state.marked:
        talk.tick()
    talk.away("me", since=1)
    talk.back("me", since=1, at=20)
    assert talk.find("A").due_here
    talk.away("me", since=20)
    while talk.state.marked:
        talk.tick()
    assert not talk.find("A").due_here
