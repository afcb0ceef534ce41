"""Client IDs: registered, asked after, replaced, closed (rule R17)."""

from __future__ import annotations

from typing import NoReturn

from node.errors import RefusedError
from node.units import SECOND

from . import refusals, subscriptions
from .apply_context import Turn
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


def open_client(turn: Turn, command: ClientOpen) -> ClientOpened | Probing:
    """Register a client ID; or have the connection that holds it asked first.

    Raises:
        RefusedError: with its text.
    """
    state = turn.state
    if turn.time_ns > command.valid_until_ns:
        raise RefusedError(refusals.TOO_LATE)
    known = state.clients.get(command.client_id)
    if known is None:
        _refuse_foreign_connection(turn, command)
        _refuse_one_more(turn)
        return _register(turn, command)
    if (
        known.conn_id
        and known.conn_id == command.conn_id
        and known.heartbeat_inbox == command.heartbeat_inbox
    ):
        return ClientOpened(known.id)  # its answer was lost, so it asks again
    if turn.time_ns < known.probed_until_ns:
        raise RefusedError(refusals.CLIENT_ID_TAKEN)
    _refuse_foreign_connection(turn, command)
    known.probed_until_ns = turn.time_ns + PROBE_NS
    state.touched.clients[known.generation] = known.id
    return Probing(known.id, known.generation, known.heartbeat_inbox)


def replace_client(turn: Turn, command: ClientReplace) -> ClientOpened:
    """The connection that held the ID did not answer: close that client and register the new one.

    Raises:
        RefusedError: the ID is held by another generation by now, or the new client has given up.
    """
    known = turn.state.clients.get(command.client_id)
    if known is not None and known.generation != command.generation:
        raise RefusedError(refusals.CLIENT_ID_TAKEN)
    if turn.time_ns > command.valid_until_ns:
        if known is not None:
            _unprobe(turn, known)
        raise RefusedError(refusals.TOO_LATE)
    _refuse_foreign_connection(turn, command)
    if known is not None:
        remove_client(turn, known)
    else:
        _refuse_one_more(turn)
    return _register(turn, command)


def keep_client(turn: Turn, command: ClientKeep) -> NoReturn:
    """The connection that holds the ID answered: the newcomer is refused.

    Raises:
        RefusedError: always.
    """
    known = turn.state.clients.get(command.client_id)
    if known is not None and known.generation == command.generation:
        _unprobe(turn, known)
    raise RefusedError(refusals.CLIENT_ID_TAKEN)


def close_client(turn: Turn, command: ClientClose) -> Ok:
    """Close a client and all its subscriptions, unless another has its ID by now.

    Raises:
        RefusedError: with its text.
    """
    client = turn.state.clients.get(command.client_id)
    if client is None or command.generation not in (client.generation, ANY_GENERATION):
        raise RefusedError(refusals.UNKNOWN_CLIENT_ID)
    remove_client(turn, client)
    return OK


def check_client(turn: Turn, command: ClientCheck) -> Ok:
    """Is the connection ID registered?

    Raises:
        RefusedError: no, or no longer.
    """
    if command.conn_id not in turn.state.by_conn:
        raise RefusedError(refusals.CLIENT_REPLACED)
    return OK


def remove_client(turn: Turn, client: Client) -> None:
    """Plain subscriptions vanish, durables go offline, queue members leave their groups."""
    for subscription in list(client.subscriptions.values()):
        subscriptions.end(turn, subscription, for_good=False)
    state = turn.state
    del state.clients[client.id]
    if client.conn_id:
        del state.by_conn[client.conn_id]
    state.touched.clients[client.generation] = client.id


def _register(turn: Turn, command: ClientOpen | ClientReplace) -> ClientOpened:
    state = turn.state
    client = Client(
        id=command.client_id,
        generation=turn.generation(),
        conn_id=command.conn_id,
        heartbeat_inbox=command.heartbeat_inbox,
        protocol=command.protocol,
        ping_interval_s=command.ping_interval_s,
        ping_max_out=command.ping_max_out,
    )
    state.clients[client.id] = client
    if client.conn_id:
        state.by_conn[client.conn_id] = client
    state.touched.clients[client.generation] = client.id
    return ClientOpened(client.id)


def _refuse_foreign_connection(turn: Turn, command: ClientOpen | ClientReplace) -> None:
    """A connection ID proves who publishes, so nobody may register another client's."""
    holder = turn.state.by_conn.get(command.conn_id)
    if holder is not None and holder.id != command.client_id:
        raise RefusedError(refusals.INVALID_CONNECT)


def _refuse_one_more(turn: Turn) -> None:
    state = turn.state
    if len(state.clients) >= CLIENTS_MAX and CLIENTS_BOUNDED.active(state.version):
        raise RefusedError(refusals.TOO_MANY_CLIENTS)


def _unprobe(turn: Turn, client: Client) -> None:
    client.probed_until_ns = 0
    turn.state.touched.clients[client.generation] = client.id


def note_origin(turn: Turn, client_id: str, node: str) -> None:
    """Note at which node a client has just been registered: it is connected there for all that is known.

    A leader that was started later can tell by it that the client has moved meanwhile (R15).
    """
    client = turn.state.clients[client_id]
    if LOCATION.active(turn.state.version) and client.generation[0] == turn.index:
        client.heard_at = (node, ANY_EPOCH)
