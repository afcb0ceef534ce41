"""The rolling digest: a few bytes that show whether two nodes have made the same decisions (R30).

After each entry, the previous digest is hashed together with the entry and its results: deliveries,
outcomes, stored and dropped messages. So nodes with equal digests after an entry have applied the same
entries with the same results. The digest is part of the state: checkpoints and snapshots contain it, and a
restored node continues it.

State that has not had an effect yet does not appear in the results. So each entry also hashes a few
subscriptions and channels, in rotation: within ``LOOKED_AT_WITHIN`` entries each is hashed once. The cost
depends on what the entry did, never on the size of the state.

Every ``MILESTONE`` entries nodes compare their digests (``server.divergence``).

What is hashed is part of the machine version (R24), because nodes of two releases compare digests while a
cluster is upgraded. A release that changes the inputs of ``roll``, their order, or the two numbers below
must raise the version, and keep the old behaviour while ``state.version`` is lower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, TypeVar
from zlib import crc32

import msgpack

from .apply_context import ApplyContext
from .effects import Replies
from .state import Channel, Subscription

_Thing = TypeVar("_Thing")

MILESTONE = 4096
"""Number of entries between two comparisons."""

LOOKED_AT_WITHIN = 4096
"""Number of entries within which each subscription and channel is hashed, unless there are very many."""

LOOKED_AT_MAX = 16
"""Maximum number of subscriptions, and of channels, hashed in one entry."""


def roll(context: ApplyContext, data: bytes) -> None:
    """Update the digest after the entry with the bytes ``data`` was applied."""
    state, effects = context.state, context.effects
    decided = (
        context.index,
        context.time_ns,
        context.timestamp_ns,
        crc32(data),
        effects.deliveries,
        [(stored.channel, stored.first, len(stored.bodies)) for stored in effects.stored],
        effects.dropped,
        [_notified(replies) for replies in effects.replies],
        state.version,
        state.term,
        len(state.clients),
        len(state.subscriptions),
        len(state.redelivery_due),
        len(state.sendable),
        [_subscription(sub) for sub in _turns(state.subscriptions, context.index, state.last_subscription)],
        [
            _channel(channel, context.index)
            for channel in _turns(state.channels_by_id, context.index, state.last_channel)
        ],
    )
    packed: bytes = msgpack.packb(decided, default=_plain)
    state.rolled = sha256(state.rolled + packed).digest()[:16]
    if context.index // MILESTONE > state.milestone[0] // MILESTONE:
        state.milestone = (context.index, state.rolled)


def _plain(value: Any) -> Any:
    """Convert a range for msgpack.

    Sequences of a delivery are a list in a queue group, and a range in any other subscription.
    """
    assert isinstance(value, range)
    return (value.start, value.stop)


def _notified(replies: Replies) -> tuple[Any, ...]:
    return (replies.session, replies.first, replies.last, replies.others)


def _turns(things: Mapping[int, _Thing], index: int, last: int) -> Iterator[_Thing]:
    """Return the objects to hash in this entry: of ids up to ``last``, one in every ``step``."""
    step = max(LOOKED_AT_WITHIN, last // LOOKED_AT_MAX)
    for number in range(index % step, last + 1, step):
        thing = things.get(number)
        if thing is not None:
            yield thing


def _subscription(sub: Subscription) -> tuple[Any, ...]:
    unacked = sub.unacked
    return (
        sub.id,
        sub.generation,
        sub.ack_inbox,
        sub.group.cursor,
        sub.last_sent,
        len(unacked),
        next(iter(unacked.items()), None),
        next(reversed(unacked.items()), None),
        len(sub.due),
        sub.due_before,
        sub.missed,
        sub.unreachable,
        sub.unresponsive,
        len(sub.group.members),
        len(sub.group.orphans),
    )


def _channel(channel: Channel, index: int) -> tuple[Any, ...]:
    """Return a channel's values to hash: the ends of its log, and one block, another one in each round."""
    log = channel.log
    numbers = log.block_numbers()
    block = log.block(numbers[index // LOOKED_AT_WITHIN % len(numbers)]) if numbers else None
    content = None if block is None else crc32(block.pack())
    return (channel.id, log.first, log.last, log.bytes, channel.active_ns, content)
