"""Restoring a state from its records, the inverse of ``records``."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack

from node.errors import CorruptionError
from node.units import ChannelID, Generation, SubscriptionID

from . import limits
from .ack_waits import watch
from .added_fields import unpack_added
from .log import Block, MessageLog
from .record_keys import (
    ADDED_META,
    BLOCK,
    CHANNEL,
    CLIENT,
    FORMAT,
    META,
    NUMBER,
    OUTCOME_TYPES,
    unpack_records,
    unpack_runs,
)
from .settings import Settings
from .state import Channel, Client, Group, Lost, Missed, Restart, Session, State, Subscription, folded
from .versions import check_version

_Fields = tuple[Any, ...]

CLIENT_VALUES = 9
"""Number of values that follow the ID in a client's record of version 1."""


def restore(records: Iterable[tuple[bytes, bytes]]) -> State:
    """Return the state that these records were made from; a new state if there are none.

    The records must be in the order of their keys.

    Raises:
        CorruptionError: they contradict each other, or another release wrote them.
        UnsupportedVersionError: a newer release is needed.
    """
    by_kind: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for key, value in records:
        by_kind.setdefault(key[:1], []).append((key, value))
    if not by_kind:
        return State()
    try:
        return _Restoring(by_kind).state
    except (LookupError, ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
        raise CorruptionError(f"the checkpoint contradicts itself: {error!r}") from error


class _Restoring:
    """A state under construction, one kind of record after the other. Each kind needs only earlier ones."""

    def __init__(self, by_kind: dict[bytes, list[tuple[bytes, bytes]]]) -> None:
        self._by_kind = by_kind
        self._groups: dict[int, Group] = {}
        self.state = State()
        redelivery_due, sendable = self._meta()
        self._sessions()
        self._clients()
        self._channels()
        self._blocks()
        self._read_groups(self._subscriptions())
        self.state.redelivery_due = {number: self._groups[number] for number in redelivery_due}
        self.state.sendable = {number: self._groups[number] for number in sendable}
        self._derived()

    def _unpacked(self, kind: bytes) -> Iterator[tuple[bytes, _Fields]]:
        for key, value in self._by_kind.get(kind, []):
            yield key, msgpack.unpackb(value, use_list=False)

    def _meta(self) -> tuple[list[int], list[int]]:
        ((_, (written, *values)),) = self._unpacked(META)
        if written != FORMAT:
            raise CorruptionError(
                f"the checkpoint has format {written}, this release reads {FORMAT}: use the release that "
                "wrote it, or replace the node (stanchion cluster replace)"
            )
        state = self.state
        (
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
            settings,
            redelivery_due,
            sendable,
            restart,
            state.release,
            state.expiry_paused,
            state.rolled,
            state.milestone,
        ) = values
        check_version(state.version, state.release)
        state.settings = Settings(**settings)
        state.restart = None if restart is None else Restart(*restart)
        for _, (added,) in self._unpacked(ADDED_META):
            unpack_added(state, [added])
        return redelivery_due, sendable

    def _sessions(self) -> None:
        for key, (session_id, nonce, applied, lowest_waited, outcomes, *added) in self._unpacked(b"n"):
            session = Session(key[1:].decode(), session_id, nonce, applied, lowest_waited)
            for serial, kind, *fields in outcomes:
                session.outcomes[serial] = OUTCOME_TYPES[kind](*fields)
            unpack_added(session, added)
            self.state.sessions[session.node] = session

    def _clients(self) -> None:
        for key, (client_id, *values) in self._unpacked(b"c"):
            _, index, position = CLIENT.unpack(key)
            client = Client(client_id, (index, position), *values[:CLIENT_VALUES])
            unpack_added(client, values[CLIENT_VALUES:])
            self.state.clients[client_id] = client
            if client.conn_id:
                self.state.by_conn[client.conn_id] = client

    def _channels(self) -> None:
        state = self.state
        for key, values in self._unpacked(b"h"):
            name, generation, first, last, size, active_ns, limit_reached, *added = values
            channel = Channel(
                id=ChannelID(CHANNEL.unpack(key)[1]),
                name=name,
                generation=generation,
                limits=limits.limits_of(state.settings, name),
                log=MessageLog(first, last, size),
                active_ns=active_ns,
                limit_reached=limit_reached,
            )
            unpack_added(channel, added)
            state.channels[name] = channel
            state.channels_by_id[channel.id] = channel
            state.by_folded_name[folded(name)] = channel

    def _blocks(self) -> None:
        for key, packed in self._by_kind.get(b"l", []):
            _, channel_id, number = BLOCK.unpack(key)
            self.state.channels_by_id[channel_id].log.restore_block(number, Block.unpack(packed))
        for channel in self.state.channels.values():
            channel.log.check()

    def _subscriptions(self) -> dict[int, tuple[_Fields, _Fields]]:
        """Return both records of each subscription, by its id."""
        sent = {key[1:]: values for key, values in self._unpacked(b"u")}
        return {NUMBER.unpack(key)[1]: (values, sent[key[1:]]) for key, values in self._unpacked(b"s")}

    def _read_groups(self, written: dict[int, tuple[_Fields, _Fields]]) -> None:
        found: dict[int, Subscription] = {}
        for key, values in self._unpacked(b"g"):
            channel_id, durable, queue, client_id, cursor, members, shadow, orphans, *rest = values
            channel = self.state.channels_by_id[channel_id]
            group = Group(NUMBER.unpack(key)[1], channel, durable, queue, client_id, cursor)
            group.orphans = unpack_records(orphans)
            group.paused_ns, group.stood_ns, group.purged, group.replayed_to, *added = rest
            unpack_added(group, added)
            channel.add(group)
            self._groups[group.id] = group
            for number in members:
                found[number] = _subscription(number, group, *written[number])
                group.members.append(found[number])
            if shadow:
                found[shadow] = group.shadow = _subscription(shadow, group, *written[shadow])
            channel.subscription_count += len(group.members) + bool(shadow)
        if len(found) != len(written):
            raise CorruptionError("the checkpoint has a subscription without a group")
        self.state.subscriptions = {number: found[number] for number in written}

    def _derived(self) -> None:
        """Set what is not written: subscriptions of clients, ack inboxes, deadlines."""
        state = self.state
        online = [member for group in self._groups.values() for member in group.members]
        for member in sorted(online, key=_generation):  # the order in which they came online
            member.client = state.clients[member.client_id]
            member.client.subscriptions[member.id] = member
            state.by_ack_inbox[member.ack_inbox] = member
            watch(state, member)
        for channel in state.channels.values():
            limits.watch_age(state, channel)


def _generation(subscription: Subscription) -> Generation:
    return subscription.generation


def _subscription(number: int, group: Group, described: _Fields, sent: _Fields) -> Subscription:
    (
        generation,
        client_id,
        inbox,
        ack_inbox,
        max_in_flight,
        ack_wait_ns,
        unreachable,
        gone_since_ns,
        *added,
    ) = described
    last_sent, unacked, due, due_here, due_before, missed = sent
    subscription = Subscription(
        id=SubscriptionID(number),
        generation=generation,
        client_id=client_id,
        group=group,
        inbox=inbox,
        ack_inbox=ack_inbox,
        max_in_flight=max_in_flight,
        ack_wait_ns=ack_wait_ns,
        unreachable=unreachable,
        gone_since_ns=gone_since_ns,
        last_sent=last_sent,
        unacked=unpack_records(unacked),
        due=unpack_runs(due, -1),
        due_here=due_here,
        due_before=due_before,
        missed=None
        if missed is None
        else Missed(*missed)
        if len(missed) == len(Missed._fields)
        else Lost(*missed),
    )
    unpack_added(subscription, added)
    return subscription
