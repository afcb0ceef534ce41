"""Who can be reached, as the ready leader found it (R15); and nobody can after a cold start (R14).

These are the keeper's commands. They carry the term they were proposed in and the generation of what
they mean, and are ignored when either differs (R16): a finding about a client says nothing about
the one that has replaced it, and a deposed leader's findings say nothing at all.
"""

from __future__ import annotations

from typing import TypeAlias

from node.units import SECOND, Generation

from .apply_context import Turn
from .commands import (
    ClientAway,
    ClientBack,
    ClientReachable,
    ClientSilent,
    ClientUnreachable,
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


_NEVER_NS = 1 << 62
"""A cluster time that is never reached."""


def client_away(turn: Turn, command: ClientAway | ClientUnreachable) -> None:
    state = turn.state
    client = find_client(state, command.client_id, command.generation)
    if client is None or client.absent:
        return
    client.absent = True
    client.gone_since_ns = command.gone_since_ns
    state.touched.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        _note_unwritten(turn, subscription, command)
        _look_again(state, subscription.group)


def client_back(turn: Turn, command: ClientBack | ClientReachable) -> None:
    state = turn.state
    client = find_client(state, command.client_id, command.generation)
    if client is None:
        return
    gone_since_ns = command.gone_since_ns
    if client.absent:
        gone_since_ns = min(gone_since_ns, client.gone_since_ns)
    client.absent = False
    client.gone_since_ns = 0
    turn.effects.returned.append(_returned(client.heartbeat_inbox, command))
    if isinstance(command, ClientReachable):
        client.heard_at = (command.node, command.epoch)
    state.touched.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        _back(turn, subscription, gone_since_ns, command)


def subscription_away(turn: Turn, command: SubscriptionAway | SubscriptionUnreachable) -> None:
    state = turn.state
    subscription = state.subscriptions.get(command.subscription)
    if subscription is None or subscription.generation != command.generation or not subscription.online:
        return
    if not subscription.absent:
        subscription.absent = True
        subscription.gone_since_ns = command.gone_since_ns
        state.touched.subscriptions[subscription.id] = None
        _note_unwritten(turn, subscription, command)
        _look_again(state, subscription.group)


def subscription_back(turn: Turn, command: SubscriptionBack | SubscriptionReachable) -> None:
    subscription = turn.state.subscriptions.get(command.subscription)
    if subscription is None or subscription.generation != command.generation or not subscription.online:
        return
    gone_since_ns = command.gone_since_ns
    if subscription.absent:
        gone_since_ns = min(gone_since_ns, subscription.gone_since_ns)
    subscription.absent = False
    subscription.gone_since_ns = 0
    turn.state.touched.subscriptions[subscription.id] = None
    _back(turn, subscription, gone_since_ns, command)


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
    turn: Turn,
    subscription: Subscription,
    command: ClientAway | ClientUnreachable | SubscriptionAway | SubscriptionUnreachable,
) -> None:
    """Note what of its deliveries its last connection may not have been sent, and what was sent since.

    Noted here because a later leader may not know how far that connection was served. It is due when the
    subscription is heard again; what a queue member holds goes to other members anyhow.
    """
    if isinstance(command, (ClientUnreachable, SubscriptionUnreachable)):
        unwritten = Unwritten(command.written, 0, 0)
        note_lost(turn, subscription, command.gone_since_ns, _NEVER_NS, unwritten)


def _back(turn: Turn, subscription: Subscription, gone_since_ns: int, command: _Return | None = None) -> None:
    """Make what it was sent while it could not hear due at once, and to itself.

    ``command`` says until when that was, and what was lost before; None: until now, and nothing.
    """
    turn.effects.returned.append(_returned(subscription.inbox, command))
    back_ns = None if command is None else command.back_ns
    resume_sending(turn, subscription, gone_since_ns, back_ns, here=True, unwritten=_unwritten(command))
    _look_again(turn.state, subscription.group)


def _look_again(state: State, group: Group) -> None:
    """Who can be sent to has changed: absent members' messages may move, new ones may flow."""
    if group.queue:
        state.overdue[group.id] = group
    state.hungry[group.id] = group


def client_silent(turn: Turn, command: ClientSilent) -> None:
    state = turn.state
    client = find_client(state, command.client_id, command.generation)
    if client is None or client.silent == command.silent:
        return
    if not command.silent:
        client_heard(turn, client)
        return
    _fall_silent(state, client)


def heartbeat_missed(turn: Turn, command: HeartbeatMissed) -> None:
    client = find_client(turn.state, command.client_id, command.generation)
    if client is None:
        return
    client.missed, client.missed_ns = command.missed, turn.time_ns
    turn.state.touched.clients[client.generation] = client.id
    if not client.silent:
        _fall_silent(turn.state, client)


def _fall_silent(state: State, client: Client) -> None:
    client.silent = True
    state.touched.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        state.hungry[subscription.group.id] = subscription.group


def client_heard(turn: Turn, client: Client) -> None:
    """A client has answered, or asked for something: if it was silent, what has waited for it goes on."""
    if not client.silent:
        return
    client.silent = False
    client.missed = client.missed_ns = 0
    turn.state.touched.clients[client.generation] = client.id
    for subscription in client.subscriptions.values():
        resume_sending(turn, subscription)
        turn.state.hungry[subscription.group.id] = subscription.group


def cold_start(turn: Turn) -> None:
    """Nobody was up: everyone is absent until seen, and everything unacked is due (R14)."""
    state = turn.state
    for client in state.clients.values():
        client.absent = True
        client.silent = False
        client.missed = client.missed_ns = 0
        client.gone_since_ns = turn.time_ns
        state.touched.clients[client.generation] = client.id
    for subscription in state.subscriptions.values():
        if subscription.online:
            subscription.absent = True
            subscription.gone_since_ns = turn.time_ns
            state.touched.subscriptions[subscription.id] = None
            make_all_due(turn, subscription, here=True)
    state.cold_grace_ns = turn.time_ns + state.settings.member_grace_ns
    state.cold_release_ns = turn.time_ns + COLD_RELEASE_NS


def end_cold_start(turn: Turn) -> None:
    """The two deadlines of a cold start, once they have passed.

    After ``member_grace`` the others in a queue group get what the absent members hold. After ten
    seconds the subscriptions of clients that are back wait no longer for news of their own inboxes.
    """
    state = turn.state
    if state.cold_release_ns and turn.time_ns >= state.cold_release_ns:
        _release(turn, state.cold_release_ns - COLD_RELEASE_NS)
    if state.cold_grace_ns and turn.time_ns >= state.cold_grace_ns:
        state.cold_grace_ns = 0
        for channel in state.channels.values():
            for group in channel.groups.values():
                if group.queue:
                    state.overdue[group.id] = group


def _release(turn: Turn, started_ns: int) -> None:
    """Let go those that wait since the cold start, so many an entry; after the last it is over."""
    state = turn.state
    released = 0
    for subscription in state.subscriptions.values():
        client = subscription.client
        waits = subscription.absent and subscription.gone_since_ns == started_ns
        if waits and client is not None and not client.absent:
            if released == RELEASED_MAX:
                return
            released += 1
            subscription.absent = False
            state.touched.subscriptions[subscription.id] = None
            _back(turn, subscription, started_ns)
    state.cold_release_ns = 0
