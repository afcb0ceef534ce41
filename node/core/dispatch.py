"""Dispatch: decide which subscription gets which message, once per entry, for each marked cursor.

The commands of an entry only mark groups: *redelivery due* (some messages are due at once) or *sendable*
(there may be new messages and capacity for them). After the last command each group with due messages sends
these, in order of sequence. Then each sendable group sends new messages (R1). Both lists are processed in
order and within bounds (R19). A group that is not finished moves to the end of its list and stays marked for
the next entry.

``due`` finds the messages that are due; ``ack_waits`` determines which AckWaits run.
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
"""Maximum number of messages that an entry sends. A visited group counts as at least one."""

GROUP_MESSAGES_MAX = 500
"""Maximum number of messages that an entry sends to one subscription or queue group."""

FIRED_MAX = 2000
"""Maximum number of subscriptions that an entry finds to be due. The next entry continues."""

MEMBERS_FOR_ONE = 64
"""Members of a group per unit of cost, because each member is examined for each message."""

DELIVERIES_MAX = (1 << 32) - 1
"""The redelivery count on the wire has 32 bits. After its highest value it is 1 again, never 0 (D7)."""


def dispatch(context: ApplyContext) -> None:
    """Send due messages at the entry's time, then new messages.

    While redelivery is paused (R9) only new messages are sent, and none to a group with due messages: a
    later entry may contain their acknowledgement.
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
    context.looks = 0  # sending new messages is no search, so due messages of other groups must not delay it
    _work_off(context, state.sendable, _send_new, budget)


def _fire(context: ApplyContext) -> None:
    """Mark the groups of subscriptions whose first message has passed its AckWait, in order of deadline.

    The result must not depend on what differs between nodes. So a deadline that is too early is corrected
    first, and a deadline of a group that is marked already is dropped (a restored node may not have armed
    it).
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
            continue  # ``watch`` arms it again when the group has no due messages left or can be sent to
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
    """Let each marked group send within ``budget``; return the remaining budget."""
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


# --- new messages --------------------------------------------------------------------------------


def _send_new(context: ApplyContext, group: Group, most: int) -> tuple[int, bool]:
    """Send up to ``most`` new messages. Return their number, and True if more can be sent now."""
    state = context.state
    if not forget_purged(context, group):
        return 0, True
    if group.id in state.redelivery_due:
        return 0, False  # due messages go first; after them the group is marked sendable again
    log, members = group.channel.log, group.members
    if group.paused_ns is not None:
        return 0, False
    if context.behind and any(passed(member, context.time_ns) for member in members):
        return 0, True
    first = max(group.cursor + 1, log.first)  # messages dropped before they were sent are skipped (D11)
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
    """Send new messages to a queue group of several members. Return the same as `_send_new`."""
    reachable = [member for member in group.members if member.reachable]
    if not reachable:
        return 0, False
    for member in reachable:
        free_if_gone(context, member)
    keeps_up_ns = KEEPS_UP_NS if EVEN_BURSTS.active(context.state.version) else KEEPS_UP_1_NS
    receivers = share_out(group, reachable, first, last, group.clock(context.time_ns), keeps_up_ns)
    records = _new_records(context, group, range(first, first + len(receivers)))
    for seq, member in enumerate(receivers, first):
        member.unacked[seq] = records[seq]
        member.last_sent = max(member.last_sent, seq)
    _deliver(context, list(zip(receivers, range(first, last + 1), strict=False)))
    if receivers:
        _moved(context, group, first + len(receivers) - 1)
    return len(receivers), first + len(receivers) > last and last < group.channel.log.last


def _new_records(context: ApplyContext, group: Group, seqs: range) -> dict[int, Record]:
    """Return records of new messages.

    Messages that were sent before the cursor was moved back count as redelivered.
    """
    now_ns = group.clock(context.time_ns)
    records = dict.fromkeys(seqs, Record(now_ns, context.index, 1))
    if seqs.start <= group.replayed_to:
        before = range(seqs.start, min(seqs.stop, group.replayed_to + 1))
        records.update(dict.fromkeys(before, Record(now_ns, context.index, 2)))
    return records


def _moved(context: ApplyContext, group: Group, cursor: int) -> None:
    group.cursor = cursor
    context.state.dirty.groups[group.id] = group.channel.id


def _deliver(context: ApplyContext, assigned: list[tuple[Subscription, int]]) -> None:
    """Add deliveries of messages that are already in the members' ``unacked``, in this order.

    The order is that of sequences, not member by member. Otherwise acks on a shared connection would come
    back in blocks, and the member that acknowledges first would get most of the next messages.
    """
    deliveries, index = context.effects.deliveries, context.index
    last: Subscription | None = None
    seqs: list[Seq] = []
    receivers: dict[int, Subscription] = {}
    for member, seq in assigned:
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


# --- due messages --------------------------------------------------------------------------------


def _send_due(context: ApplyContext, group: Group, most: int) -> tuple[int, bool]:
    """Redeliver up to ``most`` due messages. Return their number, and True if more can be sent now."""
    state = context.state
    state.sendable[group.id] = group  # always: capacities may have changed, and new messages were held back
    receivers = [member for member in group.members if may_redeliver(member)]
    if not receivers:
        for member in group.members:
            due.clear_due_here(state, member)
        return 0, False
    holders = [member for member in group.members if due.has_to_give(context, member)]
    for holder in holders:
        if not holder.reachable:
            holder.due_before = context.index  # everything it holds
            holder.missed = None
        elif context.looks < due.LOOKS_MAX:
            due.find_missed(context, holder)
        due.put_in_order(context, holder, wanted=most, at_most=max(most, due.ORDERED_MAX // len(holders)))
    claims = due.take_lowest(group, holders, most)
    assigned: list[tuple[Subscription, int]] = []
    new_records: dict[int, Record] = {}
    first_in_log = group.channel.log.first
    for seq, owner in claims:
        unacked = group.orphans if owner is None else owner.unacked
        record = unacked.get(seq)
        # acknowledged meanwhile (D26), or dropped from the log (D24)
        if record is None or seq < first_in_log:
            unacked.pop(seq, None)
            continue
        if len(receivers) == 1:
            receiver = receivers[0]
        elif owner is not None and owner.due_here and owner.reachable:
            receiver = owner
        else:
            receiver = choose_for_redelivery(group, receivers)
        del unacked[seq]
        new_record = new_records.get(record.deliveries)
        if new_record is None:
            new_record = new_records[record.deliveries] = _redelivered(context, group, record)
        receiver.unacked[seq] = new_record
        receiver.last_sent = max(receiver.last_sent, seq)
        assigned.append((receiver, seq))
    for holder in holders:
        state.dirty.unacked[holder.id] = None
    state.dirty.groups[group.id] = group.channel.id
    _deliver(context, assigned)
    for holder in holders:
        due.clear_due_here(state, holder)
    if group.orphans or any(due.has_to_give(context, member) for member in group.members):
        return len(claims), True
    # not only the holders: due messages of others may have been acknowledged meanwhile
    for member in group.members:
        watch(state, member)
    return len(claims), False


def _redelivered(context: ApplyContext, group: Group, record: Record) -> Record:
    deliveries = record.deliveries + 1
    if deliveries > DELIVERIES_MAX + 1:
        deliveries = 2
    return Record(group.clock(context.time_ns), context.index, deliveries)
