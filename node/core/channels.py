"""Channels: creation by the first publish or subscription, publishing, and deletion when idle."""

from __future__ import annotations

from node.errors import RefusedError
from node.protocol.message import message_size
from node.units import ChannelID, Seq

from . import limits, refusals
from .apply_context import ApplyContext, Publishing
from .effects import DropChannel, Store
from .state import Channel, folded


def find_or_create(context: ApplyContext, name: str) -> Channel:
    """Return the channel ``name``, a valid name; create it if it does not exist.

    Raises:
        RefusedError: there are too many channels, or one whose name differs in case only.
    """
    state = context.state
    channel = state.channels.get(name)
    if channel is not None:
        return channel
    other = state.by_folded_name.get(folded(name))
    if other is not None:
        raise RefusedError(refusals.other_case(name, other.name))
    if state.settings.max_channels and len(state.channels) >= state.settings.max_channels:
        raise RefusedError(refusals.TOO_MANY_CHANNELS)
    state.last_channel += 1
    channel = Channel(
        id=ChannelID(state.last_channel),
        name=name,
        generation=context.generation(),
        limits=limits.limits_of(state.settings, name),
        active_ns=context.time_ns,
    )
    state.channels[name] = channel
    state.channels_by_id[channel.id] = channel
    state.by_folded_name[folded(name)] = channel
    state.dirty.channels[channel.id] = name
    return channel


def delete(context: ApplyContext, channel: Channel) -> None:
    """Delete an idle channel with its log and its offline durables (I2).

    Messages that this entry has published to it so far are deleted too. Later ones go to a new channel (S3).
    """
    state = context.state
    assert channel.idle
    for group in channel.groups.values():
        shadow = group.shadow
        assert shadow is not None
        del state.subscriptions[shadow.id]
        state.redelivery_due.pop(group.id, None)
        state.sendable.pop(group.id, None)
        state.dirty.subscriptions[shadow.id] = None
        state.dirty.unacked[shadow.id] = None
        state.dirty.groups[group.id] = channel.id
    state.age_deadlines.disarm(channel.id)
    context.publishing.pop(channel.name, None)
    context.bodies.pop(channel.name, None)
    del state.channels[channel.name]
    del state.channels_by_id[channel.id]
    del state.by_folded_name[folded(channel.name)]
    state.dirty.channels[channel.id] = channel.name
    for number in (*channel.log.dirty, *channel.log.block_numbers()):
        state.dirty.gone_blocks[channel.id, number] = None
    context.effects.dropped.append(DropChannel(channel.id))


def start_publishing(context: ApplyContext, name: str) -> list[bytes]:
    """Return the list to which this entry's messages for the channel are appended.

    Raises:
        RefusedError: see ``find_or_create``.
    """
    channel = find_or_create(context, name)
    publishing = Publishing(channel, Seq(channel.log.last + 1))
    context.publishing[name] = publishing
    context.bodies[name] = publishing.bodies
    return publishing.bodies


def settle(context: ApplyContext, name: str) -> None:
    """Append the messages that the entry has published to the channel so far to its log."""
    publishing = context.publishing.get(name)
    if publishing is None:
        return
    bodies, log = publishing.bodies, publishing.channel.log
    if publishing.settled:
        bodies = bodies[publishing.settled :]
    if bodies:
        log.append(_sizes(log.last, context.timestamp_ns, bodies), context.timestamp_ns)
        publishing.settled += len(bodies)


def _sizes(last: Seq, timestamp_ns: int, bodies: list[bytes]) -> list[int]:
    """Return the sizes (bytes) of the encoded messages that follow sequence ``last``."""
    frame = message_size(last + 1, timestamp_ns, 0)
    if message_size(last + len(bodies), timestamp_ns, 0) == frame:
        return [frame + len(body) for body in bodies]
    return [message_size(last + 1 + n, timestamp_ns, len(body)) for n, body in enumerate(bodies)]


def finish_publishing(context: ApplyContext) -> None:
    """Store the entry's published messages and apply limits, after all its commands."""
    state = context.state
    for name, publishing in context.publishing.items():
        settle(context, name)
        channel = publishing.channel
        channel.active_ns = context.time_ns
        state.dirty.channels[channel.id] = name
        state.sendable.update(channel.groups)
        context.effects.stored.append(
            Store(channel.id, name, publishing.first, context.timestamp_ns, publishing.bodies)
        )
        limits.enforce(context, channel)
