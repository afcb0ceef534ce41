"""Acknowledgements: unacked records go, and there is room for new messages."""

from __future__ import annotations

from collections.abc import Sequence

from .apply_context import ApplyContext
from .commands import Acked
from .effects import OK, Ok
from .state import Subscription


def apply_acks(context: ApplyContext, command: Acked) -> Ok:
    """Acknowledge sequences as they came on one ack inbox.

    An unknown inbox (a closed subscription, or one before its last resume), another channel's name
    and a sequence that isn't unacked are ignored. What another member of the queue group holds by
    now is acknowledged there (D32), and that member has room again like any other.
    """
    state = context.state
    subscription = state.by_ack_inbox.get(command.ack_inbox)
    if subscription is None or subscription.group.channel.name != command.channel:
        return OK
    group = subscription.group
    if group.queue:
        _ack_in_group(context, subscription, command.seqs)
    else:
        unacked = subscription.unacked
        for seq in command.seqs:
            unacked.pop(seq, None)
    state.dirty.unacked[subscription.id] = None
    if group.cursor < group.channel.log.last:
        state.sendable[group.id] = group
    return OK


def _ack_in_group(context: ApplyContext, subscription: Subscription, seqs: Sequence[int]) -> None:
    state, group = context.state, subscription.group
    unacked = subscription.unacked
    for seq in seqs:
        if unacked.pop(seq, None) is not None or seq > group.cursor:
            continue
        if group.orphans.pop(seq, None) is not None:
            state.dirty.groups[group.id] = group.channel.id
            continue
        for member in group.members:
            if member.unacked.pop(seq, None) is not None:
                state.dirty.unacked[member.id] = None
                break
