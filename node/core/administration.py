"""What an operator asks for: channels deleted and purged, cursors moved and paused, clients removed.

These commands are replicated like any other: they take effect once, at one place in the log, on every node
alike. An operator who has given up must not be surprised an hour later by a cluster that has a majority
again, so each is refused in an entry that was proposed after ``valid_until_ns`` (R8).

*Whoever is online is told nothing*: the protocol has no message by which a server ends a subscription. So
what ends online subscriptions asks for force and leaves a line in every node's log. A client that was
removed learns of it by its next ping, as after failed heartbeats.

*A pause* is one of a cursor: of a plain or durable subscription, or of a queue group as a whole. Nothing is
sent, new or again; acknowledgements count, members come and go, limits drop messages. AckWaits stand
still: what had five seconds left has five seconds left when the pause is over. A durable that goes offline
and comes back is still paused. What was sent before the pause may still be on its way.

*A seek* forgets what is unacknowledged, and counts. Messages go out from the new place on, as new ones; but
where the cursor had been before they are flagged as redelivered, with count 1: an earlier delivery can't be
excluded, and an application that looks closely at flagged messages must see them so (D7, Target).

*A purge* drops messages as limits do. Cursors below move on, and what was unacknowledged of them is forgotten
(see ``purging``), so subscriptions that were full of it have room again.
"""

from __future__ import annotations

from typing import assert_never

from node.errors import RefusedError

from . import channels, clients, purging, refusals, subscriptions
from .ack_waits import may_redeliver
from .apply_context import ApplyContext
from .commands import (
    AdminCommand,
    ChannelDelete,
    ChannelPurge,
    ClientKick,
    SeekTo,
    SubscriptionPause,
    SubscriptionRemove,
    SubscriptionSeek,
)
from .due import resume_sending
from .effects import OK, Ok, Warn
from .log import MessageLog
from .state import Channel, Group, State, Subscription


def administer(context: ApplyContext, command: AdminCommand) -> Ok:
    """Apply one command of an operator.

    Raises:
        RefusedError: with a text for the operator; nothing was changed.
    """
    if context.time_ns > command.valid_until_ns:
        raise RefusedError(refusals.ADMIN_TOO_LATE)
    match command:
        case ChannelDelete():
            _delete_channel(context, command)
        case ChannelPurge():
            _purge_channel(context, command)
        case SubscriptionRemove():
            _remove_subscription(context, command)
        case SubscriptionSeek():
            _seek(context, command)
        case SubscriptionPause():
            group = _find_subscription(context.state, command.subscription).group
            if command.paused and group.paused_ns is None:
                _pause(context, group)
            elif not command.paused and group.paused_ns is not None:
                _unpause(context, group, group.paused_ns)
        case ClientKick():
            client = context.state.clients.get(command.client_id)
            if client is None:
                raise RefusedError(refusals.no_client(command.client_id))
            clients.remove_client(context, client)
            _note(context, f"client {command.client_id!r} is removed")
        case _:
            assert_never(command)
    return OK


def _find_channel(state: State, name: str) -> Channel:
    channel = state.channels.get(name)
    if channel is None:
        raise RefusedError(refusals.no_channel(name))
    return channel


def _find_subscription(state: State, number: int) -> Subscription:
    subscription = state.subscriptions.get(number)
    if subscription is None:
        raise RefusedError(refusals.no_subscription(number))
    return subscription


def _note(context: ApplyContext, text: str) -> None:
    context.effects.warnings.append(Warn(f"{text}, as an operator asked"))


# --- channels ------------------------------------------------------------------------------------


def _delete_channel(context: ApplyContext, command: ChannelDelete) -> None:
    channel = _find_channel(context.state, command.channel)
    online = sum(len(group.members) for group in channel.groups.values())
    if online and not command.force:
        raise RefusedError(refusals.in_use(online))
    for group in [group for group in channel.groups.values() if group.members]:
        subscriptions.end_group(context, group)
    channels.delete(context, channel)
    _note(context, f"channel {channel.name!r} is deleted, with {online} online subscriptions")


def _purge_channel(context: ApplyContext, command: ChannelPurge) -> None:
    channel = _find_channel(context.state, command.channel)
    channels.settle(context, channel.name)
    log = channel.log
    up_to = min(command.up_to or log.last, log.last)
    if up_to < log.first:
        return
    purging.purge(context, channel, up_to)
    _note(context, f"messages of channel {channel.name!r} are dropped up to {up_to}")


# --- subscriptions -------------------------------------------------------------------------------


def _remove_subscription(context: ApplyContext, command: SubscriptionRemove) -> None:
    subscription = _find_subscription(context.state, command.subscription)
    group = subscription.group
    ending = list(group.holders) if command.group else [subscription]
    online = sum(each.online for each in ending)
    if online and not command.force:
        raise RefusedError(refusals.in_use(online))
    if command.group:
        subscriptions.end_group(context, group)
    else:
        subscriptions.end(context, subscription, for_good=True)
    numbers = ", ".join(str(each.id) for each in ending)
    _note(context, f"subscription {numbers} of channel {group.channel.name!r} is removed")


def _seek(context: ApplyContext, command: SubscriptionSeek) -> None:
    state = context.state
    group = _find_subscription(state, command.subscription).group
    if not (group.durable or group.queue):
        raise RefusedError(refusals.NO_CURSOR)
    try:
        to = SeekTo(command.to)
    except ValueError:
        raise RefusedError(refusals.UNKNOWN_PLACE) from None
    channels.settle(context, group.channel.name)
    cursor = _place(group.channel.log, to, command.value) - 1
    group.replayed_to = max(group.replayed_to, group.cursor)
    group.cursor = cursor
    purging.forget_all(context, group)
    for holder in group.holders:
        holder.last_sent = min(holder.last_sent, cursor) if group.queue else cursor
        state.ack_deadlines.disarm(holder.id)
    state.redelivery_due.pop(group.id, None)
    if group.members:
        state.sendable[group.id] = group
    _note(context, f"the cursor of subscription {command.subscription} is put to {cursor}")


def _place(log: MessageLog, to: SeekTo, value: int) -> int:
    """The first sequence that the cursor wants. Beyond the ends of the log means its end."""
    match to:
        case SeekTo.END:
            return log.last + 1
        case SeekTo.SEQUENCE:
            return min(max(value, log.first), log.last + 1)
        case SeekTo.TIME:
            return log.first_at_or_after(value)
        case SeekTo.FIRST:
            return log.first
        case SeekTo.LAST:
            return log.last if len(log) else log.last + 1
        case _:
            assert_never(to)


def _pause(context: ApplyContext, group: Group) -> None:
    group.paused_ns = context.time_ns
    context.state.dirty.groups[group.id] = group.channel.id
    for member in group.members:
        context.state.ack_deadlines.disarm(member.id)


def _unpause(context: ApplyContext, group: Group, paused_ns: int) -> None:
    """Everything goes on as if the pause had taken no time."""
    state = context.state
    group.stood_ns += context.time_ns - paused_ns
    group.paused_ns = None
    state.dirty.groups[group.id] = group.channel.id
    for member in group.members:
        if may_redeliver(member):
            resume_sending(context, member)
    if group.members:
        state.redelivery_due[group.id] = group  # what fell due, and what members left behind, in the pause
        state.sendable[group.id] = group
