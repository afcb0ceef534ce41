"""Messages that are due at once: marking them, and finding them within bounds when their group sends.

Due are: messages whose AckWait has passed, orphans of members that left, messages of an unreachable member
while another member is reachable, everything unacked after a resume or a cold start, and messages sent while
their receiver was unreachable. They are sent regardless of max in flight (D3).

An entry examines a bounded number of records, however many are due (R19). ``unacked`` is in order of time.
So the messages that have passed their AckWait are at its front, and so is everything sent before some entry
(``due_before``). From there messages move into ``due``, at most ``ORDERED_MAX`` at a time, in order of
sequence. If one subscription has more unacked messages than that, each such part is in order of sequence,
and the parts are in order of time.
"""

from __future__ import annotations

from itertools import islice

from .ack_waits import passed, watch
from .apply_context import ApplyContext
from .commands import Unwritten
from .state import Group, Lost, Missed, State, Subscription

ORDERED_MAX = 8192
"""Maximum number of a group's due messages that are put in order of sequence at a time."""

LOOKS_MAX = 2 * ORDERED_MAX
"""After examining this many records to find due messages, an entry visits no further group."""


# --- marking -------------------------------------------------------------------------------------


def make_all_due(context: ApplyContext, member: Subscription, *, here: bool = False) -> None:
    """Make all messages due that are unacked before this entry."""
    if member.unacked:
        member.due_before = context.index
        member.due_here = member.due_here or here
        context.state.dirty.unacked[member.id] = None
        context.state.redelivery_due[member.group.id] = member.group


def clear(member: Subscription) -> None:
    """Make no message of the subscription due."""
    member.due = []
    member.due_before = 0
    member.missed = None
    member.due_here = False


def resume_sending(
    context: ApplyContext,
    member: Subscription,
    gone_since_ns: int | None = None,
    back_ns: int | None = None,
    *,
    here: bool = False,
    unwritten: Unwritten | None = None,
) -> None:
    """Make expired messages due, and those sent from ``gone_since_ns`` to before ``back_ns``.

    With ``unwritten`` (since machine version 2), earlier messages that a lost connection may not have been
    sent are due too. Called when a subscription can be sent to again. ``here``: its due messages go to this
    member, not to the member that its group would choose. The messages are searched later, when the group
    sends: one client may have thousands of subscriptions, and thousands of clients may return at once.
    """
    state = context.state
    if gone_since_ns is not None:
        back_ns = context.time_ns + 1 if back_ns is None else back_ns
        if unwritten is None:
            _record_missed(context, member, gone_since_ns, back_ns)
        else:
            record_lost(context, member, gone_since_ns, back_ns, unwritten)
    if has_due(context, member):
        member.due_here = member.due_here or here
        state.redelivery_due[member.group.id] = member.group
    state.dirty.unacked[member.id] = None
    watch(state, member)


def _record_missed(context: ApplyContext, member: Subscription, gone_since_ns: int, back_ns: int) -> None:
    """Record that it may have missed messages sent between these cluster times."""
    stood_ns = member.group.stood_ns
    since_ns, before_ns = gone_since_ns - stood_ns, back_ns - stood_ns
    last = next(reversed(member.unacked), None)
    if last is not None and member.unacked[last].sent_at_ns >= since_ns:
        earlier = member.missed or Missed(since_ns, before_ns, context.index)
        since_ns, before_ns = min(earlier.since_ns, since_ns), max(earlier.before_ns, before_ns)
        if isinstance(earlier, Lost):
            member.missed = earlier._replace(since_ns=since_ns, before_ns=before_ns, entry=context.index)
        else:
            member.missed = Missed(since_ns, before_ns, context.index)


def record_lost(
    context: ApplyContext, member: Subscription, gone_since_ns: int, back_ns: int, unwritten: Unwritten
) -> None:
    """Record which of its deliveries may have been lost with a connection.

    They are due when the member is reachable again. Losses recorded earlier are kept if not redelivered
    since.
    """
    stood_ns = member.group.stood_ns
    lost = Lost(gone_since_ns - stood_ns, back_ns - stood_ns, context.index, *unwritten)
    earlier = member.missed
    if earlier is not None:
        lost = lost._replace(
            since_ns=min(earlier.since_ns, lost.since_ns), before_ns=max(earlier.before_ns, lost.before_ns)
        )
    if isinstance(earlier, Lost):
        lost = lost._replace(written=min(earlier.written, lost.written))
        if not lost.restarted_to:
            lost = lost._replace(restarted_after=earlier.restarted_after, restarted_to=earlier.restarted_to)
        elif earlier.restarted_to:
            lost = lost._replace(
                restarted_after=min(earlier.restarted_after, lost.restarted_after),
                restarted_to=max(earlier.restarted_to, lost.restarted_to),
            )
    last = next(reversed(member.unacked), None)
    if last is not None and lost.may_hold(member.unacked[last]):
        member.missed = lost
        context.state.dirty.unacked[member.id] = None


# --- finding -------------------------------------------------------------------------------------


def has_to_give(context: ApplyContext, member: Subscription) -> bool:
    """Return True if ``member`` holds due messages.

    All messages of an unreachable member are due to the other members. After a cold start it keeps them for
    ``member_grace``, because its client may still reconnect (R14).
    """
    if member.reachable:
        return has_due(context, member)
    return bool(member.unacked) and not context.state.cold_grace_ns


def has_due(context: ApplyContext, member: Subscription) -> bool:
    return bool(member.due or member.due_before or member.missed or passed(member, context.time_ns))


def find_missed(context: ApplyContext, member: Subscription) -> None:
    """Move missed messages into ``due``, if they are among the last ``ORDERED_MAX`` unacked messages."""
    if member.missed is None:
        return
    missed = member.missed
    put_in_order(context, member, wanted=ORDERED_MAX, at_most=ORDERED_MAX)
    member.missed = None
    found: list[int] = []
    for seq in islice(reversed(member.unacked), ORDERED_MAX):
        context.looks += 1
        record = member.unacked[seq]
        if not missed.may_hold(record):
            break
        if missed.holds(record):
            found.append(seq)
    if found:
        member.due = sorted({*member.due, *found}, reverse=True)
    clear_due_here(context.state, member)


def put_in_order(context: ApplyContext, member: Subscription, *, wanted: int, at_most: int) -> None:
    """Put at least ``wanted`` of its due messages, if there are so many, into ``due`` in order of sequence.

    Examines at most ``at_most`` records that are not in ``due`` yet. With a larger value, more messages are
    sent in order of sequence rather than of time.
    """
    if len(member.due) >= wanted:
        return
    latest_ns = member.group.clock(context.time_ns) - member.ack_wait_ns
    in_order = set(member.due)
    found: list[int] = []
    context.looks += len(in_order)  # they may all be at the front
    for seq, record in member.unacked.items():
        if seq in in_order:
            continue
        if record.entry >= member.due_before and record.sent_at_ns > latest_ns:
            member.due_before = 0
            break
        if len(found) == at_most:
            break
        found.append(seq)
    else:
        member.due_before = 0
    context.looks += len(found) + 1
    if found:
        found += member.due
        found.sort(reverse=True)
        member.due = found
    clear_due_here(context.state, member)


def take_lowest(
    group: Group, holders: list[Subscription], most: int
) -> list[tuple[int, Subscription | None]]:
    """Remove the ``most`` lowest due sequences from their lists; return them in order, each with its holder.

    The holder is None for an orphan.
    """
    orphans = sorted(islice(group.orphans, ORDERED_MAX))
    claims: list[tuple[int, Subscription | None]] = [(seq, None) for seq in orphans[:most]]
    for holder in holders:
        claims += [(seq, holder) for seq in holder.due[: -most - 1 : -1]]
    claims.sort(key=lambda claim: claim[0])
    del claims[most:]
    for _, owner in claims:
        if owner is not None:
            owner.due.pop()
    return claims


def clear_due_here(state: State, member: Subscription) -> None:
    """Clear ``due_here`` if nothing is due: messages may have been acknowledged or dropped."""
    if member.due_here and not (member.due or member.due_before or member.missed):
        member.due_here = False
        state.dirty.unacked[member.id] = None
