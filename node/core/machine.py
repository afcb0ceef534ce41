"""`Machine.apply`: one committed entry in, effects out, the same on every node.

An entry takes effect in this order (R1): first the leader's commands, then the commands of the origins'
batches, in order; then limits and max_age; then redeliveries that are due at the entry's time; then new
messages. The effects are in the order in which they are executed (R2).

A request that is not allowed is refused; the refusal is its outcome. A command that cannot be decoded is
refused too, in the same way on every node (R22). Any other exception is a bug: it leaves ``apply``, and the
node must stop.
"""

from __future__ import annotations

from typing import Any, assert_never

from node.errors import RefusedError, RemoteProtocolError
from node.units import Index

from . import (
    acks,
    administration,
    channels,
    clients,
    limits,
    refusals,
    sessions,
    subscriptions,
)
from .apply_context import ApplyContext
from .commands import (
    Acked,
    ChannelDelete,
    ChannelPurge,
    ClientCheck,
    ClientClose,
    ClientKeep,
    ClientKick,
    ClientOpen,
    ClientReplace,
    Configure,
    LeaderCommand,
    OriginCommand,
    Publish,
    RaiseVersion,
    SubscriptionClose,
    SubscriptionOpen,
    SubscriptionPause,
    SubscriptionRemove,
    SubscriptionReplace,
    SubscriptionSeek,
    Unsubscribe,
)
from .dispatch import dispatch
from .effects import OK, ClientOpened, Effects, Outcome, Refused, Warn
from .entries import (
    NUMBER_OF,
    SIGNATURES,
    Batch,
    Entry,
    count_commands,
    decode_commands,
    decode_entry,
    decode_leader_command,
    decode_origin,
    decode_session_open,
)
from .leader_commands import apply as apply_leader_command
from .presence import end_cold_start
from .state import Session, State
from .state_digest import roll
from .versions import (
    MACHINE_VERSION,
    UnsupportedVersionError,
    check_version,
    claimed_version,
    too_new,
)

__all__ = ["Machine", "UnsupportedVersionError"]

_PUBLISH_SIGNATURE = SIGNATURES[NUMBER_OF[Publish]]
_PUBLISH = NUMBER_OF[Publish]


class Machine:
    """The replicated state machine: a state, and ``apply``."""

    version = MACHINE_VERSION
    """The newest machine version that this release supports."""

    def __init__(self, state: State) -> None:
        self.state = state

    def apply(self, index: Index, data: bytes) -> Effects:
        """Apply one committed entry and return its effects, in the order in which to execute them.

        Deterministic: the same state and entry give the same result on every node. The only clock is the
        entry's own time.

        Args:
            index: the entry's index, above that of the last applied entry.
            data: the entry's bytes, see ``entries``.

        Raises:
            UnsupportedVersionError: a newer release is needed. Nothing was applied.
        """
        state = self.state
        assert index > state.applied, f"entry {index} comes after {state.applied}"
        effects = Effects(index)
        try:
            entry = decode_entry(data)
        except RemoteProtocolError as error:
            check_version(claimed_version(data), "", self.version)
            effects.warnings.append(Warn(f"entry {index} is ignored: {error}"))
            state.applied = index
            return effects
        check_version(entry.version, "", self.version)
        leader_commands = _decode_leader_command(entry, effects, state.version)
        for command in leader_commands:
            if isinstance(command, RaiseVersion):
                check_version(command.version, command.release, self.version)
        state.applied = index
        state.time_ns = max(state.time_ns, entry.time_ns)
        state.timestamp_ns = max(state.timestamp_ns, entry.timestamp_ns)
        context = ApplyContext(state, index, state.time_ns, state.timestamp_ns, effects)
        for command in leader_commands:
            apply_leader_command(context, command)
        for batch in entry.batches:
            _apply_batch(context, batch)
        channels.finish_publishing(context)
        limits.expire(context)
        end_cold_start(context)
        dispatch(context)
        roll(context, data)
        return effects


def _decode_leader_command(entry: Entry, effects: Effects, version: int) -> list[LeaderCommand]:
    commands = []
    for fields in entry.leader_commands:
        try:
            command = decode_leader_command(fields)
            if too_new(command, version):
                raise RemoteProtocolError(f"version {version} has no command of type {fields[0]}")
            commands.append(command)
        except RemoteProtocolError as error:
            effects.warnings.append(Warn(f"entry {effects.index}: a leader command is ignored: {error}"))
    return commands


def _apply_batch(context: ApplyContext, batch: Batch) -> None:
    """Apply the commands of an origin's batch that were not applied before, and reply with all outcomes."""
    if batch.session is None:
        try:
            sessions.open_session(context, decode_session_open(batch.commands))
        except RemoteProtocolError as error:
            context.effects.warnings.append(Warn(f"entry {context.index}: a session was not opened: {error}"))
        return
    session = sessions.find_session(context.state, batch.session)
    if session is None:
        return  # the session has ended: its node opened another one, or was removed
    try:
        commands = decode_commands(batch.commands)
    except RemoteProtocolError as error:
        _warn_of(context, session, error)
        commands = [()] * count_commands(batch.commands)
    context.session = session.id
    first, last = batch.first_serial, batch.first_serial + len(commands) - 1
    seen = sessions.skip_seen(session, first, len(commands))
    others = sessions.kept_outcomes(session, first, last) if seen else {}
    if seen < len(commands):
        fresh = _apply_commands(context, session, commands[seen:] if seen else commands, first + seen)
        session.applied = last
        session.outcomes.update(fresh)
        others.update(fresh)
    sessions.forget_collected(session, batch.lowest_waited)
    context.state.dirty.sessions[session.node] = None
    if commands:
        sessions.add_replies(context, session, first, last, others)


def _apply_commands(
    context: ApplyContext, session: Session, commands: list[tuple[Any, ...]], first_serial: int
) -> dict[int, Outcome]:
    """Apply commands in order; return the outcomes that are not ``Ok``, by serial.

    Publishes are handled inline, without a function call for each, because they are by far the most
    commands.
    """
    by_conn, registered, bodies_of = context.state.by_conn, context.state.clients, context.bodies
    others: dict[int, Outcome] = {}
    serial = first_serial - 1
    for fields in commands:
        serial += 1
        try:
            if fields and fields[0] == _PUBLISH and tuple(map(type, fields)) == _PUBLISH_SIGNATURE:
                _, client_id, conn_id, channel, body = fields
                if (conn_id not in by_conn) if conn_id else (client_id not in registered):
                    others[serial] = Refused(refusals.INVALID_PUBLISH)
                    continue
                bodies = bodies_of.get(channel)
                if bodies is None:
                    bodies = channels.start_publishing(context, channel)
                bodies.append(body)
                continue
            command = decode_origin(fields)
            if too_new(command, context.state.version):
                raise RemoteProtocolError(
                    f"version {context.state.version} has no command of type {fields[0]}"
                )
            outcome = _apply_command(context, command)
            if type(outcome) is ClientOpened:
                clients.record_origin(context, outcome.client_id, session.node)
            if outcome is not OK:
                others[serial] = outcome
        except RefusedError as refusal:
            others[serial] = Refused(str(refusal))
        except RemoteProtocolError as error:
            _warn_of(context, session, error)
            others[serial] = Refused(refusals.UNDECODABLE)
    return others


def _apply_command(context: ApplyContext, command: OriginCommand) -> Outcome:
    """Apply one command of an origin, except a publish, and return its outcome.

    Raises:
        RefusedError: the command is refused; the text is the outcome.
    """
    match command:
        case Acked():
            return acks.apply_acks(context, command)
        case SubscriptionOpen() | SubscriptionReplace():
            return subscriptions.open_subscription(context, command)
        case SubscriptionClose():
            return subscriptions.close_subscription(context, command)
        case Unsubscribe():
            return subscriptions.unsubscribe(context, command)
        case ClientOpen():
            return clients.open_client(context, command)
        case ClientReplace():
            return clients.replace_client(context, command)
        case ClientKeep():
            return clients.keep_client(context, command)
        case ClientClose():
            return clients.close_client(context, command)
        case ClientCheck():
            return clients.check_client(context, command)
        case Configure():
            return limits.configure(context, command)
        case (
            ChannelDelete()
            | ChannelPurge()
            | SubscriptionRemove()
            | SubscriptionSeek()
            | SubscriptionPause()
            | ClientKick()
        ):
            return administration.administer(context, command)
        case Publish():
            raise AssertionError("publishes are handled in _apply_commands")
        case _:
            assert_never(command)


def _warn_of(context: ApplyContext, session: Session, error: RemoteProtocolError) -> None:
    context.effects.warnings.append(
        Warn(f"entry {context.index}: a command from node {session.node} was refused: {error}")
    )
