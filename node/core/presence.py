"""Who can be reached, as the ready leader found it (R15); and nobody can after a cold start (R14).

These are the keeper's commands. They carry the term they were proposed in and the generation of what
they mean, and are ignored when either differs (R16): a finding about a client says nothing about
the one that has replaced it, and a deposed leader's findings say nothing at all.
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
from .due import make_all_due, note_lost, resume_sending
from .effects import Returned
from .state import Client, Group, State, Subscription

COLD_RELEASE_NS = 10 * SECOND
"""After a cold start a subscription whose client is back waits at most so long for its own inbox."""

RELEASED_MAX = 1000
"""So many of them an entry lets go, others the next (R19)."""


def find_client(state: State, client_id: str, generation: Generation) -> Client | None:
    """That generation of the client, None if there is none any more."""
    client = state.clients.get(client_id)
    return client if client is not None and client.generation == generation else None


NEVER_NS = 1 << 62
"""A cluster time that is never reached. As ``back_ns``: not all inboxes of the client are heard yet."""


def client_away(context: ApplyContext, command: ClientAway | ClientUnreachable) -> None:
    state = context.state
    client = find_client(state, command.client_id, command.generation)
    if client is None or client.unreachable:
        return
    client.unreachable = True
    client.gone_since_ns = command.gone_since_ns
    state.dirty.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        _note_unwritten(context, subscription, command)
        _look_again(state, subscription.group)


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
    """Return True if the leader proposed a finding again before it saw it applied, since machine version 2.

    One that gives no time makes everything due that was sent before its entry: the repetition would make due
    what the entry of the first one sent again. Of one that gives a time that is left out by itself.
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
        _note_unwritten(context, subscription, command)
        _look_again(state, subscription.group)


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


def _note_unwritten(
    context: ApplyContext,
    subscription: Subscription,
    command: ClientAway | ClientUnreachable | SubscriptionAway | SubscriptionUnreachable,
) -> None:
    """Note what of its deliveries its last connection may not have been sent, and what was sent since.

    Noted here because a later leader may not know how far that connection was served. It is due when the
    subscription is heard again; what a queue member holds goes to other members anyhow.
    """
    if isinstance(command, (ClientUnreachable, SubscriptionUnreachable)):
        unwritten = Unwritten(command.written, 0, 0)
        note_lost(context, subscription, command.gone_since_ns, NEVER_NS, unwritten)


def _back(
    context: ApplyContext, subscription: Subscription, gone_since_ns: int, command: _Return | None = None
) -> None:
    """Make what it was sent while it could not hear due at once, and to itself.

    ``command`` says until when that was, and what was lost before; None: until now, and nothing.
    """
    back_ns = None if command is None else command.back_ns
    if not (isinstance(command, ClientReachable) and command.back_ns >= NEVER_NS):
        # Else some inboxes of the client are not subscribed to yet: when they are, that is news.
        context.effects.returned.append(_returned(subscription.inbox, command))
    resume_sending(context, subscription, gone_since_ns, back_ns, here=True, unwritten=_unwritten(command))
    _look_again(context.state, subscription.group)


def _look_again(state: State, group: Group) -> None:
    """Who can be sent to has changed: absent members' messages may move, new ones may flow."""
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
    """A client has answered, or asked for something: if it was silent, what has waited for it goes on."""
    if not client.unresponsive:
        return
    client.unresponsive = False
    client.missed = client.missed_ns = 0
    context.state.dirty.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        resume_sending(context, subscription)
        context.state.sendable[subscription.group.id] = subscription.group


def cold_start(context: ApplyContext) -> None:
    """Nobody was up: everyone is absent until seen, and everything unacked is due (R14)."""
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
    """The two deadlines of a cold start, once they have passed.

    After ``member_grace`` the others in a queue group get what the absent members hold. After ten
    seconds the subscriptions of clients that are back wait no longer for news of their own inboxes.
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
    """Let go those that wait since the cold start, so many an entry; after the last it is over."""
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
