"""An independent model of the decisions in the log, computed from entries and effects.

The first node that applies an entry reports it; the effects of the other nodes must be equal. The model
contains the rules of redelivery in a few lines, written from the rules and not from the core: which
subscription holds each message since when, whether its ack was applied, and for which reasons the message
may be redelivered. The reasons are: its AckWait has passed in cluster time; its holder has left, or resumed
(D46); its holder is unreachable, and other members of the group are not (R15); its holder was disconnected
when it was sent, or the connection ended before the message was written (R10, R15); a cold start (R14). Any
other redelivery is a violation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from node.core import commands as c
from node.core import entries
from node.core.effects import Effects, Refused, Store
from node.core.state import State, Subscription
from node.protocol.streaming import decode_message
from node.simulator.raft_checks import ViolationError
from node.simulator.sim_messages import guid_of, is_whole

COMPARE_EVERY = 16
"""Number of entries between two comparisons of the whole model with the state."""


@dataclass(slots=True)
class Held:
    """A message that was sent and is not acknowledged."""

    holder: int
    sent_at_ns: int
    deliveries: int
    entry: int
    redelivery_reason: str = ""
    """Why it may be redelivered before its AckWait has passed; empty: it may not."""


@dataclass(slots=True)
class Member:
    """A subscription as of the last entry."""

    id: int
    generation: tuple[int, int]
    group: int
    client: str
    inbox: str
    ack_inbox: str
    ack_wait_ns: int
    max_in_flight: int


@dataclass(slots=True)
class Cursor:
    """A group: the subscriptions that share a cursor, and their unacknowledged messages."""

    channel: int
    cursor: int | None = None
    held: dict[int, Held] = field(default_factory=dict)
    acked: dict[int, int] = field(default_factory=dict)
    """The index of the entry that contained the ack, by sequence."""


class ReferenceModel:
    """The model. It gets every entry once, in order."""

    def __init__(self) -> None:
        self.applied = 0
        self.time_ns = self._before_ns = 0
        self.timestamp_ns = 0
        self.term = 0
        self.stored: dict[bytes, str] = {}
        """The channel of every message, by its GUID."""
        self.refused: set[bytes] = set()
        """GUIDs of publishes that a node without a leader refused: they must never be stored (R8)."""
        self.logs: dict[str, list[bytes]] = {}
        """The data of each message: a list by sequence, by channel."""
        self.groups: dict[int, Cursor] = {}
        self.members: dict[int, Member] = {}
        """The online subscriptions."""
        self.by_inbox: dict[str, tuple[int, int]] = {}
        """(subscription, group) of every message inbox that ever existed."""
        self.cold_starts = 0
        self.redeliveries: list[tuple[int, int, int, str]] = []
        """(entry, sequence, nanoseconds after its deadline, inbox) of each redelivery by the last entry."""
        self._by_ack_inbox: dict[str, Member] = {}
        self._clients: dict[str, tuple[int, int]] = {}
        self._sessions: dict[str, tuple[tuple[int, int], int]] = {}
        self._away_since: dict[tuple[str, object], int] = {}
        self._order: dict[tuple[str, str], int] = {}
        self._names: dict[int, str] = {}
        """The names of channels."""
        self._batch: entries.Entry

    def log(self, channel: str) -> list[bytes]:
        """Return the messages of a channel by sequence; there is no message 0."""
        return self.logs.get(channel, [b""])

    # --- one entry --------------------------------------------------------------------------------

    def entry(self, index: int, data: bytes, effects: Effects, state: State) -> None:
        """Check entry ``index``, which was applied for the first time on any node.

        Raises:
            ViolationError: its effects break a rule.
        """
        entry = entries.decode_entry(data)
        if entry.time_ns < self.time_ns or entry.timestamp_ns < self.timestamp_ns:
            raise ViolationError("time", f"entry {index} goes back in time")
        self._before_ns = self.time_ns
        self.applied, self.time_ns, self.timestamp_ns = index, entry.time_ns, entry.timestamp_ns
        self.redeliveries = []
        for fields in entry.leader_commands:
            self._leader_commands(entries.decode_leader_command(fields))
        published = 0
        for batch in entry.batches:
            published += self._origin(index, batch, effects)
        for stored in effects.stored:
            self._store(stored)
        stored_count = sum(len(stored.bodies) for stored in effects.stored)
        if stored_count != published:
            raise ViolationError(
                "exactly once", f"entry {index} stores {stored_count} messages, {published} were published"
            )
        self._update_members(state)
        self._deliver(index, effects, state)
        self._check_due(index, state)
        if index % COMPARE_EVERY == 0:
            self.compare(state)

    def _leader_commands(self, command: c.LeaderCommand) -> None:
        if isinstance(command, c.NewTerm):
            if command.term > self.term:
                self.term = command.term
                self._begin_term(command.known_commit)
            return
        if command.term != self.term:
            return
        match command:
            case c.ColdStart():
                self.cold_starts += 1
                for group in self.groups.values():
                    self._allow_redelivery(group, "cold start")
            case c.ClientAway(_, client, generation, since) | c.ClientUnreachable(
                _, client, generation, since
            ):
                if self._clients.get(client) == generation:
                    self._away_since.setdefault(("client", client), since)
                    self._allow_redelivery_of(
                        lambda member: member.client == client, "its holder is unreachable"
                    )
                    if isinstance(command, c.ClientUnreachable):
                        self._lost(lambda member: member.client == client, command.written)
            case c.ClientBack(_, client, generation, since, back):
                if self._clients.get(client) == generation:
                    since = min(since, self._away_since.pop(("client", client), since))
                    self._back(lambda member: member.client == client, since, back)
            case c.ClientReachable(_, client, generation, since, back, written, after, to):
                if self._clients.get(client) == generation:
                    since = min(since, self._away_since.pop(("client", client), since))
                    self._back(lambda member: member.client == client, since, back)
                    self._lost(lambda member: member.client == client, written, since, back, after, to)
            case c.SessionEnd(_, node, session):
                if self._sessions.get(node, (None, 0))[0] == session:
                    del self._sessions[node]
            case c.ClientRemove(_, client, generation):
                if self._clients.get(client) == generation:
                    for member in [member for member in self.members.values() if member.client == client]:
                        self._remove_member(member)
            case c.SubscriptionAway(_, number, generation, since) | c.SubscriptionUnreachable(
                _, number, generation, since
            ):
                found = self.members.get(number)
                if found is not None and found.generation == generation:
                    self._away_since.setdefault(("subscription", number), since)
                    self._allow_redelivery_of(lambda member: member.id == number, "its holder is unreachable")
                    if isinstance(command, c.SubscriptionUnreachable):
                        self._lost(lambda member: member.id == number, command.written)
            case c.SubscriptionBack(_, number, generation, since, back):
                found = self.members.get(number)
                if found is not None and found.generation == generation:
                    since = min(since, self._away_since.pop(("subscription", number), since))
                    self._back(lambda member: member.id == number, since, back)
            case c.SubscriptionReachable(_, number, generation, since, back, written, after, to):
                found = self.members.get(number)
                if found is not None and found.generation == generation:
                    since = min(since, self._away_since.pop(("subscription", number), since))
                    self._back(lambda member: member.id == number, since, back)
                    self._lost(lambda member: member.id == number, written, since, back, after, to)
            case _:
                pass

    def _begin_term(self, known_commit: int) -> None:
        for group in self.groups.values():
            for held in group.held.values():
                if held.entry > known_commit:
                    holder = self.members.get(held.holder)
                    if holder is not None and held.sent_at_ns + holder.ack_wait_ns <= self._before_ns:
                        held.redelivery_reason = held.redelivery_reason or "it was due before the term began"
                    held.sent_at_ns = self.time_ns

    def _allow_redelivery(self, group: Cursor, why: str) -> None:
        for held in group.held.values():
            held.redelivery_reason = held.redelivery_reason or why

    def _allow_redelivery_of(self, which: Any, why: str, since_ns: int = 0, before_ns: int = 1 << 62) -> None:
        numbers = {member.id for member in self.members.values() if which(member)}
        for number in numbers:
            for held in self.groups[self.members[number].group].held.values():
                if held.holder == number and since_ns <= held.sent_at_ns < before_ns:
                    held.redelivery_reason = held.redelivery_reason or why

    def _back(self, which: Any, since_ns: int, before_ns: int) -> None:
        self._allow_redelivery_of(which, "sent while its holder was away", since_ns, before_ns)

    def _lost(
        self,
        which: Any,
        written: int,
        since_ns: int = 1 << 62,
        before_ns: int = 1 << 62,
        restarted_after: int = 0,
        restarted_to: int = 0,
    ) -> None:
        """Allow redelivery of what an ended connection may have lost: entries above ``written``."""
        for member in [member for member in self.members.values() if which(member)]:
            for held in self.groups[member.group].held.values():
                early = held.sent_at_ns < before_ns or restarted_after < held.entry < restarted_to
                if (
                    held.holder == member.id
                    and early
                    and (held.entry > written or held.sent_at_ns >= since_ns)
                ):
                    held.redelivery_reason = (
                        held.redelivery_reason or "not written before its connection ended"
                    )

    def _origin(self, index: int, batch: entries.Batch, effects: Effects) -> int:
        """Apply the new commands of an origin's batch. Returns how many of them are publishes."""
        if batch.session is None:
            asked = entries.decode_session_open(batch.commands)
            for opened in effects.sessions:
                if (opened.node, opened.nonce) == asked:
                    current = self._sessions.get(opened.node)
                    if current is None or current[0] != opened.session:
                        self._sessions[opened.node] = (opened.session, 0)
            return 0
        node = next((name for name, (number, _) in self._sessions.items() if number == batch.session), None)
        if node is None:
            return 0
        number, applied = self._sessions[node]
        commands = entries.decode_commands(batch.commands)
        last = batch.first_serial + len(commands) - 1
        if batch.first_serial > applied + 1:
            raise ViolationError("sessions", f"a gap in the session of {node} at entry {index}")
        fresh = commands[max(0, applied + 1 - batch.first_serial) :]
        self._sessions[node] = (number, max(applied, last))
        refused = {
            serial
            for replies in effects.replies
            if replies.session == number
            for serial, outcome in replies.others.items()
            if isinstance(outcome, Refused)
        }
        published = 0
        for serial, fields in enumerate(fresh, last + 1 - len(fresh)):
            command = entries.decode_origin(fields)
            if serial in refused:
                continue
            if isinstance(command, c.Publish):
                published += 1
            else:
                self._request(index, command)
        return published

    def _request(self, index: int, command: c.OriginCommand) -> None:
        match command:
            case c.Acked(_, ack_inbox, seqs):
                member = self._by_ack_inbox.get(ack_inbox)
                if member is not None:
                    group = self.groups[member.group]
                    for seq in seqs:
                        if group.held.pop(seq, None) is not None:
                            group.acked[seq] = index
            case c.SubscriptionClose(client, _, inbox) | c.Unsubscribe(client, _, inbox):
                for member in list(self.members.values()):
                    if member.client == client and inbox in {member.inbox, member.ack_inbox}:
                        self._remove_member(member)
            case c.ClientClose(client) | c.ClientReplace(client):
                for member in list(self.members.values()):
                    if member.client == client:
                        self._remove_member(member)
            case _:
                pass

    def _remove_member(self, member: Member) -> None:
        """Remove a member. Later commands in this entry that name its ack inbox have no effect."""
        self._by_ack_inbox.pop(member.ack_inbox, None)
        self._allow_redelivery_of(lambda other: other.id == member.id, "its holder has left")

    def _store(self, stored: Store) -> None:
        log = self.logs.setdefault(stored.name, [b""])
        self._names[stored.channel] = stored.name
        if stored.first != len(log):
            raise ViolationError("sequences", f"message {stored.first} in {stored.name} after {len(log) - 1}")
        for body in stored.bodies:
            data = decode_message(body).data
            guid = guid_of(data)
            if not is_whole(data):
                raise ViolationError("content", f"{guid!r} is stored as {data!r}")
            if guid in self.refused:
                raise ViolationError("refused", f"{guid!r} was refused without a leader, but is stored")
            if guid in self.stored:
                raise ViolationError("exactly once", f"{guid!r} is stored twice")
            self.stored[guid] = stored.name
            log.append(data)
            connection, _, number = guid.decode().rpartition("/")
            source = (connection, stored.name)
            if self._order.get(source, -1) >= int(number):
                raise ViolationError("order", f"{guid!r} is stored after a later message of its client")
            self._order[source] = int(number)

    # --- effects ------------------------------------------------------------------------------------

    def _update_members(self, state: State) -> None:
        before, self.members = self.members, {}
        self._by_ack_inbox = {}
        for subscription in state.subscriptions.values():
            if not subscription.online:
                continue
            current = before.get(subscription.id)
            if current is None or current.generation != subscription.generation:
                current = self._new_member(subscription)
            self.members[current.id] = current
            self._by_ack_inbox[current.ack_inbox] = current
        for number, member in before.items():
            now = self.members.get(number)
            if now is None or now.generation != member.generation:
                for held in self.groups[member.group].held.values():
                    if held.holder == number:
                        held.redelivery_reason = held.redelivery_reason or "its holder has left"
                self._away_since.pop(("subscription", number), None)
        live = {group for channel in state.channels.values() for group in channel.groups}
        for number in list(self.groups):
            if number not in live:
                self.groups[number].held.clear()
        if len(self._clients) != len(state.clients) or any(
            self._clients.get(name) != client.generation for name, client in state.clients.items()
        ):
            for name in self._clients:
                if name not in state.clients or state.clients[name].generation != self._clients[name]:
                    self._away_since.pop(("client", name), None)
            self._clients = {name: client.generation for name, client in state.clients.items()}

    def _new_member(self, subscription: Subscription) -> Member:
        member = Member(
            subscription.id,
            subscription.generation,
            subscription.group.id,
            subscription.client_id,
            subscription.inbox,
            subscription.ack_inbox,
            subscription.ack_wait_ns,
            subscription.max_in_flight,
        )
        group = self.groups.setdefault(member.group, Cursor(subscription.channel.id))
        self.by_inbox[member.inbox] = (member.id, member.group)
        for held in group.held.values():  # a resume redelivers everything; orphans get a new holder
            if held.holder == member.id:
                held.redelivery_reason = held.redelivery_reason or "resumed"
        return member

    def _deliver(self, index: int, effects: Effects, state: State) -> None:
        got_new: dict[int, int] = {}
        last_again: dict[int, int] = {}
        for deliver in effects.deliveries:
            member = self.members.get(deliver.subscription)
            if member is None or deliver.entry != index:
                raise ViolationError("delivery", f"entry {index} delivers to no subscription: {deliver}")
            group = self.groups[member.group]
            for seq in deliver.seqs:
                if seq in group.held:
                    if member.id in got_new:
                        raise ViolationError("order", f"entry {index} sends {seq} again after new messages")
                    if last_again.get(member.group, 0) >= seq:
                        raise ViolationError("order", f"entry {index} sends {seq} again out of order")
                    last_again[member.group] = seq
                    self._send_again(index, group, member, seq)
                else:
                    self._send_new(index, group, member, seq)
                    got_new[member.id] = seq
        for number in got_new:
            member = self.members[number]
            if len(state.subscriptions[number].unacked) > member.max_in_flight:
                raise ViolationError("max in flight", f"entry {index} gives {member.inbox} too much")
        self._check_counts(effects, state)

    def _send_new(self, index: int, group: Cursor, member: Member, seq: int) -> None:
        if seq in group.acked:
            raise ViolationError("acks", f"{seq}, acked in entry {group.acked[seq]}, is sent in {index}")
        if seq != (group.cursor or 0) + 1:  # all groups start at the first message, and no limit drops any
            raise ViolationError("cursor", f"entry {index} sends {seq} to a cursor at {group.cursor}")
        if seq >= len(self.log(self._names.get(group.channel, ""))):
            raise ViolationError("cursor", f"entry {index} sends {seq}, which is not in the log")
        group.cursor = seq
        group.held[seq] = Held(member.id, self.time_ns, 1, index)

    def _send_again(self, index: int, group: Cursor, member: Member, seq: int) -> None:
        held = group.held[seq]
        holder = self.members.get(held.holder)
        if not held.redelivery_reason:
            assert holder is not None
            due_ns = held.sent_at_ns + holder.ack_wait_ns
            if due_ns > self.time_ns:
                raise ViolationError(
                    "AckWait",
                    f"entry {index} sends {seq} again to {member.inbox}, "
                    f"{(due_ns - self.time_ns) / 1e9:.3f} s before its deadline",
                )
            self.redeliveries.append((index, seq, self.time_ns - due_ns, holder.inbox))
        del group.held[seq]
        group.held[seq] = Held(member.id, self.time_ns, held.deliveries + 1, index)

    def _check_counts(self, effects: Effects, state: State) -> None:
        for deliver in effects.deliveries:
            records = state.subscriptions[deliver.subscription].unacked
            group = self.groups[self.members[deliver.subscription].group]
            for seq in deliver.seqs:
                if records[seq].deliveries != group.held[seq].deliveries:
                    raise ViolationError("redelivery count", f"of message {seq}: {records[seq]}")

    def _check_due(self, index: int, state: State) -> None:
        if state.marked:
            return
        for subscription in state.subscriptions.values():
            client = subscription.client
            if client is None or client.unreachable or subscription.unreachable or not subscription.unacked:
                continue
            if client.unresponsive and not subscription.queue:
                continue
            seq = next(iter(subscription.unacked))
            held = self.groups[subscription.group.id].held.get(seq)
            if held is not None and held.sent_at_ns + subscription.ack_wait_ns <= self.time_ns:
                raise ViolationError("AckWait", f"{seq} is due and entry {index} doesn't redeliver it")

    def summary(self, data: bytes, effects: Effects) -> str:
        """Return one line for the trace: the commands of an entry, and its deliveries."""
        entry = entries.decode_entry(data)
        said = [_describe(entries.decode_leader_command(fields)) for fields in entry.leader_commands]
        for batch in entry.batches:
            if batch.session is None:
                said.append(f"session of {entries.decode_session_open(batch.commands)[0]}")
                continue
            for fields in entries.decode_commands(batch.commands):
                said.append(self._command(entries.decode_origin(fields)))
        done = [
            f"{_short(self.members[deliver.subscription].inbox)} gets {_ranges(deliver.seqs)}"
            for deliver in effects.deliveries
        ]
        return f"at {entry.time_ns / 1e9:.3f}: {', '.join(said)}" + (f" => {', '.join(done)}" if done else "")

    def _command(self, command: c.OriginCommand) -> str:
        match command:
            case c.Publish():
                return "publish {}".format(guid_of(command.body)[-12:].decode(errors="replace").lstrip())
            case c.Acked(_, ack_inbox, seqs):
                member = self._by_ack_inbox.get(ack_inbox)
                return f"{_short(member.inbox) if member else 'a removed subscription'} acks {_ranges(seqs)}"
            case _:
                return _describe(command)

    def compare(self, state: State) -> None:
        """Compare holder, time and number of deliveries of all unacknowledged messages with the state."""
        for channel in state.channels.values():
            for group in channel.groups.values():
                reference = self.groups.setdefault(group.id, Cursor(channel.id))
                found: dict[int, tuple[int, int, int]] = {}
                holders = group.members if group.shadow is None else [group.shadow]
                for member in holders:
                    for seq, record in member.unacked.items():
                        if seq in found:
                            raise ViolationError("one holder", f"message {seq} is held twice")
                        found[seq] = (member.id, record.sent_at_ns, record.deliveries)
                for seq, record in group.orphans.items():
                    held = reference.held[
                        seq
                    ]  # an orphan is due at once: no AckWait runs, and none is restarted
                    found[seq] = (held.holder, held.sent_at_ns, record.deliveries)
                present = {member.id for member in holders}
                expected = {
                    # The shadow has taken over what a member left behind, and so has its resumed member.
                    seq: (
                        held.holder if held.holder in present or seq not in found else found[seq][0],
                        held.sent_at_ns,
                        held.deliveries,
                    )
                    for seq, held in reference.held.items()
                }
                if found != expected:
                    wrong = {seq for seq in {*found, *expected} if found.get(seq) != expected.get(seq)}
                    raise ViolationError(
                        "unacked",
                        f"{group.name or group.durable or group.id} at entry {self.applied}: "
                        + ", ".join(f"{s}: {found.get(s)} not {expected.get(s)}" for s in sorted(wrong)[:3]),
                    )


def _short(inbox: str) -> str:
    return inbox.removeprefix("_INBOX.")


def _describe(command: object) -> str:
    """Return ``Name(field=value, …)`` without empty fields."""
    if not isinstance(command, tuple) or not hasattr(command, "_fields"):
        return str(command)
    fields = [f"{name}={value}" for name, value in zip(command._fields, command, strict=True) if value]
    return f"{type(command).__name__}({', '.join(fields)})"


def _ranges(seqs: Sequence[int]) -> str:
    first, last = seqs[0], seqs[-1]
    return f"{first}-{last}" if len(seqs) == last - first + 1 > 2 else ", ".join(map(str, seqs))
