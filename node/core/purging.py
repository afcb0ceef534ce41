"""Purging: drop messages from the log at once, and from subscriptions within bounds.

If a group's cursor is not beyond the purged messages, the group holds nothing else, and all its records are
removed in one step. Otherwise it may hold half a million messages of which some were purged, and there may
be thousands of groups. So each group remembers the purged range (``Group.purged``) and removes it before it
is sent anything new (R19). If a group holds few records, all are examined. If it holds many, the purged
sequences are looked up instead, a bounded number per entry: records are in order of time, and no position in
them is stable while acks arrive.

Messages dropped by limits or max_age stay unacked until they are due (D24). But a member whose unacked
messages have all been dropped has capacity again at once. That is detected by the highest sequence that it
was sent, or by its records if they are few enough to examine.
"""

from __future__ import annotations

from . import due, limits
from .apply_context import ApplyContext
from .state import Channel, Group, Record, Subscription
from .versions import FREES_DROPPED

LOOKED_AT_MAX = 8192
"""Maximum number of a group's records that one entry examines, or of sequences that it looks up in them."""


def purge(context: ApplyContext, channel: Channel, up_to: int) -> None:
    """Drop a channel's messages up to and including ``up_to``; there is at least one."""
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
    """Remove all unacked records of this cursor."""
    state = context.state
    for holder in group.holders:
        holder.unacked = {}
        due.clear(holder)
        state.dirty.unacked[holder.id] = None
    group.orphans = {}
    group.purged = None
    state.dirty.groups[group.id] = group.channel.id


def forget_purged(context: ApplyContext, group: Group) -> bool:
    """Continue to remove records of purged messages. Return True if all are removed."""
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
    """Empty a stalled member's ``unacked`` if all its messages were dropped from the log (D24).

    Usually costs three comparisons. A member that still holds a message of the log waits for AckWait: the Go
    server counts dropped messages until then, too. So does a member that holds more than `LOOKED_AT_MAX`
    messages and has acknowledged a later one that is in the log.
    """
    state = context.state
    if member.stalled and FREES_DROPPED.active(state.version) and _is_all_gone(member):
        member.unacked = {}
        due.clear(member)
        state.dirty.unacked[member.id] = None


def _is_all_gone(member: Subscription) -> bool:
    """Return True if all its unacked messages, which are in order of time, were dropped from the log."""
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
