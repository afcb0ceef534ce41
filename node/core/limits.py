"""The limits of a channel, and the messages that they drop.

Limits are configured for names and patterns, each partially. A channel starts with the global limits. Each
entry that matches its name overrides the limits that it sets: the widest pattern first, the literal name
last. Rules L1 to L6 give the same result on every node, because counts, sizes, ages (by the entry's
timestamp) and the limits are all in the replicated state.

Source: store-and-limits, "Limits" and "Per-channel limits".
"""

from __future__ import annotations

from node.protocol.subjects import matches
from node.units import Seq

from .apply_context import ApplyContext
from .commands import Configure
from .effects import OK, Drop, Ok, Warn
from .settings import LIMIT_NAMES, Limits, Settings
from .state import Channel, State
from .versions import FREES_DROPPED


def limits_of(settings: Settings, name: str) -> Limits:
    """Return the limits of the channel ``name``."""
    values = {limit: int(getattr(settings, limit)) for limit in LIMIT_NAMES}
    subject = name.encode()
    matching = [pattern for pattern in settings.channels if matches(pattern.encode(), subject)]
    for pattern in sorted(matching, key=_width, reverse=True):
        values.update(settings.channels[pattern])
    return Limits(**values)


def configure(context: ApplyContext, command: Configure) -> Ok:
    """Replace the replicated settings. Lower limits apply to existing messages at once (L5).

    Raises:
        RefusedError: the settings are invalid.
    """
    state = context.state
    if command.only_if_unset and state.settings.set:
        return OK
    state.settings = Settings.of(command.settings)
    for channel in state.channels.values():
        channel.limits = limits_of(state.settings, channel.name)
        state.dirty.channels[channel.id] = channel.name
        state.age_deadlines.disarm(channel.id)
        enforce(context, channel)
    return OK


def _width(pattern: str) -> list[int]:
    """Sort key for patterns that match one name.

    A literal token is narrower than ``*``, and ``*`` is narrower than ``>``.
    """
    return [{"*": 1, ">": 2}.get(token, 0) for token in pattern.split(".")]


def enforce(context: ApplyContext, channel: Channel) -> None:
    """Drop the oldest messages above ``max_msgs`` and ``max_bytes``, never the newest (L1, L2)."""
    log, limits = channel.log, channel.limits
    keep: int = log.first
    if limits.max_msgs and len(log) > limits.max_msgs:
        keep = max(keep, log.last - limits.max_msgs + 1)
    if limits.max_bytes and log.bytes > limits.max_bytes:
        keep = max(keep, log.first_within(limits.max_bytes))
    if keep > log.first:
        if not channel.limit_reached:
            channel.limit_reached = True
            context.effects.warnings.append(
                Warn(f"channel {channel.name!r} has reached its limits: its oldest messages are dropped")
            )
        drop_before(context, channel, keep)
    watch_age(context.state, channel)


def watch_age(state: State, channel: Channel) -> None:
    """Arm the max_age deadline of the channel's oldest message, unless an earlier one is armed."""
    log, max_age_ns = channel.log, channel.limits.max_age_ns
    if max_age_ns and len(log) and channel.id not in state.age_deadlines:
        state.age_deadlines.arm(channel.id, log.timestamp(log.first) + max_age_ns)


def expire(context: ApplyContext) -> None:
    """Drop every message that is ``max_age`` old by the entry's timestamp (L4, L6).

    Does nothing while expiry is paused.
    """
    state = context.state
    if state.expiry_paused:
        return
    for channel_id in state.age_deadlines.fire(context.timestamp_ns):
        channel = state.channels_by_id[channel_id]
        max_age_ns = channel.limits.max_age_ns
        if max_age_ns:
            keep = channel.log.first_at_or_after(context.timestamp_ns - max_age_ns + 1)
            if keep > channel.log.first:
                drop_before(context, channel, keep)
        watch_age(state, channel)


def drop_before(context: ApplyContext, channel: Channel, keep: int) -> None:
    """Drop every message below ``keep``, which is at most ``last + 1``."""
    state = context.state
    channel.log.drop_before(keep)
    if FREES_DROPPED.active(state.version):
        state.sendable.update(
            channel.groups
        )  # everything a member holds may be dropped now, see ``purging.free_if_gone``
    state.dirty.channels[channel.id] = channel.name
    context.effects.dropped.append(Drop(channel.id, Seq(keep - 1)))
