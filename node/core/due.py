"""What is due at once: marked by whatever made it so, found within bounds when its group has its turn.

Due are messages whose AckWait has run out, orphans of members that left, what a member holds that
nobody hears while another can hear, everything unacked after a resume or a cold start, and what was
sent while its receiver was gone. It goes out whatever max in flight says (D3).

However much is due, an entry looks at so much of it and no more (R19). Since ``unacked`` stands in order of
time, what has passed its AckWait is the front of it, and so is everything before some entry (``due_before``).
Only from there, ``ORDERED_MAX`` at a time, messages are put into order of sequence (``due``) and sent. So
with more than that unacked on one subscription each such part is in order, and the parts in order of time.
"""

from __future__ import annotations

from itertools import islice

from .ack_waits import passed, watch
from .apply_context import ApplyContext
from .commands import Unwritten
from .state import Group, Lost, Missed, State, Subscription

ORDERED_MAX = 8192
"""How many due messages of a group are put in order of sequence at a time."""

LOOKS_MAX = 2 * ORDERED_MAX
"""An entry that has looked at so many records to find what is due looks at no other group."""


# --- marking it ----------------------------------------------------------------------------------


def make_all_due(context: ApplyContext, member: Subscription, *, here: bool = False) -> None:
    """All that is unacked before this entry is due at once."""
    if member.unacked:
        member.due_before = context.index
        member.due_here = member.due_here or here
        context.state.dirty.unacked[member.id] = None
        context.state.redelivery_due[member.group.id] = member.group


def clear(member: Subscription) -> None:
    """Nothing of what it holds is due."""
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
    """Make due what has waited for its AckWait, and what was sent from ``gone_since_ns`` to ``back_ns``.

    With ``unwritten``, since machine version 2, also what a lost connection may not have been sent before.

    Called when a subscription that could not be sent to may be again. ``here``: what is due goes to this
    member, not to the one that its group would choose. Which messages those are is looked up when its group
    has its turn: one client may have thousands of subscriptions, and thousands of clients be back at once.
    """
    state = context.state
    if gone_since_ns is not None:
        back_ns = context.time_ns + 1 if back_ns is None else back_ns
        if unwritten is None:
            _note_missed(context, member, gone_since_ns, back_ns)
        else:
            note_lost(context, member, gone_since_ns, back_ns, unwritten)
    if has_due(context, member):
        member.due_here = member.due_here or here
        state.redelivery_due[member.group.id] = member.group
    state.dirty.unacked[member.id] = None
    watch(state, member)


def _note_missed(context: ApplyContext, member: Subscription, gone_since_ns: int, back_ns: int) -> None:
    """It may have missed what it was sent between these cluster times."""
    stood_ns = member.group.stood_ns
    since_ns, before_ns = gone_since_ns - stood_ns, back_ns - stood_ns
    last = next(reversed(member.unacked), None)
    if last is not None and member.unacked[last].sent_at_ns >= since_ns:
        known = member.missed or Missed(since_ns, before_ns, context.index)
        since_ns, before_ns = min(known.since_ns, since_ns), max(known.before_ns, before_ns)
        if isinstance(known, Lost):
            member.missed = known._replace(since_ns=since_ns, before_ns=before_ns, entry=context.index)
        else:
            member.missed = Missed(since_ns, before_ns, context.index)


def note_lost(
    context: ApplyContext, member: Subscription, gone_since_ns: int, back_ns: int, unwritten: Unwritten
) -> None:
    """Note what of its deliveries may have been lost with a connection. It is due when the member is heard.

    What was noted before and has not been sent since stays noted.
    """
    stood_ns = member.group.stood_ns
    lost = Lost(gone_since_ns - stood_ns, back_ns - stood_ns, context.index, *unwritten)
    known = member.missed
    if known is not None:
        lost = lost._replace(
            since_ns=min(known.since_ns, lost.since_ns), before_ns=max(known.before_ns, lost.before_ns)
        )
    if isinstance(known, Lost):
        lost = lost._replace(written=min(known.written, lost.written))
        if not lost.restarted_to:
            lost = lost._replace(restarted_after=known.restarted_after, restarted_to=known.restarted_to)
        elif known.restarted_to:
            lost = lost._replace(
                restarted_after=min(known.restarted_after, lost.restarted_after),
                restarted_to=max(known.restarted_to, lost.restarted_to),
            )
    last = next(reversed(member.unacked), None)
    if last is not None and lost.may_hold(member.unacked[last]):
        member.missed = lost
        context.state.dirty.unacked[member.id] = None


# --- finding it ----------------------------------------------------------------------------------


def gives(context: ApplyContext, member: Subscription) -> bool:
    """``member`` holds messages that are due. What nobody hears gives all it has to the others.

    After a cold start it keeps them for the grace: its client may still be on its way back (R14).
    """
    if member.reachable:
        return has_due(context, member)
    return bool(member.unacked) and not context.state.cold_grace_ns


def has_due(context: ApplyContext, member: Subscription) -> bool:
    return bool(member.due or member.due_before or member.missed or passed(member, context.time_ns))


def find_missed(context: ApplyContext, member: Subscription) -> None:
    """What it has missed joins what is due, if it is among the last ``ORDERED_MAX``."""
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
    keep_here(context.state, member)


def put_in_order(context: ApplyContext, member: Subscription, *, wanted: int, at_most: int) -> None:
    """See that ``wanted`` of its due messages, if there are so many, stand in order of sequence.

    Looks at ``at_most`` records beyond those that do already; the more at a time, the more of them are
    sent in order of sequence rather than of time.
    """
    if len(member.due) >= wanted:
        return
    latest_ns = member.group.clock(context.time_ns) - member.ack_wait_ns
    known = set(member.due)
    found: list[int] = []
    context.looks += len(known)  # they may all stand in front
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
    context.looks += len(found) + 1
    if found:
        found += member.due
        found.sort(reverse=True)
        member.due = found
    keep_here(context.state, member)


def take_lowest(
    group: Group, holders: list[Subscription], most: int
) -> list[tuple[int, Subscription | None]]:
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


def keep_here(state: State, member: Subscription) -> None:
    """Only while something is due: it may turn out to be acked, or gone."""
    if member.due_here and not (member.due or member.due_before or member.missed):
        member.due_here = False
        state.dirty.unacked[member.id] = None
