"""Leader commands: only the ready leader proposes them, and they take effect only in its term (R16)."""

from __future__ import annotations

from typing import assert_never

from . import channels, clients, new_term, presence, sessions
from .apply_context import ApplyContext
from .commands import (
    ChannelExpire,
    ClientAway,
    ClientBack,
    ClientReachable,
    ClientRemove,
    ClientUnreachable,
    ClientUnresponsive,
    ColdStart,
    HeartbeatMissed,
    InitCluster,
    LeaderCommand,
    NewTerm,
    PauseExpiry,
    PauseRedelivery,
    RaiseVersion,
    RecoverCluster,
    SessionEnd,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionReachable,
    SubscriptionUnreachable,
    Tick,
)
from .effects import Warn


def apply(context: ApplyContext, command: LeaderCommand) -> None:
    """Apply one leader command, unless its term is over."""
    if isinstance(command, NewTerm):
        if command.term > context.state.term:
            new_term.begin_term(context, command)
        return
    if command.term != context.state.term:
        return
    match command:
        case Tick():
            pass  # the command only carries the entry's time
        case ColdStart():
            presence.cold_start(context)
        case ClientAway() | ClientUnreachable():
            presence.client_away(context, command)
        case ClientBack() | ClientReachable():
            presence.client_back(context, command)
        case SubscriptionAway() | SubscriptionUnreachable():
            presence.subscription_away(context, command)
        case SubscriptionBack() | SubscriptionReachable():
            presence.subscription_back(context, command)
        case ClientUnresponsive():
            presence.client_unresponsive(context, command)
        case HeartbeatMissed():
            presence.heartbeat_missed(context, command)
        case ClientRemove():
            client = presence.find_client(context.state, command.client_id, command.generation)
            if client is not None:
                clients.remove_client(context, client)
        case ChannelExpire():
            _expire_channel(context, command)
        case RaiseVersion():
            if command.version > context.state.version:
                context.state.version, context.state.release = command.version, command.release
        case PauseExpiry():
            _pause_expiry(context, command)
        case PauseRedelivery():
            context.state.redelivery_paused = command.paused
        case InitCluster():
            _init_cluster(context, command)
        case RecoverCluster():
            if context.state.cluster_uuid == command.before:
                context.state.cluster_uuid = command.cluster_uuid
        case SessionEnd():
            sessions.end_session(context, command)
        case _:
            assert_never(command)


def _expire_channel(context: ApplyContext, command: ChannelExpire) -> None:
    """Delete the channel if its max_inactivity has still passed (I1 to I4)."""
    channel = context.state.channels.get(command.channel)
    if channel is None or channel.generation != command.generation:
        return
    expires_ns = channel.expires_ns
    if expires_ns is not None and expires_ns <= context.time_ns:
        channels.delete(context, channel)


def _pause_expiry(context: ApplyContext, command: PauseExpiry) -> None:
    if command.wait != context.state.expiry_paused:
        context.state.expiry_paused = command.wait
        what = "messages are not dropped for their age: the leader's clock is wrong"
        context.effects.warnings.append(
            Warn(what if command.wait else "messages are dropped for their age again")
        )


def _init_cluster(context: ApplyContext, command: InitCluster) -> None:
    state = context.state
    if not state.cluster_uuid:
        state.cluster_uuid = command.cluster_uuid
        state.cluster_tag = command.cluster_tag
