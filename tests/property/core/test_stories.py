"""Stories nobody thought of: random commands, and what must hold whatever they are.

`Conversation` checks the state's invariants after every entry, that a checkpoint by changes is the
whole state, and that a node restored from it answers the next entry alike. Here each story is also
judged as clients see it: every message once as new on each cursor, in order; counts without a gap;
nothing that was acknowledged ever again; nothing to who can't hear; and in the end, when all is
well again, nothing forgotten.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from conversation import EPOCH_NS, LATE, SECOND, Answer, Conversation, client_open, publishes
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core import dispatch, due, new_term, presence, purging
from node.core.commands import (
    ChannelDelete,
    ChannelExpire,
    ChannelPurge,
    ClientKeep,
    ClientKick,
    ClientReplace,
    ColdStart,
    Command,
    Configure,
    HeartbeatMissed,
    LeaderCommand,
    NewTerm,
    PauseRedelivery,
    SubscriptionPause,
    SubscriptionRemove,
    SubscriptionSeek,
    Unsubscribe,
)
from node.core.entries import (
    Batch,
    encode_commands,
)
from node.core.machine import Machine
from node.core.records import digest, restore, take_changes
from node.core.state import State, Subscription

CLIENTS = ("a", "b", "c")
CHANNELS = ("foo", "bar")
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"durable": "d"},
    {"queue": "q"},
    {"queue": "q", "durable": "d"},
)
STEPS = (
    *("publish",) * 6,
    *("ack",) * 4,
    *("subscribe",) * 4,
    *("time",) * 4,
    "connect",
    "close",
    "unsubscribe",
    "leave",
    "away",
    "back",
    "inbox away",
    "inbox back",
    "silent",
    "miss",
    "heard",
    "remove",
    "probe",
    "replace",
    "keep",
    "take over",
    "hold",
    "release",
    "cold start",
    "configure",
    "expire",
    "delete",
    "purge",
    "seek",
    "seek",
    "pause",
    "pause",
    "unpause",
    "unpause",
    "end",
    "kick",
)

step = st.tuples(st.sampled_from(STEPS), st.integers(0, 11), st.integers(0, 11))


class Script:
    """A conversation with its reader, who remembers what every cursor was sent."""

    def __init__(self, kind: type[Conversation] = Conversation) -> None:
        self.talk = kind(max_msgs=40, max_inactivity_ns=20 * SECOND, member_grace_ns=3 * SECOND)
        self.counts: dict[tuple[int, int], int] = {}
        """Highest redelivery count of each (group, sequence)."""
        self.acked: set[tuple[int, int]] = set()
        self.newest: dict[int, int] = {}
        """The last sequence each group was sent as new."""
        self.inboxes = 0
        for client in CLIENTS:
            self.read(self.talk.connect(client))

    @property
    def state(self) -> State:
        return self.talk.state

    def read(self, answer: Answer) -> None:
        """Judge what an entry sent."""
        new: dict[int, list[int]] = {}
        for deliver in answer.effects.deliveries:
            receiver = self.state.subscriptions[deliver.subscription]
            group = receiver.group
            assert receiver.reachable, "sent to who can't hear"
            assert group.paused_ns is None, "sent in a pause"
            assert list(deliver.seqs) == sorted(deliver.seqs)
            for seq in deliver.seqs:
                count = receiver.unacked[seq].deliveries - 1
                assert (group.id, seq) not in self.acked, "acknowledged, and sent again"
                assert count == self.counts.get((group.id, seq), -1) + 1, "counts go up one by one"
                if count == 0:
                    new.setdefault(group.id, []).append(seq)
                elif count > 1 or seq > group.replayed_to:
                    assert group.queue or not receiver.unresponsive, "redelivered to a silent client"
                self.counts[group.id, seq] = count
                assert group.channel.log.first <= seq <= group.channel.log.last
        for number, seqs in new.items():
            assert min(seqs) > self.newest.get(number, 0), "new messages come in order"
            assert sorted(seqs) == [*range(min(seqs), max(seqs) + 1)], "none is left out"
            self.newest[number] = max(seqs)

    def members(self) -> list[Subscription]:
        return [known for known in self.state.subscriptions.values() if known.online]

    def tell(self, what: str, this: int, that: int) -> None:
        """One step. The numbers choose among what there is."""
        talk, client = self.talk, CLIENTS[this % len(CLIENTS)]
        members = self.members()
        member = members[that % len(members)] if members else None
        match what:
            case "publish":
                self.read(
                    talk.say(*publishes(this * this % 23 + 1, channel=CHANNELS[that % 2], client=client))
                )
            case "time":
                talk.now += (0.01, 0.5, 1, 2, 5, 31)[this % 6]
                self.read(talk.tick())
            case "subscribe":
                self.inboxes += 1
                options = {**KINDS[that % 4], "channel": CHANNELS[this % 2], "start": that % 5, "seq": this}
                options |= {"mif": (1, 3, 100)[that % 3], "wait": (1, 4)[this % 2], "delta": that}
                self.read(talk.subscribe(f"I{self.inboxes}", client, **options))
            case "connect":
                self.read(talk.say(client_open(client, f"{client}{that}".encode())))
            case "leave":
                self.read(talk.leave(client))
            case "cold start":
                self.read(talk.say(leader_commands=[ColdStart(talk.term)]))
            case "take over":
                talk.term += 1
                self.read(talk.say(leader_commands=[NewTerm(talk.term, talk.index - that)]))
            case "hold" | "release":
                self.read(talk.say(leader_commands=[PauseRedelivery(talk.term, what == "hold")]))
            case "configure":
                self.read(
                    talk.say(Configure({"max_msgs": 20 + this, "max_age_ns": that * SECOND}, bool(this % 2)))
                )
            case "expire":
                channels = talk.state.expiring_channels(round(talk.now * SECOND))
                leader_commands: list[LeaderCommand] = [
                    ChannelExpire(talk.term, channel.name, channel.generation) for channel in channels
                ]
                for channel in channels:
                    self.forget([*channel.groups])
                self.read(talk.say(leader_commands=leader_commands))
            case "delete":
                name = CHANNELS[that % 2]
                if name in self.state.channels:
                    self.forget([*self.state.channels[name].groups])
                    self.read(talk.say(*publishes(this, channel=name), ChannelDelete(name, True, LATE)))
            case "purge":
                self.read(talk.say(ChannelPurge(CHANNELS[that % 2], 3 * this, LATE)))
            case "seek" | "pause" | "unpause" | "end":
                known = list(self.state.subscriptions.values())
                if known:
                    self.administer(what, known[that % len(known)], this)
            case "kick":
                self.read(talk.say(ClientKick(client, LATE)))
            case "away" | "back" | "miss" | "silent" | "heard" | "remove" | "probe" | "replace" | "keep":
                if client in talk.state.clients:
                    self.tell_of(what, client, that)
            case _:
                if member is not None:
                    self.tell_member(what, member, this)

    def tell_of(self, what: str, client: str, that: int) -> None:
        """A step that concerns a registered client."""
        talk, generation = self.talk, self.state.clients[client].generation
        conn = f"{client}{that}".encode()
        match what:
            case "away":
                answer = talk.away(client, talk.now - that / 4)
            case "back":
                answer = talk.back(client, talk.now - that / 4)
            case "miss":
                answer = talk.say(leader_commands=[HeartbeatMissed(talk.term, client, generation, that + 1)])
            case "silent" | "heard":
                answer = talk.unresponsive(client, what == "silent")
            case "remove":
                answer = talk.heartbeats_fail(client)
            case "probe":
                answer = talk.say(client_open(client, conn, "hb.other"))
            case "replace":
                answer = talk.say(ClientReplace(client, generation, conn, "hb.new", 1, 5, 3, 1 << 62))
            case _:
                answer = talk.say(ClientKeep(client, generation))
        self.read(answer)

    def tell_member(self, what: str, member: Subscription, this: int) -> None:
        """A step that concerns an online subscription."""
        talk, group = self.talk, member.group
        channel = group.channel.name
        match what:
            case "ack":
                held = [*member.unacked][: this + 1]
                self.acked |= {(group.id, seq) for seq in held}
                self.read(talk.ack(member.inbox, *held, 10**6, channel=channel))
            case "close":
                self.read(talk.close(member.inbox, member.client_id, channel=channel))
            case "unsubscribe":
                command = Unsubscribe(member.client_id, channel, member.ack_inbox, "")
                self.read(talk.say(command))
            case "inbox away":
                self.read(talk.inbox_away(member.inbox, talk.now - this / 4))
            case "inbox back":
                self.read(talk.inbox_back(member.inbox, talk.now - this / 4))

    def administer(self, what: str, known: Subscription, this: int) -> None:
        """A step of an operator that concerns a subscription, online or not."""
        talk, group = self.talk, known.group
        command: Command
        match what:
            case "seek":
                to = this % 5
                value = EPOCH_NS + this * SECOND if to == 2 else 3 * this
                if group.durable or group.queue:
                    sent = [seq for number, seq in self.counts if number == group.id]
                    self.forget([group.id])
                    self.acked = {(number, seq) for number, seq in self.acked if number != group.id}
                    before = max(group.replayed_to, group.cursor)
                    assert before >= max(sent, default=0), "an earlier delivery is forgotten"
                    self.counts.update(((group.id, seq), 0) for seq in range(before + 1))
                command = SubscriptionSeek(known.id, to, value, LATE)
            case "end":
                command = SubscriptionRemove(known.id, this % 2 == 0, True, LATE)
            case _:
                command = SubscriptionPause(known.id, what == "pause", LATE)
        self.read(talk.say(command))

    def forget(self, groups: list[int]) -> None:
        """The channel of these groups is deleted: its sequences start again."""
        for key in [key for key in self.counts if key[0] in groups]:
            del self.counts[key]

    def heal(self, rounds: int = 60) -> None:
        """Everyone is back and answers; then acknowledge whatever comes until nothing does."""
        talk = self.talk
        self.read(talk.say(leader_commands=[PauseRedelivery(talk.term, False)]))
        for client in list(talk.state.clients):
            self.read(talk.back(client))
            self.read(talk.unresponsive(client, False))
        for known in list(talk.state.subscriptions.values()):
            self.read(talk.say(SubscriptionPause(known.id, False, LATE)))
        for member in self.members():
            self.read(talk.inbox_back(member.inbox))
        for _ in range(rounds):
            held = [(member.inbox, member.channel.name, [*member.unacked]) for member in self.members()]
            if not any(seqs for _, _, seqs in held) and not talk.state.marked:
                break
            for inbox, channel, seqs in held:
                group = talk.find(inbox).group
                self.acked |= {(group.id, seq) for seq in seqs}
                self.read(talk.ack(inbox, *seqs, channel=channel))
        for member in self.members():
            assert not member.unacked
            assert not member.group.orphans
            log = member.channel.log
            assert max(member.group.cursor + 1, log.first) > log.last, "new messages are left"


@given(st.lists(step, min_size=10, max_size=50))
@settings(deadline=None, max_examples=40)
def test_whatever_happens_nothing_is_lost_doubled_or_forgotten(steps: list[tuple[str, int, int]]) -> None:
    story = Script()
    for what, this, that in steps:
        story.tell(what, this, that)
    story.heal()


class Accompanied(Conversation):
    """Beside it go nodes that were restored at some of its entries: they decide alike ever after.

    Which deadlines are armed differs between them all the while, and nothing else.
    """

    def __init__(self, **settings: Any) -> None:
        self.beside: list[Machine] = []
        super().__init__(**settings)

    def apply(self, data: bytes) -> Any:
        if self.index % 7 == 3:
            self.beside = [*self.beside[-1:], Machine(restore(sorted(self.records.items())))]
        effects = super().apply(data)
        for machine in self.beside:
            assert machine.apply(self.index, data) == effects  # type: ignore[arg-type]
            assert machine.state.rolled == self.state.rolled
            assert digest(machine.state) == digest(self.state)
        return effects


BUSY = (
    *("publish",) * 16,
    *("ack",) * 16,
    *("time",) * 16,
    *("away", "back", "inbox away", "inbox back", "silent", "heard"),
    *(
        "cold start",
        "take over",
        "hold",
        "release",
        "purge",
        "seek",
        "pause",
        "unpause",
        "close",
        "subscribe",
        "kick",
        "connect",
    ),
)
busy = st.tuples(st.sampled_from(BUSY), st.integers(0, 11), st.integers(0, 11))


@given(st.lists(busy, min_size=30, max_size=50), st.lists(st.integers(0, 11), min_size=6, max_size=6))
@settings(deadline=None, max_examples=8)
def test_what_is_left_over_is_left_over_alike(steps: list[tuple[str, int, int]], kinds: list[int]) -> None:
    """An entry does so little here that most of what is due waits for later ones, on nodes of every age."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "ENTRY_MESSAGES_MAX", 6)
        patch.setattr(dispatch, "GROUP_MESSAGES_MAX", 3)
        patch.setattr(due, "ORDERED_MAX", 8)
        patch.setattr(dispatch, "FIRED_MAX", 2)
        patch.setattr(due, "LOOKS_MAX", 12)
        patch.setattr(presence, "RELEASED_MAX", 1)
        patch.setattr(purging, "LOOKED_AT_MAX", 4)
        patch.setattr(new_term, "RESTARTED_MAX", 2)
        story = Script(Accompanied)
        for number, kind in enumerate(kinds):
            story.tell("subscribe", number, kind)
        for what, this, that in steps:
            story.tell(what, this, that)
        story.heal(rounds=600)


class Recording(Conversation):
    """Keeps the log it makes, and checks nothing."""

    def __init__(self, **settings: Any) -> None:
        self.log: list[tuple[int, bytes]] = []
        super().__init__(**settings)
        self.checked = False

    def apply(self, data: bytes) -> Any:
        self.log.append((self.index, data))
        return super().apply(data)


@given(
    st.lists(step, min_size=5, max_size=40),
    st.integers(0, 40),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=25)
def test_replay_from_a_checkpoint_is_replay(
    steps: list[tuple[str, int, int]], at: int, gaps: list[int]
) -> None:
    """Two nodes fed one log are equal, and so is one that starts from a checkpoint taken at any point."""
    story = Script()
    story.talk = recording = Recording(max_msgs=40)
    recording.connect(*CLIENTS)
    for what, this, that in steps:
        story.tell(what, this, that)
    other = Machine(State())
    records: dict[bytes, bytes] = {}
    saved, next_save, from_saved = 0, gaps[0], Machine(State())
    for n, (index, data) in enumerate(recording.log):
        effects = other.apply(index, data)  # type: ignore[arg-type]
        if n >= next_save:
            next_save += gaps[n % len(gaps)]
            for key, value in take_changes(other.state):
                records.pop(key, None)
                if value is not None:
                    records[key] = value
            if n <= at:
                saved, from_saved = n + 1, Machine(restore(sorted(records.items())))
        assert effects.index == index
    for index, data in recording.log[saved:]:
        from_saved.apply(index, data)  # type: ignore[arg-type]
    assert digest(other.state) == digest(recording.state) == digest(from_saved.state)


commands = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.lists(
            st.lists(
                st.one_of(
                    st.integers(-3, 45),
                    st.integers(-(1 << 63), (1 << 64) - 1),
                    st.text(max_size=4),
                    st.binary(max_size=4),
                    st.none(),
                    st.booleans(),
                    st.lists(st.integers(-2, 9), max_size=3),
                    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
                ),
                max_size=9,
            ),
            max_size=4,
        ),
    ),
    max_size=5,
)


@given(commands)
@settings(deadline=None, max_examples=60)
def test_no_batch_is_poison(batches: list[Any]) -> None:
    """R22: whatever bytes or fields a batch has, it is refused or applied, and the next one works."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A")
    serial = 3
    for batch in batches:
        data = batch if isinstance(batch, bytes) else _packed(batch)
        effects = talk.entry([Batch(talk.session, serial, 1, data)], [])
        serial = max([serial, *(replies.last + 1 for replies in effects.replies)])
    known: list[Command] = list(publishes(2))
    effects = talk.entry([Batch(talk.session, serial, 1, encode_commands(known))], [])
    assert effects.replies[0].last == serial + 1


def _packed(batch: Any) -> bytes:
    try:
        return bytes(msgpack.packb(batch))
    except (OverflowError, ValueError):
        return b"\xc1"
