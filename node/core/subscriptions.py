"""Opening, resuming and closing subscriptions; their groups are created and removed with them."""

from __future__ import annotations

from node.errors import RefusedError
from node.protocol.positions import StartPosition
from node.units import SubscriptionID

from . import channels, due, presence, refusals, sessions
from .ack_waits import watch
from .apply_context import ApplyContext
from .commands import SubscriptionClose, SubscriptionOpen, SubscriptionReplace, Unsubscribe
from .effects import OK, DurableTaken, Ok, SubscriptionOpened
from .log import MessageLog
from .state import Channel, Client, Group, State, Subscription
from .versions import RETRIED_SUBSCRIBE, UNSUBSCRIBE_BY_NAME_OFFLINE_ONLY


def open_subscription(
    context: ApplyContext, command: SubscriptionOpen | SubscriptionReplace
) -> SubscriptionOpened | DurableTaken:
    """Create a subscription, or resume a durable or an offline durable queue group.

    A durable that is online is not opened twice. But its client may repeat the request because it got no
    reply. If the request has the same inbox, the reply is given again. If the durable is unreachable, or its
    reply may have been lost, the durable is replaced.

    The origin has made checks 1 to 6 of the protocol. Here are those that need the state.

    Raises:
        RefusedError: the request is refused.
    """
    state = context.state
    if context.time_ns > command.valid_until_ns:
        raise RefusedError(refusals.TOO_LATE)
    client = state.clients.get(command.client_id)
    if client is None:
        raise RefusedError(refusals.UNKNOWN_CLIENT_ID)
    channel = channels.find_or_create(context, command.channel)
    if command.queue and ":" in command.durable:
        raise RefusedError(refusals.DURABLE_NAME_COLON)
    # the origin draws it at random, so this is a bug of the origin
    if command.ack_inbox in state.by_ack_inbox:
        raise RefusedError(refusals.INVALID_SUBSCRIBE)
    group = _find_group(channel, command)
    if group is not None and not group.queue and group.members:
        online = group.members[0]
        if RETRIED_SUBSCRIBE.active(state.version) and online.inbox == command.inbox:
            # without the reply the client could not acknowledge anything
            due.make_all_due(context, online, here=True)
            presence.client_responded(context, client)
            return SubscriptionOpened(online.ack_inbox)
        if not state.settings.replace_durable and not _may_replace(context, online, command):
            if not RETRIED_SUBSCRIBE.active(state.version):
                raise RefusedError(refusals.DUPLICATE_DURABLE)
            return DurableTaken(online.ack_inbox, online.inbox)
        end(context, online, for_good=False)
    if group is not None and group.shadow is not None:
        _resume(context, group, client, command)
    else:
        most = channel.limits.max_subscriptions
        if most and channel.subscription_count >= most:
            raise RefusedError(refusals.TOO_MANY_SUBSCRIPTIONS)
        _create(context, channel, group, client, command)
    presence.client_responded(context, client)  # D46
    return SubscriptionOpened(command.ack_inbox)


def _may_replace(
    context: ApplyContext, online: Subscription, command: SubscriptionOpen | SubscriptionReplace
) -> bool:
    """Return True if a subscribe to an online durable may be its client's second attempt."""
    if not RETRIED_SUBSCRIBE.active(context.state.version):
        return False
    if isinstance(command, SubscriptionReplace) and command.replaces == online.ack_inbox:
        return True
    return not online.reachable or sessions.may_be_unanswered(context.state, online, context.session)


def _find_group(channel: Channel, command: SubscriptionOpen | SubscriptionReplace) -> Group | None:
    if command.queue:
        if command.durable:
            return channel.durable_queues.get((command.durable, command.queue))
        return channel.queues.get(command.queue)
    if command.durable:
        return channel.durables.get((command.client_id, command.durable))
    return None


def _create(
    context: ApplyContext,
    channel: Channel,
    group: Group | None,
    client: Client,
    command: SubscriptionOpen | SubscriptionReplace,
) -> None:
    """Create a subscription: the first of a new group, or another member of ``group`` (D17)."""
    state = context.state
    state.last_subscription += 1
    number = SubscriptionID(state.last_subscription)
    if group is None:
        channels.settle(context, channel.name)  # "new only" starts after what the entry has published so far
        start = start_seq(channel.log, command, context.timestamp_ns)
        group = Group(
            id=number,
            channel=channel,
            durable=command.durable,
            queue=command.queue,
            client_id="" if command.queue else command.client_id,
            cursor=start - 1,
        )
        channel.add(group)
    subscription = Subscription(
        id=number,
        generation=context.generation(),
        client_id=client.id,
        group=group,
        inbox=command.inbox,
        ack_inbox=command.ack_inbox,
        max_in_flight=command.max_in_flight,
        ack_wait_ns=command.ack_wait_ns,
        last_sent=0 if group.members else group.cursor,
    )
    state.subscriptions[number] = subscription
    channel.subscription_count += 1
    _go_online(state, subscription, client)


def start_seq(log: MessageLog, command: SubscriptionOpen | SubscriptionReplace, timestamp_ns: int) -> int:
    """Return the first sequence to send on a new cursor. No start position is an error.

    Source: the streaming protocol, "Start positions".
    """
    end = log.last + 1
    match command.start:
        case StartPosition.LAST_RECEIVED:
            return log.last if len(log) else end
        case StartPosition.FIRST:
            return log.first
        case StartPosition.SEQUENCE_START:
            return min(max(command.start_seq, log.first), end)
        case StartPosition.TIME_DELTA_START if command.start_delta_ns > 0:
            return log.first_at_or_after(timestamp_ns - command.start_delta_ns)
        case _:  # new only; so is a delta of zero or less
            return end


def _resume(
    context: ApplyContext, group: Group, client: Client, command: SubscriptionOpen | SubscriptionReplace
) -> None:
    """Resume the group's shadow with its cursor; all its unacked messages are due at once (D39, D46)."""
    subscription = group.shadow
    assert subscription is not None
    group.shadow = None
    subscription.generation = context.generation()
    subscription.client_id = client.id
    subscription.inbox = command.inbox
    subscription.ack_inbox = command.ack_inbox
    subscription.max_in_flight = command.max_in_flight
    subscription.ack_wait_ns = command.ack_wait_ns
    subscription.answer_lost = False
    due.make_all_due(context, subscription)
    _go_online(context.state, subscription, client)


def _go_online(state: State, subscription: Subscription, client: Client) -> None:
    group = subscription.group
    subscription.client = client
    client.subscriptions[subscription.id] = subscription
    group.members.append(subscription)
    state.by_ack_inbox[subscription.ack_inbox] = subscription
    watch(state, subscription)
    if len(group.members) > 1 or group.orphans:
        state.redelivery_due[group.id] = (
            group  # other members may be unreachable or have left, and their messages move to it
        )
    state.sendable[group.id] = group
    _touch(state, subscription)


# --- the end of a subscription -------------------------------------------------------------------


def close_subscription(context: ApplyContext, command: SubscriptionClose) -> Ok:
    """Close a subscription: a durable goes offline, any other ends.

    Raises:
        RefusedError: the request is refused.
    """
    channel = _known_channel(context.state, command.channel)
    end(context, _owned(context.state, channel, command.inbox, command.client_id), for_good=False)
    return OK


def unsubscribe(context: ApplyContext, command: Unsubscribe) -> Ok:
    """End a subscription permanently; an offline durable is named by its durable name.

    Raises:
        RefusedError: the request is refused.
    """
    channel = _known_channel(context.state, command.channel)
    if command.durable and not command.inbox:
        if context.time_ns > command.valid_until_ns:
            raise RefusedError(refusals.TOO_LATE)
        group = channel.durables.get((command.client_id, command.durable))
        if group is None:
            raise RefusedError(refusals.INVALID_SUBSCRIPTION)
        if group.members and UNSUBSCRIBE_BY_NAME_OFFLINE_ONLY.active(context.state.version):
            # Client IDs and durable names are not secret, unlike ack inboxes: anyone could end it.
            raise RefusedError(refusals.INVALID_SUBSCRIPTION)
        subscription = group.shadow or group.members[0]
    else:
        subscription = _owned(context.state, channel, command.inbox, command.client_id)
    end(context, subscription, for_good=True)
    return OK


def _known_channel(state: State, name: str) -> Channel:
    channel = state.channels.get(name)
    if channel is None:
        raise RefusedError(refusals.UNKNOWN_CHANNEL)
    return channel


def _owned(state: State, channel: Channel, inbox: str, client_id: str) -> Subscription:
    """Return the client's online subscription with that ack inbox, or else with that message inbox.

    Clients choose message inboxes, so two clients may choose the same one: the caller's own subscription is
    preferred.
    """
    subscription = state.by_ack_inbox.get(inbox)
    if subscription is None or subscription.group.channel is not channel:
        listening = [
            member for group in channel.groups.values() for member in group.members if member.inbox == inbox
        ]
        if not listening:
            raise RefusedError(refusals.INVALID_SUBSCRIPTION)
        subscription = next((member for member in listening if member.client_id == client_id), listening[0])
    if subscription.client_id != client_id:
        raise RefusedError(refusals.UNKNOWN_CLIENT_ID)
    return subscription


def end(context: ApplyContext, subscription: Subscription, *, for_good: bool) -> None:
    """End a subscription: remove it, or keep it offline if it is a durable and not ``for_good``."""
    state, group = context.state, subscription.group
    if subscription.client is not None:
        _go_offline(context, subscription)
    if group.members:
        _leave_behind(group, subscription)
        _forget(state, subscription)
        state.redelivery_due[group.id] = group
        state.dirty.groups[group.id] = group.channel.id
    elif group.durable and not for_good:
        group.shadow = subscription  # orphans stay orphans, for the next member that joins
        _touch(state, subscription)
    else:
        _forget(state, subscription)
        _remove_group(state, group)


def _leave_behind(group: Group, subscription: Subscription) -> None:
    """Make the subscription's unacked messages orphans of the group.

    The smaller dict is merged into the larger.
    """
    more, less = group.orphans, subscription.unacked
    if len(more) < len(less):
        more, less = less, more
    more.update(less)
    group.orphans, subscription.unacked = more, {}


def end_group(context: ApplyContext, group: Group) -> None:
    """End all subscriptions that share a cursor, and drop their unacked records."""
    for subscription in list(group.holders):
        if subscription.client is not None:
            _go_offline(context, subscription)
        _forget(context.state, subscription)
    _remove_group(context.state, group)


def _go_offline(context: ApplyContext, subscription: Subscription) -> None:
    state, group, client = context.state, subscription.group, subscription.client
    assert client is not None
    del client.subscriptions[subscription.id]
    del state.by_ack_inbox[subscription.ack_inbox]
    group.members.remove(subscription)
    state.ack_deadlines.disarm(subscription.id)
    subscription.client = None
    subscription.unreachable = False
    due.clear(subscription)
    group.channel.active_ns = context.time_ns
    state.dirty.channels[group.channel.id] = group.channel.name


def _forget(state: State, subscription: Subscription) -> None:
    del state.subscriptions[subscription.id]
    subscription.group.channel.subscription_count -= 1
    state.dirty.subscriptions[subscription.id] = None
    state.dirty.unacked[subscription.id] = None


def _touch(state: State, subscription: Subscription) -> None:
    group = subscription.group
    state.dirty.subscriptions[subscription.id] = None
    state.dirty.unacked[subscription.id] = None
    state.dirty.groups[group.id] = group.channel.id


def _remove_group(state: State, group: Group) -> None:
    channel = group.channel
    channel.remove(group)
    state.redelivery_due.pop(group.id, None)
    state.sendable.pop(group.id, None)
    state.dirty.groups[group.id] = channel.id
