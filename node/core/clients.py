"""Client IDs: registering, probing, replacing and closing clients (rule R17)."""

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
"""Maximum number of registered client IDs in the cluster: heartbeats to that many alone keep a core busy. On
every node each takes 1 KB of memory with names of usual length, 4 KB with the longest names."""

PROBE_NS = 3 * SECOND
"""Period for which an ID is reserved for the request that caused the probe of its old connection."""


def open_client(context: ApplyContext, command: ClientOpen) -> ClientOpened | Probing:
    """Register a client ID, or have its present holder probed first.

    Raises:
        RefusedError: the request is refused.
    """
    state = context.state
    if context.time_ns > command.valid_until_ns:
        raise RefusedError(refusals.TOO_LATE)
    holder = state.clients.get(command.client_id)
    if holder is None:
        _check_connection(context, command)
        _check_count(context)
        return _register(context, command)
    if (
        holder.conn_id
        and holder.conn_id == command.conn_id
        and holder.heartbeat_inbox == command.heartbeat_inbox
    ):
        return ClientOpened(holder.id)  # its reply was lost, so it repeats the request
    if context.time_ns < holder.probed_until_ns:
        raise RefusedError(refusals.CLIENT_ID_TAKEN)
    _check_connection(context, command)
    holder.probed_until_ns = context.time_ns + PROBE_NS
    state.dirty.clients[holder.generation] = holder.id
    return Probing(holder.id, holder.generation, holder.heartbeat_inbox)


def replace_client(context: ApplyContext, command: ClientReplace) -> ClientOpened:
    """Close the client that did not answer the probe, and register the new one.

    Raises:
        RefusedError: another generation has the ID by now, or the new client has given up.
    """
    holder = context.state.clients.get(command.client_id)
    if holder is not None and holder.generation != command.generation:
        raise RefusedError(refusals.CLIENT_ID_TAKEN)
    if context.time_ns > command.valid_until_ns:
        if holder is not None:
            _unprobe(context, holder)
        raise RefusedError(refusals.TOO_LATE)
    _check_connection(context, command)
    if holder is not None:
        remove_client(context, holder)
    else:
        _check_count(context)
    return _register(context, command)


def keep_client(context: ApplyContext, command: ClientKeep) -> NoReturn:
    """Keep the client that answered the probe, and refuse the new one.

    Raises:
        RefusedError: always.
    """
    holder = context.state.clients.get(command.client_id)
    if holder is not None and holder.generation == command.generation:
        _unprobe(context, holder)
    raise RefusedError(refusals.CLIENT_ID_TAKEN)


def close_client(context: ApplyContext, command: ClientClose) -> Ok:
    """Close a client and all its subscriptions, unless another generation has its ID by now.

    Raises:
        RefusedError: the client is not registered.
    """
    client = context.state.clients.get(command.client_id)
    if client is None or command.generation not in (client.generation, ANY_GENERATION):
        raise RefusedError(refusals.UNKNOWN_CLIENT_ID)
    remove_client(context, client)
    return OK


def check_client(context: ApplyContext, command: ClientCheck) -> Ok:
    """Check that a connection ID is registered.

    Raises:
        RefusedError: it is not, or no longer.
    """
    if command.conn_id not in context.state.by_conn:
        raise RefusedError(refusals.CLIENT_REPLACED)
    return OK


def remove_client(context: ApplyContext, client: Client) -> None:
    """Remove a client: its plain subscriptions end, durables go offline, queue members leave their groups."""
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


def _check_connection(context: ApplyContext, command: ClientOpen | ClientReplace) -> None:
    """Refuse another client's connection ID: the ID is the proof of a publisher's identity."""
    holder = context.state.by_conn.get(command.conn_id)
    if holder is not None and holder.id != command.client_id:
        raise RefusedError(refusals.INVALID_CONNECT)


def _check_count(context: ApplyContext) -> None:
    state = context.state
    if len(state.clients) >= CLIENTS_MAX and CLIENTS_BOUNDED.active(state.version):
        raise RefusedError(refusals.TOO_MANY_CLIENTS)


def _unprobe(context: ApplyContext, client: Client) -> None:
    client.probed_until_ns = 0
    context.state.dirty.clients[client.generation] = client.id


def record_origin(context: ApplyContext, client_id: str, node: str) -> None:
    """Record the node through which a client was just registered.

    The client is presumed to be connected there. A leader that starts later can detect by it that the client
    has moved (R15).
    """
    client = context.state.clients[client_id]
    if LOCATION.active(context.state.version) and client.generation[0] == context.index:
        client.reachable_at = (node, ANY_EPOCH)
