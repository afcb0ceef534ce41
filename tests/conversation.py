"""Conversations with the core: entries in, effects out.

Each test sends commands and checks the replies. After every entry, `Conversation` also checks what must
always hold: the invariants of the state, that a checkpoint made from changes equals the whole state, and
that a node restored from that checkpoint gives the same effects for the next entry (R30).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from node.core.ack_waits import may_redeliver
from node.core.added_fields import pack_added
from node.core.commands import (
    Acked,
    ClientAway,
    ClientBack,
    ClientClose,
    ClientOpen,
    ClientReachable,
    ClientRemove,
    ClientUnreachable,
    ClientUnresponsive,
    Command,
    Configure,
    LeaderCommand,
    NewTerm,
    Publish,
    RaiseVersion,
    SessionOpen,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionClose,
    SubscriptionOpen,
    SubscriptionReachable,
    SubscriptionUnreachable,
    Tick,
    Unsubscribe,
    Unwritten,
)
from node.core.effects import OK, Effects, Outcome, Refused
from node.core.entries import (
    Batch,
    Entry,
    encode_commands,
    encode_entry,
    encode_leader_command,
)
from node.core.machine import Machine
from node.core.records import all_records, digest, restore, take_changes
from node.core.state import Group, State, Subscription
from node.core.versions import MACHINE_VERSION
from node.protocol.positions import StartPosition

SECOND = 1_000_000_000
EPOCH_NS = 1_700_000_000 * SECOND
"""Unix time at cluster time 0."""

LATE = 1 << 62
"""A valid_until that never expires."""


@dataclass
class Answer:
    """The result of one entry."""

    effects: Effects
    sent: dict[str, list[int]]
    """The sent sequences in order, by inbox."""
    counts: dict[tuple[str, int], int]
    """Redelivery counts by inbox and sequence."""
    outcomes: list[Outcome]
    """The outcomes of the entry's commands, in order."""

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome

    @property
    def refusal(self) -> str:
        """The text of the refusal of the only command."""
        assert isinstance(self.outcome, Refused)
        return self.outcome.text

    def redelivered(self, inbox: str) -> dict[int, int]:
        """Return the redelivered sequences of an inbox with their counts."""
        return {seq: n for (to, seq), n in self.counts.items() if to == inbox and n}


class Conversation:
    """One core and its origin ``n1``. ``now`` is cluster time in seconds; only tests change it.

    The machine version is ``version`` from the first entry on.
    """

    def __init__(self, *, version: int = MACHINE_VERSION, **settings: Any) -> None:
        self.machine = Machine(State())
        self.records: dict[bytes, bytes] = {}
        self.index = 0
        self.now = 0.0
        self.term = 1
        self.serial = 1
        self.session: tuple[int, int] | None = None
        self.checked = True
        """Check everything after each entry; too slow for thousands of entries."""
        self.acks: dict[str, str] = {}
        """The ack inbox of each message inbox."""
        self._fresh = count(1)
        opened = self.entry(
            [Batch(None, 0, 0, encode_commands([SessionOpen("n1", b"nonce")]))],
            [NewTerm(1, 0), RaiseVersion(1, version, "")],
        )
        self.session = opened.sessions[0].session
        if settings:
            self.say(Configure(settings, only_if_unset=False))

    @property
    def state(self) -> State:
        return self.machine.state

    # --- entries ---------------------------------------------------------------------------------

    def say(
        self, *commands: Command, leader_commands: list[LeaderCommand] | None = None, at: float | None = None
    ) -> Answer:
        """Apply one entry with these commands of the origin. Returns its result."""
        if at is not None:
            self.now = at
        first, self.serial = self.serial, self.serial + len(commands)
        batches = [Batch(self.session, first, first, encode_commands(list(commands)))] if commands else []
        effects = self.entry(batches, leader_commands or [])
        others: dict[int, Outcome] = {}
        for replies in effects.replies:
            others.update(replies.others)
        return Answer(
            effects,
            self._sent(effects),
            {
                (subscription.inbox, seq): subscription.unacked[seq].deliveries - 1
                for deliver in effects.deliveries
                for subscription in [self.state.subscriptions[deliver.subscription]]
                for seq in deliver.seqs
            },
            [others.get(serial, OK) for serial in range(first, self.serial)],
        )

    def entry(self, batches: list[Batch], leader_commands: list[LeaderCommand]) -> Effects:
        """Apply one entry as the leader makes it, check it, and apply it on a restored node too."""
        self.index += 1
        time_ns = round(self.now * SECOND)
        packed = [encode_leader_command(command) for command in leader_commands]
        return self.apply(
            encode_entry(Entry(self.state.version, time_ns, EPOCH_NS + time_ns, packed, batches))
        )

    def apply(self, data: bytes) -> Effects:
        if not self.checked:
            return self.machine.apply(self.index, data)
        twin = Machine(restore(sorted(self.records.items())))
        effects = self.machine.apply(self.index, data)
        assert twin.apply(self.index, data) == effects
        assert digest(twin.state) == digest(self.state)
        for key, value in take_changes(self.state):
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value
        assert self.records == dict(all_records(self.state))
        check_invariants(self.state)
        return effects

    def _sent(self, effects: Effects) -> dict[str, list[int]]:
        sent: dict[str, list[int]] = {}
        for deliver in effects.deliveries:
            assert deliver.entry == effects.index
            sent.setdefault(self.state.subscriptions[deliver.subscription].inbox, []).extend(deliver.seqs)
        return sent

    # --- commands of clients and leader duties ---------------------------------------------------

    def connect(self, *client_ids: str) -> Answer:
        return self.say(*(client_open(client_id) for client_id in client_ids))

    def subscribe(self, inbox: str, client: str = "me", **options: Any) -> Answer:
        return self.say(self.subscription(inbox, client, **options))

    def subscription(
        self,
        inbox: str,
        client: str = "me",
        *,
        channel: str = "foo",
        queue: str = "",
        durable: str = "",
        mif: int = 10,
        wait: float = 30,
        start: int = StartPosition.NEW_ONLY,
        seq: int = 0,
        delta: float = 0,
        valid_until: int = LATE,
    ) -> SubscriptionOpen:
        """Return the command that opens a subscription, with a new ack inbox each time."""
        self.acks[inbox] = f"ack.{inbox}.{next(self._fresh)}"
        return SubscriptionOpen(
            client,
            channel,
            queue,
            durable,
            inbox,
            self.acks[inbox],
            mif,
            round(wait * SECOND),
            int(start),
            seq,
            round(delta * SECOND),
            valid_until,
        )

    def publish(
        self, messages: int = 1, *, channel: str = "foo", client: str = "me", at: float | None = None
    ) -> Answer:
        return self.say(*publishes(messages, channel=channel, client=client), at=at)

    def ack(self, inbox: str, *seqs: int, channel: str = "foo", at: float | None = None) -> Answer:
        return self.say(self.acked(inbox, *seqs, channel=channel), at=at)

    def acked(self, inbox: str, *seqs: int, channel: str = "foo") -> Acked:
        return Acked(channel, self.acks[inbox], seqs)

    def close(self, inbox: str, client: str = "me", *, channel: str = "foo") -> Answer:
        return self.say(SubscriptionClose(client, channel, self.acks[inbox]))

    def unsubscribe(self, inbox: str, client: str = "me", *, channel: str = "foo") -> Answer:
        return self.say(Unsubscribe(client, channel, self.acks[inbox], ""))

    def leave(self, client: str = "me") -> Answer:
        return self.say(ClientClose(client))

    def tick(self, at: float | None = None) -> Answer:
        return self.say(leader_commands=[Tick(self.term)], at=at)

    def away(self, client: str, since: float | None = None, *, written: int | None = None) -> Answer:
        """Report the client's inbox as unreachable; with ``written``, as machine version 2 reports it."""
        generation = self.state.clients[client].generation
        gone = self._ns(since)
        if written is None:
            return self.say(leader_commands=[ClientAway(self.term, client, generation, gone)])
        return self.say(leader_commands=[ClientUnreachable(self.term, client, generation, gone, written)])

    def back(
        self,
        client: str,
        since: float | None = None,
        *,
        reachable: float | None = None,
        at: float | None = None,
        unwritten: Unwritten | None = None,
    ) -> Answer:
        """Report the client and all its subscriptions as reachable, from now on or since ``reachable``."""
        known = self.state.clients[client]
        gone = self._ns(since)
        back = LATE if reachable is None else self._ns(reachable)
        leader_commands: list[LeaderCommand]
        if unwritten is None:
            leader_commands = [ClientBack(self.term, client, known.generation, gone, back)]
        else:
            leader_commands = [
                ClientReachable(self.term, client, known.generation, gone, back, *unwritten, "n2", 7)
            ]
        for subscription in known.subscriptions.values():
            if subscription.unreachable:
                leader_commands.append(self._inbox_back(subscription, gone, back, unwritten))
        return self.say(leader_commands=leader_commands, at=at)

    def inbox_away(self, inbox: str, since: float | None = None, *, written: int | None = None) -> Answer:
        subscription = self.find(inbox)
        which, gone = (subscription.id, subscription.generation), self._ns(since)
        if written is None:
            return self.say(leader_commands=[SubscriptionAway(self.term, *which, gone)])
        return self.say(leader_commands=[SubscriptionUnreachable(self.term, *which, gone, written)])

    def inbox_back(
        self, inbox: str, since: float | None = None, *, unwritten: Unwritten | None = None
    ) -> Answer:
        back = self._inbox_back(self.find(inbox), self._ns(since), LATE, unwritten)
        return self.say(leader_commands=[back])

    def _inbox_back(
        self, subscription: Subscription, gone: int, back: int, unwritten: Unwritten | None
    ) -> LeaderCommand:
        which = (self.term, subscription.id, subscription.generation, gone, back)
        return (
            SubscriptionBack(*which)
            if unwritten is None
            else SubscriptionReachable(*which, *unwritten, "n2", 7)
        )

    def unresponsive(self, client: str, unresponsive: bool = True, *, at: float | None = None) -> Answer:
        generation = self.state.clients[client].generation
        return self.say(
            leader_commands=[ClientUnresponsive(self.term, client, generation, unresponsive)], at=at
        )

    def heartbeats_fail(self, client: str) -> Answer:
        return self.say(
            leader_commands=[ClientRemove(self.term, client, self.state.clients[client].generation)]
        )

    def _ns(self, seconds: float | None) -> int:
        return round((self.now if seconds is None else seconds) * SECOND)

    # --- queries ---------------------------------------------------------------------------------

    def find(self, inbox: str) -> Subscription:
        (found,) = [each for each in self.state.subscriptions.values() if each.inbox == inbox]
        return found

    def unacked(self, inbox: str) -> list[int]:
        return sorted(self.find(inbox).unacked)

    def members(self, inbox: str) -> list[str]:
        """Return the inboxes of the group that ``inbox`` belongs to, in the group's order."""
        return [member.inbox for member in self.find(inbox).group.members]


def client_open(
    client_id: str, conn: bytes | None = None, inbox: str = "", valid_until: int = LATE
) -> ClientOpen:
    return ClientOpen(
        client_id,
        client_id.encode() if conn is None else conn,
        inbox or f"hb.{client_id}",
        1,
        5,
        3,
        valid_until,
    )


def publishes(
    messages: int = 1, *, channel: str = "foo", client: str = "me", size: int = 20
) -> list[Command]:
    return [Publish("", client.encode(), channel, b"x" * size)] * messages


def check_invariants(state: State) -> None:
    """Check what holds after every entry."""
    if state.version == 1:  # a node of the older release must be able to install a snapshot of this state
        things = [state, *state.clients.values(), *state.channels.values(), *state.sessions.values()]
        things += [group for channel in state.channels.values() for group in channel.groups.values()]
        things += state.subscriptions.values()
        assert not any(pack_added(thing) for thing in things)
    online: dict[str, Subscription] = {}
    seen: list[int] = []
    for channel in state.channels.values():
        assert state.channels_by_id[channel.id] is channel
        log = channel.log
        sizes = [len(group.members) + (group.shadow is not None) for group in channel.groups.values()]
        assert channel.subscription_count == sum(sizes)
        assert log.bytes == sum(log.size(seq) for seq in range(log.first, log.last + 1))
        for group in channel.groups.values():
            assert group.channel is channel
            online.update({member.ack_inbox: member for member in group.members})
            seen += [member.id for member in group.members]
            if group.shadow is not None:
                seen.append(group.shadow.id)
            _check_group(state, group)
    assert state.by_ack_inbox == online
    assert sorted(seen) == list(state.subscriptions)
    held = [member for client in state.clients.values() for member in client.subscriptions.values()]
    assert sorted(member.id for member in held) == sorted(member.id for member in online.values())
    for session in state.sessions.values():
        assert all(serial >= session.lowest_waited for serial in session.outcomes)
        assert list(session.outcomes) == sorted(session.outcomes)


def _check_group(state: State, group: Group) -> None:
    assert bool(group.members) != (group.shadow is not None)
    assert group.durable or group.shadow is None
    assert group.purged is None or group.id in state.sendable or group.id in state.redelivery_due, (
        "a purge is forgotten"
    )
    assert group.queue or len(group.members) <= 1
    holders = [member.unacked for member in group.members] + [group.orphans]
    if group.shadow is not None:
        assert not group.shadow.due
        assert not group.shadow.due_before
        assert not group.shadow.missed
        assert not group.shadow.due_here
        assert not group.shadow.unreachable
        holders.append(group.shadow.unacked)
    held = [seq for holder in holders for seq in holder]
    assert len(held) == len(set(held)), "a message is held twice"
    assert all(seq <= group.cursor for seq in held)
    for member in group.members:
        _check_member(state, member)
    log = group.channel.log
    first = log.first if state.version > 1 else 0
    able = [member for member in group.members if member.reachable]
    has_capacity = group.paused_ns is None and any(
        not member.stalled or member.last_sent < first for member in able
    )
    if has_capacity and log.last >= max(group.cursor + 1, log.first):
        assert group.id in state.sendable or group.id in state.redelivery_due, "new messages are forgotten"
    if any(may_redeliver(member) for member in group.members):
        gone = [m for m in group.members if not m.reachable and m.unacked and not state.cold_grace_ns]
        if (
            group.orphans
            or gone
            or any(m.due or m.due_before or m.missed for m in group.members if m.reachable)
        ):
            assert group.id in state.redelivery_due, "due messages are forgotten"


def _check_member(state: State, member: Subscription) -> None:
    assert member.client is state.clients[member.client_id]
    assert member.due == sorted(set(member.due), reverse=True)
    due = set(member.due)
    if member.group.id not in state.redelivery_due:
        assert due or member.due_before or member.missed or not member.due_here
    assert max(member.unacked, default=0) <= member.last_sent
    records = list(member.unacked.values())
    assert all(
        (one.sent_at_ns, one.entry) <= (other.sent_at_ns, other.entry) for one, other in pairwise(records)
    )
    assert all(one.entry <= other.entry for one, other in pairwise(records))
    running = [
        record
        for seq, record in member.unacked.items()
        if seq not in due and record.entry >= member.due_before
    ]
    assert member.group.paused_ns is None or member.id not in state.ack_deadlines, (
        "an AckWait runs in a pause"
    )
    assert all(record.sent_at_ns <= member.group.clock(state.time_ns) for record in running)
    if (
        may_redeliver(member) and records and member.group.id not in state.redelivery_due
    ):  # see ack_waits.watch
        assert not due, "due messages are forgotten"
        assert not member.due_before, "due messages are forgotten"
        assert not member.missed, "missed messages are forgotten"
        first_ns = records[0].sent_at_ns + member.ack_wait_ns + member.group.stood_ns
        armed_ns = state.ack_deadlines.armed(member.id)
        assert armed_ns is not None, "a deadline is forgotten"
        assert armed_ns <= first_ns
        assert first_ns > state.time_ns or state.marked, "an AckWait has passed and nothing happened"
