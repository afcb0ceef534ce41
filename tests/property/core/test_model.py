"""The core against a model of it: the rules of delivery said again, in the plainest way there is.

The model looks at every message of every cursor after every entry. It knows no marks, no deadlines, no
heaps, no bounds and no checkpoints, so what it sends is what the rules say (D1 to D47, R1, R15), and the core
must send exactly that: to the same member, in the same order, with the same count, in the same entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conversation import Answer, Conversation, client_open, publishes
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.commands import PauseRedelivery, Unsubscribe
from node.core.effects import DurableTaken, Refused
from node.protocol.positions import StartPosition

CLIENTS = ("a", "b", "c")
KEPT = 15
"""Messages in the channel at most: fewer than make a burst, of which ``group`` has rules of its own."""

KINDS: tuple[dict[str, str], ...] = (
    {},
    {"durable": "d"},
    {"queue": "q"},
    {"queue": "q"},
    {"queue": "q", "durable": "d"},
    {"queue": "q", "durable": "d"},
)


@dataclass
class Sent:
    at: float
    count: int
    """0 is new."""


@dataclass(eq=False)
class Person:
    unresponsive: bool = False
    unreachable: bool = False
    since: float = 0
    members: list[Member] = field(default_factory=list)


@dataclass(eq=False)
class Member:
    inbox: str
    person: Person
    cursor: Cursor
    most: int
    wait: float
    unacked: dict[int, Sent] = field(default_factory=dict)
    due_before: int = 0
    """What was sent before the entry of this number is due, whatever its AckWait."""
    missed_since: float | None = None
    """What was sent then or later, up to its return, is due."""
    missed_until: int = 0
    """The number of the entry of its return."""
    entries: dict[int, int] = field(default_factory=dict)
    """The number of the entry that sent each."""
    keeps: bool = False
    """What is due stays with it."""

    @property
    def hears(self) -> bool:
        return not self.person.unreachable

    @property
    def room(self) -> int:
        return self.most - len(self.unacked)

    def is_due(self, seq: int, now: float) -> bool:
        sent = self.unacked[seq]
        missed = (
            self.missed_since is not None
            and sent.at >= self.missed_since
            and self.entries[seq] < self.missed_until
        )
        return self.entries[seq] < self.due_before or missed or sent.at + self.wait <= now

    def takes(self, seq: int, sent: Sent, entry: int) -> None:
        self.unacked.pop(seq, None)
        self.unacked[seq] = sent
        self.entries[seq] = entry


@dataclass(eq=False)
class Cursor:
    key: tuple[str, ...]
    place: int
    queue: bool
    durable: bool
    members: list[Member] = field(default_factory=list)
    kept: dict[int, Sent] = field(default_factory=dict)
    """What is unacked of an offline durable."""
    orphans: dict[int, Sent] = field(default_factory=dict)


class Model:
    """One channel, and who subscribes to it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.entry = 0
        self.first, self.last = 1, 0
        self.people: dict[str, Person] = {}
        self.cursors: dict[tuple[str, ...], Cursor] = {}
        self.out: dict[str, list[tuple[int, int]]] = {}
        self.paused = False
        """Nothing is sent again (R9)."""

    # --- what is asked ----------------------------------------------------------------------------

    def publish(self, messages: int) -> None:
        self.last += messages
        self.first = max(self.first, self.last - KEPT + 1)

    def subscribe(
        self, inbox: str, client: str, *, start: int, seq: int, most: int, wait: float, **kind: str
    ) -> bool:
        person = self.people[client]
        queue, durable = kind.get("queue", ""), kind.get("durable", "")
        key = ("queue", durable, queue) if queue else ("durable", client) if durable else ("plain", inbox)
        cursor = self.cursors.get(key)
        if cursor is None:
            begin = {StartPosition.NEW_ONLY: self.last + 1, StartPosition.FIRST: self.first}.get(
                StartPosition(start), min(max(seq, self.first), self.last + 1)
            )
            cursor = self.cursors[key] = Cursor(key, begin - 1, bool(queue), bool(durable))
        elif cursor.members and not cursor.queue:
            (online,) = cursor.members
            if online.hears:
                return False
            self.ends(online, for_good=False)
        member = Member(inbox, person, cursor, most, wait)
        if not cursor.members and cursor.kept:
            member.unacked, cursor.kept, member.due_before = cursor.kept, {}, self.entry
            member.entries = dict.fromkeys(member.unacked, 0)
        cursor.members.append(member)
        person.members.append(member)
        person.unresponsive = False
        return True

    def ends(self, member: Member, *, for_good: bool) -> None:
        cursor = member.cursor
        cursor.members.remove(member)
        member.person.members.remove(member)
        if cursor.members:
            cursor.orphans.update(member.unacked)
        elif cursor.durable and not for_good:
            cursor.kept = member.unacked  # what others have left behind stays the cursor's
        else:
            del self.cursors[cursor.key]

    def leave(self, client: str) -> None:
        for member in list(self.people[client].members):
            self.ends(member, for_good=False)
        del self.people[client]

    def ack(self, member: Member, seqs: list[int]) -> None:
        cursor = member.cursor
        for seq in seqs:
            if member.unacked.pop(seq, None) is None and cursor.orphans.pop(seq, None) is None:
                for other in cursor.members:
                    other.unacked.pop(seq, None)

    def back(self, client: str, since: float) -> None:
        person = self.people[client]
        since = min(since, person.since) if person.unreachable else since
        person.unreachable = False
        for member in person.members:
            if any(sent.at >= since for sent in member.unacked.values()):
                known = since if member.missed_since is None else member.missed_since
                member.missed_since, member.missed_until = min(since, known), self.entry
            if member.cursor.queue and any(member.is_due(seq, self.now) for seq in member.unacked):
                member.keeps = True

    # --- what comes of it -------------------------------------------------------------------------

    def dispatch(self, marked: set[str]) -> dict[str, list[tuple[int, int]]]:
        """After the commands of an entry: what is due, then what is new (R1).

        While redelivery is paused nothing new overtakes what is due, or what may be: the core keeps marks of
        that, and ``marked`` has the inboxes of such cursors.
        """
        self.out = {}
        for cursor in self.cursors.values():
            if not self.paused:
                self._again(cursor)
            elif self._has_due(cursor) or any(member.inbox in marked for member in cursor.members):
                continue
            self._new(cursor)
        self.entry += 1
        return self.out

    def _has_due(self, cursor: Cursor) -> bool:
        able = self._can_be_sent_again(cursor)
        return bool(able and cursor.orphans) or any(
            member.is_due(seq, self.now) for member in able for seq in member.unacked
        )

    def _can_be_sent_again(self, cursor: Cursor) -> list[Member]:
        return [
            each for each in cursor.members if each.hears and (cursor.queue or not each.person.unresponsive)
        ]

    def _again(self, cursor: Cursor) -> None:
        able = self._can_be_sent_again(cursor)
        if not able:
            return
        due: list[tuple[int, Member | None]] = [(seq, None) for seq in cursor.orphans]
        for member in cursor.members:
            due += [
                (seq, member) for seq in member.unacked if not member.hears or member.is_due(seq, self.now)
            ]
        for seq, holder in sorted(due, key=lambda one: one[0]):
            held = cursor.orphans if holder is None else holder.unacked
            if seq < self.first:
                del held[seq]
                continue
            receiver = able[0]
            if holder is not None and holder.keeps and holder.hears:
                receiver = holder
            elif len(able) > 1:
                receiver = self._choose(cursor, able, again=True) or able[0]
                self._turn(cursor, able, receiver)
            self._send(receiver, seq, held.pop(seq).count + 1)
        for member in cursor.members:
            member.due_before, member.missed_since, member.keeps = 0, None, False

    def _new(self, cursor: Cursor) -> None:
        able = [member for member in cursor.members if member.hears]
        alone = len(cursor.members) == 1
        new = range(max(cursor.place + 1, self.first), self.last + 1)
        for member in able if new else ():
            if member.room <= 0 and all(seq < self.first for seq in member.unacked):
                member.unacked.clear()  # D24
        for seq in new:
            receiver = self._choose(cursor, able, again=False)
            if receiver is None:
                receiver = next((member for member in able if member.room > 0), None)
            if receiver is None:
                return
            if not alone:
                self._turn(cursor, able, receiver)
            self._send(receiver, seq, 0)
            cursor.place = seq

    def _choose(self, cursor: Cursor, able: list[Member], *, again: bool) -> Member | None:
        """D15, and of what is sent again D30."""
        eligible = [member for member in able if member.room > 0 and not member.person.unresponsive]
        if not eligible:
            return able[0] if again else None
        return min(eligible, key=lambda member: len(member.unacked))

    def _turn(self, cursor: Cursor, able: list[Member], chosen: Member) -> None:
        if chosen is able[0]:
            for members in (able, cursor.members):
                members.remove(chosen)
                members.append(chosen)

    def _send(self, member: Member, seq: int, count: int) -> None:
        member.takes(seq, Sent(self.now, count), self.entry)
        self.out.setdefault(member.inbox, []).append((seq, count))


class Both:
    """The core and the model, told the same."""

    def __init__(self) -> None:
        self.talk = Conversation(max_msgs=KEPT)
        self.talk.checked = False  # the stories do that
        self.model = Model()
        self.members: dict[str, Member] = {}
        self.inboxes = 0

    def compare(self, answer: Answer) -> None:
        sent: dict[str, list[tuple[int, int]]] = {}
        for deliver in answer.effects.deliveries:
            receiver = self.talk.state.subscriptions[deliver.subscription]
            sent.setdefault(receiver.inbox, []).extend(
                (seq, receiver.unacked[seq].deliveries - 1) for seq in deliver.seqs
            )
        redelivery_due = self.talk.state.redelivery_due.values() if self.model.paused else ()
        marked = {member.inbox for group in redelivery_due for member in group.members}
        assert sent == self.model.dispatch(marked)
        for inbox, member in self.members.items():
            assert self.talk.find(inbox).unacked.keys() == member.unacked.keys()

    def tell(self, what: str, this: int, that: int) -> None:
        """One entry."""
        talk, model = self.talk, self.model
        client = CLIENTS[this % len(CLIENTS)]
        self.members = {m.inbox: m for cursor in model.cursors.values() for m in cursor.members}
        member = list(self.members.values())[that % len(self.members)] if self.members else None
        person = model.people.get(client)
        if what == "publish" and person is not None:
            model.publish(this + 1)
            self.compare(talk.say(*publishes(this + 1, client=client)))
        elif what == "time":
            talk.now += (0, 0.5, 1, 1.5, 3, 7)[that % 6]
            model.now = talk.now
            self.compare(talk.tick())
        elif what in ("pause", "go on"):
            model.paused = what == "pause"
            self.compare(talk.say(leader_commands=[PauseRedelivery(talk.term, model.paused)]))
        elif what == "connect" and person is None:
            model.people[client] = Person()
            self.compare(talk.say(client_open(client)))
        elif what == "leave" and person is not None:
            model.leave(client)
            self._gone()
            self.compare(talk.leave(client))
        elif what == "subscribe" and person is not None:
            self.subscribe(client, this, that)
        elif what in ("silent", "heard") and person is not None:
            person.unresponsive = what == "silent"
            self.compare(talk.unresponsive(client, what == "silent"))
        elif what == "away" and person is not None and not person.unreachable:
            person.unreachable, person.since = True, talk.now - that / 4
            self.compare(talk.away(client, person.since))
        elif what == "back" and person is not None:
            model.back(client, talk.now - that / 4)
            self.compare(talk.back(client, talk.now - that / 4))
        elif member is not None:
            self.tell_member(what, member, this)

    def subscribe(self, client: str, this: int, that: int) -> None:
        self.inboxes += 1
        inbox = f"I{self.inboxes}"
        start = (StartPosition.NEW_ONLY, StartPosition.SEQUENCE_START, StartPosition.FIRST)[this % 3]
        most, wait, kind = (1, 2, 5)[that % 3], (1, 3)[this % 2], KINDS[that % len(KINDS)]
        is_taken = self.model.subscribe(inbox, client, start=start, seq=that, most=most, wait=wait, **kind)
        options: dict[str, Any] = {**kind, "start": start, "seq": that, "mif": most, "wait": wait}
        answer = self.talk.subscribe(inbox, client, **options)
        assert is_taken != isinstance(answer.outcome, Refused | DurableTaken)
        self._gone()  # an absent client's durable is its next subscription's: the one before has ended
        self.compare(answer)

    def tell_member(self, what: str, member: Member, this: int) -> None:
        talk, model = self.talk, self.model
        client = next(name for name, person in model.people.items() if person is member.person)
        match what:
            case "ack":
                held = [*member.unacked][this % 3 :][:3]
                model.ack(member, held)
                self.compare(talk.ack(member.inbox, *held))
            case "ack another's":
                held = [seq for other in member.cursor.members for seq in other.unacked][: this % 4]
                if member.cursor.queue:
                    model.ack(member, held)
                self.compare(talk.ack(member.inbox, *held) if member.cursor.queue else talk.tick())
            case "close":
                model.ends(member, for_good=False)
                self._gone()
                self.compare(talk.close(member.inbox, client))
            case "unsubscribe":
                model.ends(member, for_good=True)
                self._gone()
                self.compare(talk.say(Unsubscribe(client, "foo", talk.acks[member.inbox], "")))

    def _gone(self) -> None:
        self.members = {m.inbox: m for cursor in self.model.cursors.values() for m in cursor.members}


STEPS = (
    *("publish", "subscribe", "time") * 4,
    *("ack", "away", "back") * 3,
    *("ack another's", "close", "connect", "silent", "heard") * 2,
    *("pause", "go on", "go on"),
    "unsubscribe",
    "leave",
)
step = st.tuples(st.sampled_from(STEPS), st.integers(0, 8), st.integers(0, 11))


@given(st.lists(step, min_size=20, max_size=60))
@settings(deadline=None, max_examples=100)
def test_the_core_sends_what_the_rules_say(steps: list[tuple[str, int, int]]) -> None:
    both = Both()
    for number in range(len(CLIENTS)):
        both.tell("connect", number, 0)
    for what, this, that in steps:
        both.tell(what, this, that)


def test_what_takes_the_place_of_due_messages_is_not_due() -> None:
    """A durable comes back, its unacked messages leave the log, it is sent others: these wait for AckWait."""
    both = Both()
    for number in range(len(CLIENTS)):
        both.tell("connect", number, 0)
    both.tell("publish", 8, 0)
    both.tell("publish", 5, 0)
    both.tell("subscribe", 1, 1)
    both.tell("close", 0, 0)
    both.tell("pause", 0, 0)
    both.tell("publish", 1, 0)
    both.tell("subscribe", 1, 1)
    both.tell("silent", 1, 0)
    both.tell("go on", 0, 0)
    both.tell("subscribe", 1, 0)
    (again,) = (member for member in both.members.values() if member.inbox == "I2")
    assert [*again.unacked] == [3, 4]
    assert not [seq for seq in again.unacked if again.is_due(seq, both.model.now)]


def test_a_durable_of_an_absent_client_goes_to_its_next_subscription() -> None:
    """The comparison looks at the subscriptions that are left."""
    both = Both()
    for number in range(len(CLIENTS)):
        both.tell("connect", number, 0)
    both.tell("publish", 4, 0)
    both.tell("subscribe", 8, 1)
    both.tell("away", 8, 0)
    both.tell("subscribe", 8, 1)
    assert [member.inbox for member in both.members.values()] == ["I2"]
