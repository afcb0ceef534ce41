"""The rolling digest: a few bytes that tell whether two nodes have decided alike, ever (R30).

After each entry the digest before it is hashed together with the entry and what came of it: deliveries,
outcomes, what was stored and dropped. So nodes whose digests are equal after an entry were given the same
entries and did the same with each. It is part of the state: checkpoints and snapshots carry it, and a node
that was restored goes on from it.

What a node holds and has not acted upon yet doesn't show in that; so each entry also looks at a few
subscriptions and channels, others each time, so that within ``LOOKED_AT_WITHIN`` entries each had its turn.
The cost is that of what the entry did, never that of the state.

Every ``MILESTONE`` entries nodes tell each other (``server.divergence``).

What is hashed is part of the machine version (R24): nodes of two releases compare theirs while a cluster is
upgraded. A release that changes what ``roll`` takes in, the places of it, or the two numbers below raises the
version, and goes on as before while ``state.version`` is lower.
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
"""Entries between two comparisons."""

LOOKED_AT_WITHIN = 4096
"""Entries within which each subscription and channel is looked at, unless there are very many."""

LOOKED_AT_MAX = 16
"""Of each kind, in one entry."""


def roll(context: ApplyContext, data: bytes) -> None:
    """The entry, whose bytes are ``data``, is applied: bring the digest up to it."""
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
    """Sequences of a queue group's member are a list, of any other subscription a range."""
    assert isinstance(value, range)
    return (value.start, value.stop)


def _notified(replies: Replies) -> tuple[Any, ...]:
    return (replies.session, replies.first, replies.last, replies.others)


def _turns(things: Mapping[int, _Thing], index: int, last: int) -> Iterator[_Thing]:
    """The things whose turn it is: ids up to ``last``, one in every so many."""
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
    """Its ends, and one block of its log: another one in each round."""
    log = channel.log
    numbers = log.block_numbers()
    block = log.block(numbers[index // LOOKED_AT_WITHIN % len(numbers)]) if numbers else None
    content = None if block is None else crc32(block.pack())
    return (channel.id, log.first, log.last, log.bytes, channel.active_ns, content)
