"""Dispatch: which subscription gets which message, decided once an entry, for each cursor touched.

An entry's commands only mark groups: *overdue* (something is due at once) or *hungry* (there may be
something new to send, and room for it). After the last command, each overdue group sends what is
due, in sequence order, then each hungry one what is new (R1). Both lists are worked off in order
and within bounds (R19); who isn't finished goes to the end of the list, and stays marked for the
next entry.

What is **due at once**: messages whose AckWait has run out, orphans of members that left, what a
member holds that nobody hears while another can hear, everything unacked after a resume or a cold
start, and what was sent while its receiver was gone. It goes out whatever max in flight says (D3).

However much is due, an entry looks at so much of it and no more. Since ``unacked`` stands in order of time,
what has passed its AckWait is the front of it, and so is everything before some entry (``due_before``). Only
from there, ``ORDERED_MAX`` at a time, messages are put into order of sequence (``due``) and sent. So with
more than that unacked on one subscription each such part is in order, and the parts in order of time.

What **waits**: nothing at all is sent to a subscription that nobody hears, nothing is redelivered to
a plain or durable one whose client is silent (D25). Such a subscription is not marked and has no
deadline to look at; ``resume_sending`` looks again when it is back. The same holds for all that share a
cursor which an operator has paused; their AckWaits stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import cast

from node.units import Seq

from .effects import Deliver
from .group import choose_for_redelivery, share_out
from .state import Group, Missed, Record, State, Subscription
from .turn import Turn

ENTRY_MESSAGES_MAX = 2000
"""How many messages an entry sends at most; a group looked at counts as one."""

GROUP_MESSAGES_MAX = 500
"""How many of them go to one subscription or queue group."""

ORDERED_MAX = 8192
"""How many due messages of a group are put in order of sequence at a time."""

LOOKS_MAX = 2 * ORDERED_MAX
"""An entry that has looked at so many records to find what is due looks at no other group."""

FIRED_MAX = 2000
"""How many subscriptions an entry finds to have something due; others have their turn in the next."""

MEMBERS_FOR_ONE = 64
"""Choosing one of so many members counts like a message: each is looked at for each message."""

DELIVERIES_MAX = (1 << 32) - 1
"""The redelivery count on the wire has 32 bits; after its highest value it is 1 again, never 0 (D7)."""


def dispatch(turn: Turn) -> None:
    """Send what is due at the entry's time, then what is new."""
    state = turn.state
    _fire(turn)
    budget = _work_off(turn, state.overdue, _send_due, ENTRY_MESSAGES_MAX)
    turn.looks = 0  # what is new needs no looking for, and doesn't wait for other groups' due ones
    _work_off(turn, state.hungry, _send_new, budget)


def _fire(turn: Turn) -> None:
    """Mark the groups of subscriptions for whose first message AckWait has passed.

    In order of that deadline. What differs between nodes doesn't count: a lazy deadline is set right first,
    and one whose group is overdue already is forgotten (a restored node may not even have it).
    """
    state, deadlines, now_ns = turn.state, turn.state.ack_deadlines, turn.time_ns
    fired = 0
    while fired < FIRED_MAX:
        passed = deadlines.pop(now_ns)
        if passed is None:
            return
        deadline_ns, number = passed
        member = state.subscriptions.get(number)
        if member is None or member.group.id in state.overdue or not may_redeliver(member):
            continue  # ``watch`` is called when its group isn't overdue any more, or it may be sent to again
        exact_ns = _first_deadline(member)
        if exact_ns == deadline_ns:
            state.overdue[member.group.id] = member.group
            fired += 1
        elif exact_ns is not None:
            deadlines.arm(number, exact_ns)
    turn.behind = True


def _work_off(
    turn: Turn,
    marked: dict[int, Group],
    send: Callable[[Turn, Group, int], tuple[int, bool]],
    budget: int,
) -> int:
    """Let each marked group send, within ``budget``; what is left of that."""
    for group in list(marked.values()):
        if budget <= 0 or turn.looks >= LOOKS_MAX:
            break
        del marked[group.id]
        cost = 1 + len(group.members) // MEMBERS_FOR_ONE
        sent, unfinished = send(turn, group, max(1, min(budget // cost, GROUP_MESSAGES_MAX)))
        if unfinished:
            marked[group.id] = group
        budget -= (sent or 1) * cost
    return budget


# --- what is new ---------------------------------------------------------------------------------


def _send_new(turn: Turn, group: Group, most: int) -> tuple[int, bool]:
    """Send up to ``most`` new messages; how many, and whether there are more to send now."""
    state = turn.state
    if group.id in state.overdue:
        return 0, False  # the due ones are ahead of the new; when they are out, it is hungry again
    log, members = group.channel.log, group.members
    if group.paused_ns is not None:
        return 0, False
    if turn.behind and any(_passed(member, turn.time_ns) for member in members):
        return 0, True
    first = max(group.cursor + 1, log.first)  # what has gone unsent is skipped (D11)
    last = min(log.last, first + most - 1)
    if first > last or not members:
        return 0, False
    if len(members) > 1:
        return _share_new(turn, group, first, last)
    member = members[0]
    last = min(last, first + member.max_in_flight - len(member.unacked) - 1)
    if first > last or not member.heard:
        return 0, False
    seqs = range(first, last + 1)
    member.unacked.update(_new_records(turn, group, seqs))
    member.last_sent = last
    turn.effects.deliveries.append(Deliver(member.id, cast("Sequence[Seq]", seqs), turn.index))
    _sent(state, member)
    _moved(turn, group, last)
    return len(seqs), last < log.last and not member.stalled


def _share_new(turn: Turn, group: Group, first: int, last: int) -> tuple[int, bool]:
    """The same for a queue group of several."""
    able = [member for member in group.members if member.heard]
    if not able:
        return 0, False
    receivers = share_out(group, able, first, last, turn.time_ns)
    records = _new_records(turn, group, range(first, first + len(receivers)))
    for seq, member in enumerate(receivers, first):
        member.unacked[seq] = records[seq]
        member.last_sent = max(member.last_sent, seq)
    _deliver(turn, list(zip(receivers, range(first, last + 1), strict=False)))
    if receivers:
        _moved(turn, group, first + len(receivers) - 1)
    return len(receivers), first + len(receivers) > last and last < group.channel.log.last


def _new_records(turn: Turn, group: Group, seqs: range) -> dict[int, Record]:
    """Of messages that the cursor comes to: sent for the first time, unless it was put back behind them."""
    records = dict.fromkeys(seqs, Record(turn.time_ns, turn.index, 1))
    if seqs.start <= group.replayed_to:
        before = range(seqs.start, min(seqs.stop, group.replayed_to + 1))
        records.update(dict.fromkeys(before, Record(turn.time_ns, turn.index, 2)))
    return records


def _moved(turn: Turn, group: Group, cursor: int) -> None:
    group.cursor = cursor
    turn.state.touched.groups[group.id] = group.channel.id


def _deliver(turn: Turn, dealt: list[tuple[Subscription, int]]) -> None:
    """The members' unacked has what was dealt to them; let it be delivered, in this order.

    In the order of sequences and not member by member: on a shared connection acks would come back in
    blocks, and who acks first would get the most of what comes next.
    """
    deliveries, index = turn.effects.deliveries, turn.index
    last: Subscription | None = None
    seqs: list[Seq] = []
    receivers: dict[int, Subscription] = {}
    for member, seq in dealt:
        if member is not last:
            last, seqs = member, []
            deliveries.append(Deliver(member.id, seqs, index))
            receivers[member.id] = member
        seqs.append(cast(Seq, seq))
    for member in receivers.values():
        _sent(turn.state, member)


def _sent(state: State, member: Subscription) -> None:
    state.touched.unacked[member.id] = None
    if member.id not in state.ack_deadlines:
        watch(state, member)


# --- what is due ---------------------------------------------------------------------------------


def _send_due(turn: Turn, group: Group, most: int) -> tuple[int, bool]:
    """Send up to ``most`` due messages again; how many, and whether there are more to send now."""
    state = turn.state
    state.hungry[group.id] = group  # in any case: rooms may have changed, and the new were held back
    able = [member for member in group.members if may_redeliver(member)]
    if not able:
        for member in group.members:
            _keep_here(state, member)
        return 0, False
    holders = [member for member in group.members if _gives(turn, member)]
    for giver in holders:
        if not giver.heard:
            giver.due_before = turn.index  # all it has
            giver.missed = None
        elif turn.looks < LOOKS_MAX:
            find_missed(turn, giver)
        _put_in_order(turn, giver, wanted=most, at_most=max(most, ORDERED_MAX // len(holders)))
    claims = _next_due(group, holders, most)
    dealt: list[tuple[Subscription, int]] = []
    fresh: dict[int, Record] = {}
    first_in_log = group.channel.log.first
    for seq, holder in claims:
        unacked = group.orphans if holder is None else holder.unacked
        record = unacked.get(seq)
        if record is None or seq < first_in_log:  # acked meanwhile (D26), or gone from the log (D24)
            unacked.pop(seq, None)
            continue
        if len(able) == 1:
            receiver = able[0]
        elif holder is not None and holder.due_here and holder.heard:
            receiver = holder
        else:
            receiver = choose_for_redelivery(group, able)
        del unacked[seq]
        again = fresh.get(record.deliveries)
        if again is None:
            again = fresh[record.deliveries] = _again(turn, record)
        receiver.unacked[seq] = again
        receiver.last_sent = max(receiver.last_sent, seq)
        dealt.append((receiver, seq))
    for giver in holders:
        state.touched.unacked[giver.id] = None
    state.touched.groups[group.id] = group.channel.id
    _deliver(turn, dealt)
    for giver in holders:
        _keep_here(state, giver)
    if group.orphans or any(_gives(turn, member) for member in group.members):
        return len(claims), True
    for member in group.members:  # not the holders only: what another had due may have been acked meanwhile
        watch(state, member)
    return len(claims), False


def _gives(turn: Turn, member: Subscription) -> bool:
    """``member`` holds messages that are due. What nobody hears gives all it has to the others.

    After a cold start it keeps them for the grace: its client may still be on its way back (R14).
    """
    if member.heard:
        return _has_due(turn, member)
    return bool(member.unacked) and not turn.state.cold_grace_ns


def _has_due(turn: Turn, member: Subscription) -> bool:
    return bool(member.due or member.due_before or member.missed or _passed(member, turn.time_ns))


def _put_in_order(turn: Turn, member: Subscription, *, wanted: int, at_most: int) -> None:
    """See that ``wanted`` of its due messages, if there are so many, stand in order of sequence.

    Looks at ``at_most`` records beyond those that do already; the more at a time, the more of them are
    sent in order of sequence rather than of time.
    """
    if len(member.due) >= wanted:
        return
    paused_ns = member.group.paused_ns
    latest_ns = (turn.time_ns if paused_ns is None else paused_ns) - member.ack_wait_ns
    known = set(member.due)
    found: list[int] = []
    turn.looks += len(known)  # they may all stand in front
    for seq, record in member.unacked.items():
        if seq in known:
            continue
        if record.entry >= member.due_before and record.sent_at_ns > latest_ns:
            member.due_before = 0
            break
        if len(found) == at_most:
            break
        found.append(seq)
    else:
        member.due_before = 0
    turn.looks += len(found) + 1
    if found:
        found += member.due
        found.sort(reverse=True)
        member.due = found
    _keep_here(turn.state, member)


def _keep_here(state: State, member: Subscription) -> None:
    """Only while something is due: it may turn out to be acked, or gone."""
    if member.due_here and not (member.due or member.due_before or member.missed):
        member.due_here = False
        state.touched.unacked[member.id] = None


def _next_due(group: Group, holders: list[Subscription], most: int) -> list[tuple[int, Subscription | None]]:
    """Take the ``most`` lowest due sequences off their lists, in order, each with who holds it."""
    orphans = sorted(islice(group.orphans, ORDERED_MAX))
    claims: list[tuple[int, Subscription | None]] = [(seq, None) for seq in orphans[:most]]
    for holder in holders:
        claims += [(seq, holder) for seq in holder.due[: -most - 1 : -1]]
    claims.sort(key=lambda claim: claim[0])
    del claims[most:]
    for _, giver in claims:
        if giver is not None:
            giver.due.pop()
    return claims


def _again(turn: Turn, record: Record) -> Record:
    deliveries = record.deliveries + 1
    if deliveries > DELIVERIES_MAX + 1:
        deliveries = 2
    return Record(turn.time_ns, turn.index, deliveries)


# --- deadlines -----------------------------------------------------------------------------------


def may_redeliver(member: Subscription) -> bool:
    """A message may be sent to it again. A silent member of a queue group takes its part (D29)."""
    group = member.group
    return member.heard and group.paused_ns is None and (bool(group.queue) or not member.silent)


def _first_deadline(member: Subscription) -> int | None:
    """When AckWait passes for the first of what it holds, None if nothing. Asked while nothing is due."""
    first = next(iter(member.unacked.values()), None)
    return None if first is None else first.sent_at_ns + member.ack_wait_ns


def _passed(member: Subscription, now_ns: int) -> bool:
    """AckWait has passed for a message that may be sent to it again. Asked while nothing is due."""
    if not may_redeliver(member):
        return False
    deadline_ns = _first_deadline(member)
    return deadline_ns is not None and deadline_ns <= now_ns


def watch(state: State, member: Subscription) -> None:
    """Arm the deadline of its first unacked message, if it may be sent to at all.

    Not while its group is overdue: who sends what is due looks for more, and calls this for every member when
    there is none. So always: *who holds something that may be sent to it again is armed, no later than
    when the first of it falls due; or its group is overdue.* That follows from the state alone, as it must:
    otherwise a restored node, which arms everyone of whom it is true, would find other messages due (R30).
    """
    if member.id in state.ack_deadlines or member.group.id in state.overdue or not may_redeliver(member):
        return
    deadline_ns = _first_deadline(member)
    if deadline_ns is not None:
        state.ack_deadlines.arm(member.id, deadline_ns)


def resume_sending(
    turn: Turn,
    member: Subscription,
    gone_since_ns: int | None = None,
    back_ns: int | None = None,
    *,
    here: bool = False,
) -> None:
    """Make due what has waited for its AckWait, and what was sent from ``gone_since_ns`` to ``back_ns``.

    Called when a subscription that could not be sent to may be again. ``here``: what is due goes to this
    member, not to the one that its group would choose. Which messages those are is looked up when its group
    has its turn: one client may have thousands of subscriptions, and thousands of clients be back at once.
    """
    state = turn.state
    last = next(reversed(member.unacked), None)
    if gone_since_ns is not None and last is not None and member.unacked[last].sent_at_ns >= gone_since_ns:
        before_ns = turn.time_ns + 1 if back_ns is None else back_ns
        known = member.missed or Missed(gone_since_ns, before_ns, turn.index)
        member.missed = Missed(
            min(known.since_ns, gone_since_ns), max(known.before_ns, before_ns), turn.index
        )
    if _has_due(turn, member):
        member.due_here = member.due_here or here
        state.overdue[member.group.id] = member.group
    state.touched.unacked[member.id] = None
    watch(state, member)


def find_missed(turn: Turn, member: Subscription) -> None:
    """What it has missed joins what is due, if it is among the last ``ORDERED_MAX``."""
    if member.missed is None:
        return
    since_ns, before_ns, entry = member.missed
    _put_in_order(turn, member, wanted=ORDERED_MAX, at_most=ORDERED_MAX)
    member.missed = None
    found: list[int] = []
    for seq in islice(reversed(member.unacked), ORDERED_MAX):
        turn.looks += 1
        record = member.unacked[seq]
        if record.sent_at_ns < since_ns:
            break
        if record.sent_at_ns < before_ns and record.entry < entry:
            found.append(seq)
    if found:
        member.due = sorted({*member.due, *found}, reverse=True)
    _keep_here(turn.state, member)


def make_all_due(turn: Turn, member: Subscription, *, here: bool = False) -> None:
    """All that is unacked before this entry is due at once."""
    if member.unacked:
        member.due_before = turn.index
        member.due_here = member.due_here or here
        turn.state.touched.unacked[member.id] = None
        turn.state.overdue[member.group.id] = member.group
