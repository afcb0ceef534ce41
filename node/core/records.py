"""The state as records (keys and values, in bytes) for checkpoints and snapshots.

A checkpoint writes only what changed since the last one, so its cost is that of the changes. Changed objects
are in ``State.dirty``; changed blocks of a log are in that log's ``dirty``. Keys sort in the order in which
objects were created, and records are restored in that order. So a restored state iterates exactly like the
original (R30)::

    m                          time, term, settings, marked groups
    n <node name>              the session of a node
    c <generation>             a client
    h <channel id>             a channel
    l <channel id> <block>     a block of its log
    g <group id>               a group: cursor, members in order, orphans
    s <subscription id>        a subscription
    u <subscription id>        its deliveries: unacked, due, last sent
    x                          fields that later machine versions added to m (``added_fields``)

Numbers in keys are big-endian. Values are msgpack arrays, except raw blocks. Deadlines, the limits of
channels and lookup dicts are not written: they follow from other records.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from node.units import Generation

from .added_fields import pack_added
from .record_keys import (
    ADDED_META,
    BLOCK,
    CHANNEL,
    CLIENT,
    FORMAT,
    META,
    NUMBER,
    OUTCOME_TYPES,
    pack_records,
    pack_runs,
)
from .restoring import restore
from .state import Channel, Client, Dirty, Group, Session, State, Subscription

__all__ = ["Change", "all_records", "digest", "restore", "take_changes"]

Change = tuple[bytes, bytes | None]


def take_changes(state: State) -> list[Change]:
    """Return the changes since the last call: each a key with its value, or with None if it was removed.

    All changes together give the present state.
    """
    dirty, state.dirty = state.dirty, Dirty()
    changes: list[Change] = [*_meta(state)]
    for node in dirty.sessions:
        session = state.sessions.get(node)
        changes.append(_session(session) if session is not None else (_session_key(node), None))
    for generation, client_id in dirty.clients.items():
        client = state.clients.get(client_id)
        live = client is not None and client.generation == generation
        changes.append(_client(client) if client is not None and live else (_client_key(generation), None))
    for number in dirty.channels:
        channel = state.channels_by_id.get(number)
        changes.append(_channel(channel) if channel is not None else (CHANNEL.pack(b"h", number), None))
        if channel is not None:
            changes += [_block(channel, block) for block in channel.log.dirty]
            channel.log.dirty = {}
    changes += [(BLOCK.pack(b"l", *place), None) for place in dirty.gone_blocks]
    for number, channel_id in dirty.groups.items():
        channel = state.channels_by_id.get(channel_id)
        group = channel.groups.get(number) if channel is not None else None
        changes.append(_group(group) if group is not None else (NUMBER.pack(b"g", number), None))
    for number in dirty.subscriptions:
        subscription = state.subscriptions.get(number)
        changes.append(
            _subscription(subscription) if subscription is not None else (NUMBER.pack(b"s", number), None)
        )
    for number in dirty.unacked:
        subscription = state.subscriptions.get(number)
        changes.append(
            _unacked(subscription) if subscription is not None else (NUMBER.pack(b"u", number), None)
        )
    return changes


def all_records(state: State) -> Iterator[tuple[bytes, bytes]]:
    """Return all records of the state, not in the order of their keys."""
    yield from _meta(state)
    yield from map(_session, state.sessions.values())
    yield from map(_client, state.clients.values())
    for channel in state.channels.values():
        yield _channel(channel)
        for number in channel.log.block_numbers():
            key, packed = _block(channel, number)
            assert packed is not None
            yield key, packed
        yield from map(_group, channel.groups.values())
    for subscription in state.subscriptions.values():
        yield _subscription(subscription)
        yield _unacked(subscription)


def digest(state: State) -> bytes:
    """Return 32 bytes that are equal on nodes with equal states."""
    hasher = hashlib.blake2b(digest_size=32)
    for key, value in sorted(all_records(state)):
        hasher.update(struct.pack(">II", len(key), len(value)))
        hasher.update(key)
        hasher.update(value)
    return hasher.digest()


def _pack(*values: Any) -> bytes:
    packed: bytes = msgpack.packb(values)
    return packed


def _meta(state: State) -> Iterator[tuple[bytes, bytes]]:
    """Return the record of version 1, then the record of fields added since.

    The first record keeps its form, because an older release reads from it which version it lacks.
    """
    yield (
        META,
        _pack(
            FORMAT,
            state.applied,
            state.time_ns,
            state.timestamp_ns,
            state.term,
            state.version,
            state.cluster_uuid,
            state.cluster_tag,
            state.last_channel,
            state.last_subscription,
            state.cold_grace_ns,
            state.cold_release_ns,
            state.settings.values(),
            list(state.redelivery_due),
            list(state.sendable),
            state.restart,
            state.release,
            state.expiry_paused,
            state.rolled,
            state.milestone,
        ),
    )
    if state.version > 1:
        yield ADDED_META, _pack(*(pack_added(state) or ({},)))


def _session_key(node: str) -> bytes:
    return b"n" + node.encode()


def _session(session: Session) -> tuple[bytes, bytes]:
    outcomes = [
        (serial, OUTCOME_TYPES.index(type(outcome)), *outcome) for serial, outcome in session.outcomes.items()
    ]
    return _session_key(session.node), _pack(
        session.id, session.nonce, session.applied, session.lowest_waited, outcomes, *pack_added(session)
    )


def _client_key(generation: Generation) -> bytes:
    return CLIENT.pack(b"c", *generation)


def _client(client: Client) -> tuple[bytes, bytes]:
    return _client_key(client.generation), _pack(
        client.id,
        client.conn_id,
        client.heartbeat_inbox,
        client.protocol,
        client.ping_interval_s,
        client.ping_max_out,
        client.unreachable,
        client.unresponsive,
        client.gone_since_ns,
        client.probed_until_ns,
        *pack_added(client),
    )


def _channel(channel: Channel) -> tuple[bytes, bytes]:
    log = channel.log
    return CHANNEL.pack(b"h", channel.id), _pack(
        channel.name,
        channel.generation,
        log.first,
        log.last,
        log.bytes,
        channel.active_ns,
        channel.limit_reached,
        *pack_added(channel),
    )


def _block(channel: Channel, number: int) -> Change:
    block = channel.log.block(number)
    return BLOCK.pack(b"l", channel.id, number), block.pack() if block is not None else None


def _group(group: Group) -> tuple[bytes, bytes]:
    return NUMBER.pack(b"g", group.id), _pack(
        group.channel.id,
        group.durable,
        group.queue,
        group.client_id,
        group.cursor,
        [member.id for member in group.members],
        group.shadow.id if group.shadow is not None else 0,
        pack_records(group.orphans),
        group.paused_ns,
        group.stood_ns,
        group.purged,
        group.replayed_to,
        *pack_added(group),
    )


def _subscription(subscription: Subscription) -> tuple[bytes, bytes]:
    return NUMBER.pack(b"s", subscription.id), _pack(
        subscription.generation,
        subscription.client_id,
        subscription.inbox,
        subscription.ack_inbox,
        subscription.max_in_flight,
        subscription.ack_wait_ns,
        subscription.unreachable,
        subscription.gone_since_ns,
        *pack_added(subscription),
    )


def _unacked(subscription: Subscription) -> tuple[bytes, bytes]:
    return NUMBER.pack(b"u", subscription.id), _pack(
        subscription.last_sent,
        pack_records(subscription.unacked),
        pack_runs(subscription.due, -1),
        subscription.due_here,
        subscription.due_before,
        subscription.missed,
    )
