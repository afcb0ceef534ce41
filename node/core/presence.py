"""Which clients and subscriptions are reachable, as found by the ready leader (R15); and cold starts (R14).

These are leader commands. They carry the term in which they were proposed and the generation of the object
they refer to, and are ignored if either differs (R16). So a finding about a client has no effect on a client
that replaced it, and findings of a deposed leader have no effect.
"""

from __future__ import annotations

from typing import TypeAlias

from node.units import SECOND, Generation

from .apply_context import ApplyContext
from .commands import (
    ClientAway,
    ClientBack,
    ClientReachable,
    ClientUnreachable,
    ClientUnresponsive,
    HeartbeatMissed,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionReachable,
    SubscriptionUnreachable,
    Unwritten,
)
from .due import make_all_due, record_lost, resume_sending
from .effects import Returned
from .state import Client, Group, State, Subscription

COLD_RELEASE_NS = 10 * SECOND
"""Maximum time after a cold start for which a subscription of a returned client waits for its own inbox."""

RELEASED_MAX = 1000
"""Maximum number of such subscriptions that one entry releases. The next entry continues (R19)."""


def find_client(state: State, client_id: str, generation: Generation) -> Client | None:
    """Return that generation of the client, None if it no longer exists."""
    client = state.clients.get(client_id)
    return client if client is not None and client.generation == generation else None


NEVER_NS = 1 << 62
"""A cluster time that is never reached. As ``back_ns``: some inboxes of the client have no subscriber yet."""


def client_away(context: ApplyContext, command: ClientAway | ClientUnreachable) -> None:
    state = context.state
    client = find_client(state, command.client_id, command.generation)
    if client is None or client.unreachable:
        return
    client.unreachable = True
    client.gone_since_ns = command.gone_since_ns
    state.dirty.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        _record_unwritten(context, subscription, command)
        _mark_group(state, subscription.group)


def client_back(context: ApplyContext, command: ClientBack | ClientReachable) -> None:
    state = context.state
    client = find_client(state, command.client_id, command.generation)
    if client is None:
        return
    gone_since_ns = command.gone_since_ns
    if client.unreachable:
        gone_since_ns = min(gone_since_ns, client.gone_since_ns)
    context.effects.returned.append(_returned(client.heartbeat_inbox, command))
    if _is_repeated(client, command):
        return
    client.unreachable = False
    client.gone_since_ns = 0
    if isinstance(command, ClientReachable):
        client.reachable_at = (command.node, command.epoch)
    state.dirty.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        _back(context, subscription, gone_since_ns, command)


def _is_repeated(client: Client, command: ClientBack | ClientReachable) -> bool:
    """Return True if the leader repeated a finding before it saw the first one applied.

    Since machine version 2.

    A finding without a time makes everything due that was sent before its entry. So a repetition would make
    due what the first entry had just sent again. A finding with a time excludes those messages by its time.
    """
    return (
        isinstance(command, ClientReachable)
        and command.back_ns >= NEVER_NS
        and not client.unreachable
        and client.reachable_at == (command.node, command.epoch)
    )


def subscription_away(context: ApplyContext, command: SubscriptionAway | SubscriptionUnreachable) -> None:
    state = context.state
    subscription = state.subscriptions.get(command.subscription)
    if subscription is None or subscription.generation != command.generation or not subscription.online:
        return
    if not subscription.unreachable:
        subscription.unreachable = True
        subscription.gone_since_ns = command.gone_since_ns
        state.dirty.subscriptions[subscription.id] = None
        _record_unwritten(context, subscription, command)
        _mark_group(state, subscription.group)


def subscription_back(context: ApplyContext, command: SubscriptionBack | SubscriptionReachable) -> None:
    subscription = context.state.subscriptions.get(command.subscription)
    if subscription is None or subscription.generation != command.generation or not subscription.online:
        return
    gone_since_ns = command.gone_since_ns
    if subscription.unreachable:
        gone_since_ns = min(gone_since_ns, subscription.gone_since_ns)
    subscription.unreachable = False
    subscription.gone_since_ns = 0
    context.state.dirty.subscriptions[subscription.id] = None
    _back(context, subscription, gone_since_ns, command)


_Return: TypeAlias = ClientBack | ClientReachable | SubscriptionBack | SubscriptionReachable


def _returned(inbox: str, command: _Return | None) -> Returned:
    if isinstance(command, (ClientReachable, SubscriptionReachable)):
        return Returned(inbox, command.node, command.epoch)
    return Returned(inbox)


def _unwritten(command: _Return | None) -> Unwritten | None:
    if isinstance(command, (ClientReachable, SubscriptionReachable)):
        return Unwritten(command.written, command.restarted_after, command.restarted_to)
    return None


def _record_unwritten(
    context: ApplyContext,
    subscription: Subscription,
    command: ClientAway | ClientUnreachable | SubscriptionAway | SubscriptionUnreachable,
) -> None:
    """Record which deliveries its last connection may not have been sent, and that later ones were missed.

    This is recorded now because a later leader may not have that connection's progress. These messages are
    due when the subscription is reachable again. Messages of an unreachable queue member go to other members
    in any case.
    """
    if isinstance(command, (ClientUnreachable, SubscriptionUnreachable)):
        unwritten = Unwritten(command.written, 0, 0)
        record_lost(context, subscription, command.gone_since_ns, NEVER_NS, unwritten)


def _back(
    context: ApplyContext, subscription: Subscription, gone_since_ns: int, command: _Return | None = None
) -> None:
    """Make due, to this member itself, the messages that it was sent while it was unreachable.

    ``command`` has the end of that period and earlier losses. None means until now, and no losses.
    """
    back_ns = None if command is None else command.back_ns
    if not (isinstance(command, ClientReachable) and command.back_ns >= NEVER_NS):
        # Otherwise some inboxes have no subscriber yet, and nodes still have to report their return.
        context.effects.returned.append(_returned(subscription.inbox, command))
    resume_sending(context, subscription, gone_since_ns, back_ns, here=True, unwritten=_unwritten(command))
    _mark_group(context.state, subscription.group)


def _mark_group(state: State, group: Group) -> None:
    """Mark the group after the reachability of a member changed.

    Messages of unreachable members may move, and new messages may be sent.
    """
    if group.queue:
        state.redelivery_due[group.id] = group
    state.sendable[group.id] = group


def client_unresponsive(context: ApplyContext, command: ClientUnresponsive) -> None:
    state = context.state
    client = find_client(state, command.client_id, command.generation)
    if client is None or client.unresponsive == command.unresponsive:
        return
    if not command.unresponsive:
        client_responded(context, client)
        return
    _become_unresponsive(state, client)


def heartbeat_missed(context: ApplyContext, command: HeartbeatMissed) -> None:
    client = find_client(context.state, command.client_id, command.generation)
    if client is None:
        return
    client.missed, client.missed_ns = command.missed, context.time_ns
    context.state.dirty.clients[client.generation] = client.id
    if not client.unresponsive:
        _become_unresponsive(context.state, client)


def _become_unresponsive(state: State, client: Client) -> None:
    client.unresponsive = True
    state.dirty.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        state.sendable[subscription.group.id] = subscription.group


def client_responded(context: ApplyContext, client: Client) -> None:
    """Mark a client as responsive, because it answered or made a request, and resume sending to it."""
    if not client.unresponsive:
        return
    client.unresponsive = False
    client.missed = client.missed_ns = 0
    context.state.dirty.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        resume_sending(context, subscription)
        context.state.sendable[subscription.group.id] = subscription.group


def cold_start(context: ApplyContext) -> None:
    """Make every client unreachable until it is found again, and everything unacked due (R14)."""
    state = context.state
    for client in state.clients.values():
        client.unreachable = True
        client.unresponsive = False
        client.missed = client.missed_ns = 0
        client.gone_since_ns = context.time_ns
        state.dirty.clients[client.generation] = client.id
    for subscription in state.subscriptions.values():
        if subscription.online:
            subscription.unreachable = True
            subscription.gone_since_ns = context.time_ns
            state.dirty.subscriptions[subscription.id] = None
            make_all_due(context, subscription, here=True)
    state.cold_grace_ns = context.time_ns + state.settings.member_grace_ns
    state.cold_release_ns = context.time_ns + COLD_RELEASE_NS


def end_cold_start(context: ApplyContext) -> None:
    """Act on the two deadlines of a cold start when they have passed.

    After ``member_grace`` the other members of a queue group get the messages of unreachable members. After
    ten seconds subscriptions of returned clients no longer wait for reports about their own inboxes.
    """
    state = context.state
    if state.cold_release_ns and context.time_ns >= state.cold_release_ns:
        _release(context, state.cold_release_ns - COLD_RELEASE_NS)
    if state.cold_grace_ns and context.time_ns >= state.cold_grace_ns:
        state.cold_grace_ns = 0
        for channel in state.channels.values():
            for group in channel.groups.values():
                if group.queue:
                    state.redelivery_due[group.id] = group


def _release(context: ApplyContext, started_ns: int) -> None:
    """Release subscriptions that have waited since the cold start, at most `RELEASED_MAX` per entry."""
    state = context.state
    released = 0
    for subscription in state.subscriptions.values():
        client = subscription.client
        waits = subscription.unreachable and subscription.gone_since_ns == started_ns
        if waits and client is not None and not client.unreachable:
            if released == RELEASED_MAX:
                return
            released += 1
            subscription.unreachable = False
            state.dirty.subscriptions[subscription.id] = None
            _back(context, subscription, started_ns)
    state.cold_release_ns = 0
