"""Dispatch: which subscription gets which message, decided once an entry, for each cursor touched.

An entry's commands only mark groups: *overdue* (something is due at once) or *hungry* (there may be
something new to send, and room for it). After the last command, each overdue group sends what is
due, in sequence order, then each hungry one what is new (R1). Both lists are worked off in order
and within bounds (R19); who isn't finished goes to the end of the list, and stays marked for the
next entry.

What is due at once, and how it is found, is in ``due``; whose AckWait runs, in ``ack_waits``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from node.units import Seq

from . import due
from .ack_waits import first_deadline, may_redeliver, passed, watch
from .apply_context import ApplyContext
from .effects import Deliver
from .group import KEEPS_UP_1_NS, KEEPS_UP_NS, choose_for_redelivery, share_out
from .new_term import restart
from .purging import forget_purged, free_if_gone
from .state import Group, Record, State, Subscription
from .versions import EVEN_BURSTS

ENTRY_MESSAGES_MAX = 2000
"""How many messages an entry sends at most; a group looked at counts as one."""

GROUP_MESSAGES_MAX = 500
"""How many of them go to one subscription or queue group."""

FIRED_MAX = 2000
"""How many subscriptions an entry finds to have something due; others have their turn in the next."""

MEMBERS_FOR_ONE = 64
"""Choosing one of so many members counts like a message: each is looked at for each message."""

DELIVERIES_MAX = (1 << 32) - 1
"""The redelivery count on the wire has 32 bits; after its highest value it is 1 again, never 0 (D7)."""


def dispatch(context: ApplyContext) -> None:
    """Send what is due at the entry's time, then what is new.

    While redelivery is paused (R9) only what is new is sent, and not to a group with something due: an
    acknowledgement of that may stand in a later entry.
    """
    state = context.state
    if not restart(context):
        return
    if state.redelivery_paused:
        context.behind = True
        _work_off(context, state.sendable, _send_new, ENTRY_MESSAGES_MAX)
        return
    _fire(context)
    budget = _work_off(context, state.redelivery_due, _send_due, ENTRY_MESSAGES_MAX)
    context.looks = 0  # what is new needs no looking for, and doesn't wait for other groups' due ones
    _work_off(context, state.sendable, _send_new, budget)


def _fire(context: ApplyContext) -> None:
    """Mark the groups of subscriptions for whose first message AckWait has passed.

    In order of that deadline. What differs between nodes doesn't count: a lazy deadline is set right first,
    and one whose group is overdue already is forgotten (a restored node may not even have it).
    """
    state, deadlines, now_ns = context.state, context.state.ack_deadlines, context.time_ns
    fired = 0
    while fired < FIRED_MAX:
        passed = deadlines.pop(now_ns)
        if passed is None:
            return
        deadline_ns, number = passed
        member = state.subscriptions.get(number)
        if member is None or member.group.id in state.redelivery_due or not may_redeliver(member):
            continue  # ``watch`` is called when its group isn't overdue any more, or it may be sent to again
        exact_ns = first_deadline(member)
        if exact_ns == deadline_ns:
            state.redelivery_due[member.group.id] = member.group
            fired += 1
        elif exact_ns is not None:
            deadlines.arm(number, exact_ns)
    context.behind = True


def _work_off(
    context: ApplyContext,
    marked: dict[int, Group],
    send: Callable[[ApplyContext, Group, int], tuple[int, bool]],
    budget: int,
) -> int:
    """Let each marked group send, within ``budget``; what is left of that."""
    for group in list(marked.values()):
        if budget <= 0 or context.looks >= due.LOOKS_MAX:
            break
        del marked[group.id]
        cost = 1 + len(group.members) // MEMBERS_FOR_ONE
        sent, unfinished = send(context, group, max(1, min(budget // cost, GROUP_MESSAGES_MAX)))
        if unfinished:
            marked[group.id] = group
        budget -= (sent or 1) * cost
    return budget


# --- what is new ---------------------------------------------------------------------------------


def _send_new(context: ApplyContext, group: Group, most: int) -> tuple[int, bool]:
    """Send up to ``most`` new messages; how many, and whether there are more to send now."""
    state = context.state
    if not forget_purged(context, group):
        return 0, True
    if group.id in state.redelivery_due:
        return 0, False  # the due ones are ahead of the new; when they are out, it is hungry again
    log, members = group.channel.log, group.members
    if group.paused_ns is not None:
        return 0, False
    if context.behind and any(passed(member, context.time_ns) for member in members):
        return 0, True
    first = max(group.cursor + 1, log.first)  # what has gone unsent is skipped (D11)
    last = min(log.last, first + most - 1)
    if first > last or not members:
        return 0, False
    if len(members) > 1:
        return _share_new(context, group, first, last)
    member = members[0]
    if not member.reachable:
        return 0, False
    free_if_gone(context, member)
    last = min(last, first + member.max_in_flight - len(member.unacked) - 1)
    if first > last:
        return 0, False
    seqs = range(first, last + 1)
    member.unacked.update(_new_records(context, group, seqs))
    member.last_sent = last
    context.effects.deliveries.append(Deliver(member.id, cast("Sequence[Seq]", seqs), context.index))
    _sent(state, member)
    _moved(context, group, last)
    return len(seqs), last < log.last and not member.stalled


def _share_new(context: ApplyContext, group: Group, first: int, last: int) -> tuple[int, bool]:
    """The same for a queue group of several."""
    able = [member for member in group.members if member.reachable]
    if not able:
        return 0, False
    for member in able:
        free_if_gone(context, member)
    keeps_up_ns = KEEPS_UP_NS if EVEN_BURSTS.active(context.state.version) else KEEPS_UP_1_NS
    receivers = share_out(group, able, first, last, group.clock(context.time_ns), keeps_up_ns)
    records = _new_records(context, group, range(first, first + len(receivers)))
    for seq, member in enumerate(receivers, first):
        member.unacked[seq] = records[seq]
        member.last_sent = max(member.last_sent, seq)
    _deliver(context, list(zip(receivers, range(first, last + 1), strict=False)))
    if receivers:
        _moved(context, group, first + len(receivers) - 1)
    return len(receivers), first + len(receivers) > last and last < group.channel.log.last


def _new_records(context: ApplyContext, group: Group, seqs: range) -> dict[int, Record]:
    """Of messages that the cursor comes to: sent for the first time, unless it was put back behind them."""
    now_ns = group.clock(context.time_ns)
    records = dict.fromkeys(seqs, Record(now_ns, context.index, 1))
    if seqs.start <= group.replayed_to:
        before = range(seqs.start, min(seqs.stop, group.replayed_to + 1))
        records.update(dict.fromkeys(before, Record(now_ns, context.index, 2)))
    return records


def _moved(context: ApplyContext, group: Group, cursor: int) -> None:
    group.cursor = cursor
    context.state.dirty.groups[group.id] = group.channel.id


def _deliver(context: ApplyContext, dealt: list[tuple[Subscription, int]]) -> None:
    """The members' unacked has what was dealt to them; let it be delivered, in this order.

    In the order of sequences and not member by member: on a shared connection acks would come back in
    blocks, and who acks first would get the most of what comes next.
    """
    deliveries, index = context.effects.deliveries, context.index
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
        _sent(context.state, member)


def _sent(state: State, member: Subscription) -> None:
    state.dirty.unacked[member.id] = None
    if member.id not in state.ack_deadlines:
        watch(state, member)


# --- what is due ---------------------------------------------------------------------------------


def _send_due(context: ApplyContext, group: Group, most: int) -> tuple[int, bool]:
    """Send up to ``most`` due messages again; how many, and whether there are more to send now."""
    state = context.state
    state.sendable[group.id] = group  # in any case: rooms may have changed, and the new were held back
    able = [member for member in group.members if may_redeliver(member)]
    if not able:
        for member in group.members:
            due.keep_here(state, member)
        return 0, False
    holders = [member for member in group.members if due.gives(context, member)]
    for giver in holders:
        if not giver.reachable:
            giver.due_before = context.index  # all it has
            giver.missed = None
        elif context.looks < due.LOOKS_MAX:
            due.find_missed(context, giver)
        due.put_in_order(context, giver, wanted=most, at_most=max(most, due.ORDERED_MAX // len(holders)))
    claims = due.take_lowest(group, holders, most)
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
        elif holder is not None and holder.due_here and holder.reachable:
            receiver = holder
        else:
            receiver = choose_for_redelivery(group, able)
        del unacked[seq]
        again = fresh.get(record.deliveries)
        if again is None:
            again = fresh[record.deliveries] = _again(context, group, record)
        receiver.unacked[seq] = again
        receiver.last_sent = max(receiver.last_sent, seq)
        dealt.append((receiver, seq))
    for giver in holders:
        state.dirty.unacked[giver.id] = None
    state.dirty.groups[group.id] = group.channel.id
    _deliver(context, dealt)
    for giver in holders:
        due.keep_here(state, giver)
    if group.orphans or any(due.gives(context, member) for member in group.members):
        return len(claims), True
    for member in group.members:  # not the holders only: what another had due may have been acked meanwhile
        watch(state, member)
    return len(claims), False


def _again(context: ApplyContext, group: Group, record: Record) -> Record:
    deliveries = record.deliveries + 1
    if deliveries > DELIVERIES_MAX + 1:
        deliveries = 2
    return Record(group.clock(context.time_ns), context.index, deliveries)
