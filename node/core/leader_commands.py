"""The keeper's commands: what only the ready leader may say, and only in its own term (R16)."""

from __future__ import annotations

from typing import assert_never

from . import channels, clients, new_term, presence, sessions
from .apply_context import Turn
from .commands import (
    AgesWait,
    ChannelExpire,
    ClientAway,
    ClientBack,
    ClientReachable,
    ClientRemove,
    ClientSilent,
    ClientUnreachable,
    ColdStart,
    Found,
    HeartbeatMissed,
    KeeperCommand,
    PauseRedelivery,
    RaiseVersion,
    Refound,
    SessionEnd,
    SubscriptionAway,
    SubscriptionBack,
    SubscriptionReachable,
    SubscriptionUnreachable,
    TakeOver,
    Tick,
)
from .effects import Warn


def apply(turn: Turn, command: KeeperCommand) -> None:
    """Apply one command, unless its term is over."""
    if isinstance(command, TakeOver):
        if command.term > turn.state.term:
            new_term.take_over(turn, command)
        return
    if command.term != turn.state.term:
        return
    match command:
        case Tick():
            pass  # the entry's time is what it brings
        case ColdStart():
            presence.cold_start(turn)
        case ClientAway() | ClientUnreachable():
            presence.client_away(turn, command)
        case ClientBack() | ClientReachable():
            presence.client_back(turn, command)
        case SubscriptionAway() | SubscriptionUnreachable():
            presence.subscription_away(turn, command)
        case SubscriptionBack() | SubscriptionReachable():
            presence.subscription_back(turn, command)
        case ClientSilent():
            presence.client_silent(turn, command)
        case HeartbeatMissed():
            presence.heartbeat_missed(turn, command)
        case ClientRemove():
            client = presence.find_client(turn.state, command.client_id, command.generation)
            if client is not None:
                clients.remove_client(turn, client)
        case ChannelExpire():
            _expire_channel(turn, command)
        case RaiseVersion():
            if command.version > turn.state.version:
                turn.state.version, turn.state.release = command.version, command.release
        case AgesWait():
            _ages_wait(turn, command)
        case PauseRedelivery():
            turn.state.redelivery_paused = command.paused
        case Found():
            _found(turn, command)
        case Refound():
            if turn.state.founding_id == command.before:
                turn.state.founding_id = command.founding_id
        case SessionEnd():
            sessions.end_session(turn, command)
        case _:
            assert_never(command)


def _expire_channel(turn: Turn, command: ChannelExpire) -> None:
    """Delete the channel, if it has still been inactive for too long (I1 to I4)."""
    channel = turn.state.channels.get(command.channel)
    if channel is None or channel.generation != command.generation:
        return
    expires_ns = channel.expires_ns
    if expires_ns is not None and expires_ns <= turn.time_ns:
        channels.delete(turn, channel)


def _ages_wait(turn: Turn, command: AgesWait) -> None:
    if command.wait != turn.state.ages_wait:
        turn.state.ages_wait = command.wait
        what = "messages are not dropped for their age: the leader's clock is wrong"
        turn.effects.warnings.append(
            Warn(what if command.wait else "messages are dropped for their age again")
        )


def _found(turn: Turn, command: Found) -> None:
    state = turn.state
    if not state.founding_id:
        state.founding_id = command.founding_id
        state.cluster_tag = command.cluster_tag
