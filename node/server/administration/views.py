"""Views of the state for operators: plain values, one page at a time.

Pure functions. A page has a bounded number of rows, starts after a given name or number (``after``), and says
where the next page starts (``next``; None at the end). A caller that pages through a changing state sees each
item that existed all the time exactly once.

Never shown: ack inboxes, connection IDs, the cluster's tag. With them a client could impersonate others
(R18).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from typing import Any, Final, TypeVar

from node.core.state import Channel, Client, Group, State, Subscription
from node.errors import RefusedError
from node.units import SECOND

View = dict[str, Any]

PAGE_MAX: Final = 500
"""Most rows of a page."""
PARTS_SHOWN_MAX: Final = 100
"""Most parts shown of one item: subscriptions of a channel or client, members of a group, unacked
messages."""

T = TypeVar("T")
K = TypeVar("K", int, str)


def page(
    things: Iterable[tuple[K, T]], after: K | None, limit: int, show: Callable[[T], View], name: str
) -> View:
    """Return the ``limit`` things with the lowest keys above ``after``.

    Raises:
        RefusedError: the limit is out of range.
    """
    if not 1 <= limit <= PAGE_MAX:
        raise RefusedError(f"a page has 1 to {PAGE_MAX} rows, not {limit}")
    rest = [(key, thing) for key, thing in things if after is None or key > after]
    rows = nsmallest(limit, rest, key=lambda row: row[0])
    more = rows[-1][0] if len(rest) > len(rows) else None
    return {name: [show(thing) for _, thing in rows], "next": more}


# --- channels ------------------------------------------------------------------------------------


def channel(shown: Channel) -> View:
    """Return a row of ``channel ls``."""
    log = shown.log
    return {
        "name": shown.name,
        "messages": len(log),
        "bytes": log.bytes,
        "first": log.shown_first,
        "last": int(log.last),
        "subscriptions": shown.subscription_count,
        "online": sum(len(group.members) for group in shown.groups.values()),
    }


def channel_in_full(state: State, shown: Channel) -> View:
    """Return the answer of ``channel info``."""
    log, limits = shown.log, shown.limits
    expires_ns = shown.expires_ns
    return {
        **channel(shown),
        "first_time_ns": int(log.timestamp(log.first)) if len(log) else None,
        "last_time_ns": int(log.timestamp(log.last)) if len(log) else None,
        "inactive_in_s": None if expires_ns is None else _seconds(expires_ns - state.time_ns),
        "limits": {
            "max_msgs": limits.max_msgs,
            "max_bytes": limits.max_bytes,
            "max_age_ns": limits.max_age_ns,
            "max_subscriptions": limits.max_subscriptions,
            "max_inactivity_ns": limits.max_inactivity_ns,
        },
        "subscriptions_shown": _some(subscription(each) for each in subscriptions_of(shown)),
    }


def subscriptions_of(shown: Channel) -> Iterator[Subscription]:
    """Yield the channel's subscriptions, with those that share a cursor next to each other."""
    for group in shown.groups.values():
        yield from group.holders


# --- subscriptions -------------------------------------------------------------------------------


def subscription(shown: Subscription) -> View:
    """Return a row of ``subscription ls``."""
    group = shown.group
    return {
        "id": int(shown.id),
        "channel": group.channel.name,
        "client": shown.client_id,
        "durable": group.durable,
        "queue": group.queue,
        "online": shown.online,
        "unreachable": shown.online and not shown.reachable,
        "stalled": shown.online and shown.stalled,
        "paused": group.paused_ns is not None,
        "cursor": group.cursor,
        "behind": max(0, group.channel.log.last - max(group.cursor, group.channel.log.first - 1)),
        "unacked": len(shown.unacked),
        "max_in_flight": shown.max_in_flight,
    }


def subscription_in_full(state: State, shown: Subscription) -> View:
    """Return the answer of ``subscription info``, with the members of its group."""
    group = shown.group
    paused_ns = group.paused_ns
    return {
        **subscription(shown),
        "inbox": shown.inbox,
        "ack_wait_s": _seconds(shown.ack_wait_ns),
        "last_sent": shown.last_sent,
        "paused_for_s": None if paused_ns is None else _seconds(state.time_ns - paused_ns),
        "members": _some(int(member.id) for member in group.members),
        "orphans": len(group.orphans),
        "unacked_shown": _some(_unacked(state, group, shown)),
    }


def _unacked(state: State, group: Group, shown: Subscription) -> Iterator[View]:
    """Yield the unacked messages, the next due one first. While paused, the AckWait left is shown."""
    now_ns = group.clock(state.time_ns)
    due = set(shown.due)
    for seq, record in shown.unacked.items():
        left_ns = 0 if seq in due else max(0, record.sent_at_ns + shown.ack_wait_ns - now_ns)
        yield {"seq": seq, "sent": record.deliveries, "due_in_s": _seconds(left_ns)}


# --- clients -------------------------------------------------------------------------------------


def client(shown: Client) -> View:
    """Return a row of ``client ls``."""
    return {
        "id": shown.id,
        "unreachable": shown.unreachable,
        "unresponsive": shown.unresponsive,
        "subscriptions": len(shown.subscriptions),
        "heartbeat_inbox": shown.heartbeat_inbox,
    }


def client_in_full(shown: Client) -> View:
    """Return the answer of ``client info``."""
    return {
        **client(shown),
        "protocol": shown.protocol,
        "ping_interval_s": shown.ping_interval_s,
        "ping_max_out": shown.ping_max_out,
        "subscriptions_shown": _some(subscription(each) for each in shown.subscriptions.values()),
    }


# --- inside --------------------------------------------------------------------------------------


def _some(parts: Iterable[Any]) -> list[Any]:
    return [part for part, _ in zip(parts, range(PARTS_SHOWN_MAX), strict=False)]


def _seconds(ns: int) -> float:
    return round(ns / SECOND, 3)
