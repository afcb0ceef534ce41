"""Acknowledgements: they remove unacked records, which gives capacity for new messages."""

from __future__ import annotations

from collections.abc import Sequence

from .apply_context import ApplyContext
from .commands import Acked
from .effects import OK, Ok
from .state import Subscription


def apply_acks(context: ApplyContext, command: Acked) -> Ok:
    """Acknowledge sequences that arrived on one ack inbox.

    Ignored are: an unknown inbox (of a closed subscription, or from before its last resume), the name of
    another channel, and a sequence that is not unacked. If another member of the queue group holds the
    message by now, it is acknowledged there (D32), and that member has capacity again.
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
