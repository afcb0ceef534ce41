"""A purge: messages leave the log at once, and what subscriptions hold of them within bounds.

A group whose cursor has not come further holds nothing else, and that is gone with one stroke. Else it may
hold half a million messages of which some are purged, and there may be thousands of groups; so each
remembers what was purged (``Group.purged``), and forgets it before it is sent anything new (R19). If it holds
little, that is looked through; if it holds much, the purged sequences are gone through instead, so many at a
time: what members hold stands in order of time, in which no place can be kept while acks come.

What limits and ages drop stays unacked until its turn comes (D24). But a member all of whose unacked messages
are gone has room again at once; that is seen by the highest sequence it was sent, or by what it holds if that
isn't too much to look at.
"""

from __future__ import annotations

from . import due, limits
from .apply_context import ApplyContext
from .state import Channel, Group, Record, Subscription
from .versions import FREES_DROPPED

LOOKED_AT_MAX = 8192
"""So much a group holds, or is looked for in what it holds, in one entry."""


def purge(context: ApplyContext, channel: Channel, up_to: int) -> None:
    """Drop a channel's messages up to and including ``up_to``, of which there are some."""
    state, first = context.state, channel.log.first
    limits.drop_before(context, channel, up_to + 1)
    for group in channel.groups.values():
        if group.cursor <= up_to:
            group.cursor = up_to
            forget_all(context, group)
        elif any(_held(group)):
            group.purged = (min(first, group.purged[0]) if group.purged else first, up_to)
        state.dirty.groups[group.id] = channel.id
        state.sendable[group.id] = group


def _held(group: Group) -> list[dict[int, Record]]:
    return [*(holder.unacked for holder in group.holders), group.orphans]


def forget_all(context: ApplyContext, group: Group) -> None:
    """Nothing that was sent on this cursor is unacked any longer."""
    state = context.state
    for holder in group.holders:
        holder.unacked = {}
        due.clear(holder)
        state.dirty.unacked[holder.id] = None
    group.orphans = {}
    group.purged = None
    state.dirty.groups[group.id] = group.channel.id


def forget_purged(context: ApplyContext, group: Group) -> bool:
    """Go on forgetting what was purged; whether that is done."""
    if group.purged is None:
        return True
    first, last = group.purged
    held = _held(group)
    size = sum(map(len, held))
    if size <= LOOKED_AT_MAX:
        until = last
        for unacked in held:
            for seq in [seq for seq in unacked if seq <= last]:
                del unacked[seq]
    else:
        size = max(len(held), LOOKED_AT_MAX)
        until = min(last, first + size // len(held) - 1)
        for unacked in held:
            for seq in range(first, until + 1):
                unacked.pop(seq, None)
    context.looks += size
    group.purged = (until + 1, last) if until < last else None
    for holder in group.holders:
        context.state.dirty.unacked[holder.id] = None
    context.state.dirty.groups[group.id] = group.channel.id
    return group.purged is None


def free_if_gone(context: ApplyContext, member: Subscription) -> None:
    """Empty a stalled member's ``unacked`` if everything in it has left the log (D24).

    Mostly costs three comparisons. A member that holds a message of the log waits for AckWait: the Go server
    counts what has gone until then, too. So does one that holds more than `LOOKED_AT_MAX`, and has
    acknowledged a later message that is in the log.
    """
    state = context.state
    if member.stalled and FREES_DROPPED.active(state.version) and _is_all_gone(member):
        member.unacked = {}
        due.clear(member)
        state.dirty.unacked[member.id] = None


def _is_all_gone(member: Subscription) -> bool:
    """All that it holds has left the log. Its unacked messages stand in order of time."""
    first, unacked = member.group.channel.log.first, member.unacked
    if member.last_sent < first:
        return True
    if (
        len(unacked) > LOOKED_AT_MAX
        or next(reversed(unacked), first) >= first
        or next(iter(unacked)) >= first
    ):
        return False
    return max(unacked) < first
