"""Commands of operators: delete and purge channels, move and pause cursors, remove clients.

These commands are replicated like any other: each takes effect once, at one position in the log, on every
node. An operator who has given up must not be surprised an hour later, when the cluster has a majority
again. So each command is refused in an entry that was proposed after ``valid_until_ns`` (R8).

*Online clients are not notified*: the protocol has no message with which a server ends a subscription. So a
command that ends online subscriptions needs ``force`` and leaves a line in every node's log. A removed
client notices by its next ping, as after failed heartbeats.

*A pause* applies to a cursor: to a plain or durable subscription, or to a queue group as a whole. Nothing is
sent or redelivered. Acknowledgements count, members join and leave, limits drop messages. AckWaits stand
still: a message with five seconds left still has five seconds left when the pause ends. A durable that goes
offline and returns is still paused. Messages sent before the pause may still be on their way.

*A seek* deletes unacked records and delivery counts. Messages from the new position on are sent as new ones.
But below the previous cursor they are flagged as redelivered, with count 1: an earlier delivery cannot be
excluded, and an application that checks flagged messages for duplicates must see the flag (D7, Target).

*A purge* drops messages as limits do. Lower cursors move up, and unacked records of purged messages are
removed (see ``purging``), so subscriptions that were full of them have capacity again.
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
            _warn(context, f"client {command.client_id!r} was removed")
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


def _warn(context: ApplyContext, text: str) -> None:
    context.effects.warnings.append(Warn(f"{text}, as an operator requested"))


# --- channels ------------------------------------------------------------------------------------


def _delete_channel(context: ApplyContext, command: ChannelDelete) -> None:
    channel = _find_channel(context.state, command.channel)
    online = sum(len(group.members) for group in channel.groups.values())
    if online and not command.force:
        raise RefusedError(refusals.in_use(online))
    for group in [group for group in channel.groups.values() if group.members]:
        subscriptions.end_group(context, group)
    channels.delete(context, channel)
    _warn(context, f"channel {channel.name!r} was deleted, with {online} online subscriptions")


def _purge_channel(context: ApplyContext, command: ChannelPurge) -> None:
    channel = _find_channel(context.state, command.channel)
    channels.settle(context, channel.name)
    log = channel.log
    up_to = min(command.up_to or log.last, log.last)
    if up_to < log.first:
        return
    purging.purge(context, channel, up_to)
    _warn(context, f"messages of channel {channel.name!r} were purged up to sequence {up_to}")


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
    _warn(context, f"subscription {numbers} of channel {group.channel.name!r} was removed")


def _seek(context: ApplyContext, command: SubscriptionSeek) -> None:
    state = context.state
    group = _find_subscription(state, command.subscription).group
    if not (group.durable or group.queue):
        raise RefusedError(refusals.NO_CURSOR)
    try:
        to = SeekTo(command.to)
    except ValueError:
        raise RefusedError(refusals.UNKNOWN_POSITION) from None
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
    _warn(context, f"the cursor of subscription {command.subscription} was moved to {cursor}")


def _place(log: MessageLog, to: SeekTo, value: int) -> int:
    """Return the first sequence to send. A value beyond either end of the log means that end."""
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
    """End the pause; AckWaits continue as if it had taken no time."""
    state = context.state
    group.stood_ns += context.time_ns - paused_ns
    group.paused_ns = None
    state.dirty.groups[group.id] = group.channel.id
    for member in group.members:
        if may_redeliver(member):
            resume_sending(context, member)
    if group.members:
        state.redelivery_due[group.id] = group  # messages that became due, and orphans, during the pause
        state.sendable[group.id] = group
