"""Client IDs: registered, asked after, replaced, closed (rule R17)."""

from __future__ import annotations

from typing import NoReturn

from node.errors import RefusedError
from node.units import SECOND

from . import refusals, subscriptions
from .apply_context import ApplyContext
from .commands import (
    ANY_EPOCH,
    ANY_GENERATION,
    ClientCheck,
    ClientClose,
    ClientKeep,
    ClientOpen,
    ClientReplace,
)
from .effects import OK, ClientOpened, Ok, Probing
from .state import Client
from .versions import CLIENTS_BOUNDED, LOCATION

CLIENTS_MAX = 100_000
"""Registered client IDs, of the whole cluster: heartbeats alone to so many keep a core busy. On every node
each takes 1 KB of memory with names of usual length, 4 KB with the longest there may be."""

PROBE_NS = 3 * SECOND
"""How long an ID stays reserved for the request that is asking its old connection."""


def open_client(context: ApplyContext, command: ClientOpen) -> ClientOpened | Probing:
    """Register a client ID; or have the connection that holds it asked first.

    Raises:
        RefusedError: with its text.
    """
    state = context.state
    if context.time_ns > command.valid_until_ns:
        raise RefusedError(refusals.TOO_LATE)
    known = state.clients.get(command.client_id)
    if known is None:
        _refuse_other_connection(context, command)
        _refuse_one_more(context)
        return _register(context, command)
    if (
        known.conn_id
        and known.conn_id == command.conn_id
        and known.heartbeat_inbox == command.heartbeat_inbox
    ):
        return ClientOpened(known.id)  # its answer was lost, so it asks again
    if context.time_ns < known.probed_until_ns:
        raise RefusedError(refusals.CLIENT_ID_TAKEN)
    _refuse_other_connection(context, command)
    known.probed_until_ns = context.time_ns + PROBE_NS
    state.dirty.clients[known.generation] = known.id
    return Probing(known.id, known.generation, known.heartbeat_inbox)


def replace_client(context: ApplyContext, command: ClientReplace) -> ClientOpened:
    """The connection that held the ID did not answer: close that client and register the new one.

    Raises:
        RefusedError: the ID is held by another generation by now, or the new client has given up.
    """
    known = context.state.clients.get(command.client_id)
    if known is not None and known.generation != command.generation:
        raise RefusedError(refusals.CLIENT_ID_TAKEN)
    if context.time_ns > command.valid_until_ns:
        if known is not None:
            _unprobe(context, known)
        raise RefusedError(refusals.TOO_LATE)
    _refuse_other_connection(context, command)
    if known is not None:
        remove_client(context, known)
    else:
        _refuse_one_more(context)
    return _register(context, command)


def keep_client(context: ApplyContext, command: ClientKeep) -> NoReturn:
    """The connection that holds the ID answered: the newcomer is refused.

    Raises:
        RefusedError: always.
    """
    known = context.state.clients.get(command.client_id)
    if known is not None and known.generation == command.generation:
        _unprobe(context, known)
    raise RefusedError(refusals.CLIENT_ID_TAKEN)


def close_client(context: ApplyContext, command: ClientClose) -> Ok:
    """Close a client and all its subscriptions, unless another has its ID by now.

    Raises:
        RefusedError: with its text.
    """
    client = context.state.clients.get(command.client_id)
    if client is None or command.generation not in (client.generation, ANY_GENERATION):
        raise RefusedError(refusals.UNKNOWN_CLIENT_ID)
    remove_client(context, client)
    return OK


def check_client(context: ApplyContext, command: ClientCheck) -> Ok:
    """Is the connection ID registered?

    Raises:
        RefusedError: no, or no longer.
    """
    if command.conn_id not in context.state.by_conn:
        raise RefusedError(refusals.CLIENT_REPLACED)
    return OK


def remove_client(context: ApplyContext, client: Client) -> None:
    """Plain subscriptions vanish, durables go offline, queue members leave their groups."""
    for subscription in list(client.subscriptions.values()):
        subscriptions.end(context, subscription, for_good=False)
    state = context.state
    del state.clients[client.id]
    if client.conn_id:
        del state.by_conn[client.conn_id]
    state.dirty.clients[client.generation] = client.id


def _register(context: ApplyContext, command: ClientOpen | ClientReplace) -> ClientOpened:
    state = context.state
    client = Client(
        id=command.client_id,
        generation=context.generation(),
        conn_id=command.conn_id,
        heartbeat_inbox=command.heartbeat_inbox,
        protocol=command.protocol,
        ping_interval_s=command.ping_interval_s,
        ping_max_out=command.ping_max_out,
    )
    state.clients[client.id] = client
    if client.conn_id:
        state.by_conn[client.conn_id] = client
    state.dirty.clients[client.generation] = client.id
    return ClientOpened(client.id)


def _refuse_other_connection(context: ApplyContext, command: ClientOpen | ClientReplace) -> None:
    """A connection ID proves who publishes, so nobody may register another client's."""
    holder = context.state.by_conn.get(command.conn_id)
    if holder is not None and holder.id != command.client_id:
        raise RefusedError(refusals.INVALID_CONNECT)


def _refuse_one_more(context: ApplyContext) -> None:
    state = context.state
    if len(state.clients) >= CLIENTS_MAX and CLIENTS_BOUNDED.active(state.version):
        raise RefusedError(refusals.TOO_MANY_CLIENTS)


def _unprobe(context: ApplyContext, client: Client) -> None:
    client.probed_until_ns = 0
    context.state.dirty.clients[client.generation] = client.id


def note_origin(context: ApplyContext, client_id: str, node: str) -> None:
    """Note at which node a client has just been registered: it is connected there for all that is known.

    A leader that was started later can tell by it that the client has moved meanwhile (R15).
    """
    client = context.state.clients[client_id]
    if LOCATION.active(context.state.version) and client.generation[0] == context.index:
        client.reachable_at = (node, ANY_EPOCH)
