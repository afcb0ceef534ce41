"""The streaming pages: the replicated state, and this node's Raft group.

Pure functions from a `Source` and a `Query` to plain values, which `http` turns into JSON. Pages of unbounded
length are generators: they yield where other tasks may run, because other nodes would take a blocked node for
dead. Their long lists are `rendering.Rows`, made while they are sent. So two rows of a page may show
different moments; one row shows one.

All fields and types of the reference's pages are present. In addition a subscription shows its unacked
messages (``unacked``: how often each was sent and how long its AckWait still runs) and its queue group.

Source: the monitoring pages of the reference server, section "Streaming endpoints".
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Final

from node.core.limits import limits_of
from node.core.settings import Limits, Settings
from node.core.state import Channel, Client, Group, State, Subscription
from node.monitor.figures import Peer, Source
from node.monitor.formats import time_text, uptime_text
from node.monitor.ordered import in_order, page
from node.monitor.process import Process
from node.monitor.query import NotFoundError, Query
from node.monitor.rendering import Fields, Rows, Steps, View
from node.protocol.subjects import covers
from node.units import MILLISECOND, SECOND

UNACKED_SHOWN_MAX: Final = 100
"""Most unacked messages shown of one subscription: those that are due first."""
MEMBERS_SHOWN_MAX: Final = 100
"""Most members shown of one queue group."""
STEP_ROWS: Final = 512
"""Number of items that are summed or sorted, but not shown, between two yields."""

TIMESTAMPS_OFF_MAX_NS = 10 * SECOND
"""Larger differences of timestamps from the nodes' wall clocks are a warning."""


def _head(source: Source) -> View:
    identity = source.identity
    return {
        "cluster_id": identity.cluster_id,
        "server_id": identity.streaming_id,
        "now": time_text(source.now_ns()),
    }


def serverz(source: Source, process: Process) -> Steps:
    """``/streaming/serverz``: the node, and sums over the cluster's state."""
    identity, state, traffic = source.identity, source.state, source.traffic()
    stored = yield from _stored(state)
    now_ns = source.now_ns()
    view: View = {
        **_head(source),
        "version": identity.version,
        "go": python_version(),
        "state": "CLUSTERED" if identity.is_clustered else "STANDALONE",
        "now": time_text(now_ns),
        "start_time": time_text(identity.start_ns),
        "uptime": uptime_text(now_ns - identity.start_ns),
        "clients": len(state.clients),
        "subscriptions": len(state.subscriptions),
        "channels": len(state.channels),
        **stored,
        "durability": identity.durability,
        "in_msgs": traffic.streaming_in_msgs,
        "in_bytes": traffic.streaming_in_bytes,
        "out_msgs": traffic.streaming_out_msgs,
        "out_bytes": traffic.streaming_out_bytes,
    }
    if identity.is_clustered:
        view["role"] = source.raft().role.capitalize()
        view["node_id"] = identity.name
    if process.open_fds:
        view["open_fds"] = process.open_fds
    if process.max_fds:
        view["max_fds"] = process.max_fds
    return view


def python_version() -> str:
    """Return the value for the reference's Go version."""
    return f"python{platform.python_version()}"


def _stored(state: State) -> Steps:
    msgs = stored_bytes = 0
    for number, channel in enumerate(list(state.channels.values()), 1):
        msgs += len(channel.log)
        stored_bytes += channel.log.bytes
        if number % STEP_ROWS == 0:
            yield
    return {"total_msgs": msgs, "total_bytes": stored_bytes}


def storez(source: Source) -> Steps:
    """``/streaming/storez``: the amount of stored messages, and the limits."""
    settings = source.state.settings
    kind = "MEMORY" if source.identity.store == "memory" else "FILE"
    stored = yield from _stored(source.state)
    limits: View = {"max_channels": settings.max_channels, **_limits(settings)}
    channels = {pattern: _limits(_limits_of(settings, pattern)) for pattern in sorted(settings.channels)}
    if channels:
        limits["channels"] = channels
    return {
        **_head(source),
        "type": f"RAFT_{kind}" if source.identity.is_clustered else kind,
        "limits": limits,
        **stored,
    }


def _limits_of(settings: Settings, pattern: str) -> Limits:
    """Return the limits of ``pattern``: its own, and those inherited from patterns that match all it
    matches.
    """
    wider = {
        other: limits
        for other, limits in settings.channels.items()
        if covers(other.encode(), pattern.encode())
    }
    return limits_of(replace(settings, channels=wider), pattern)


def _limits(limits: Limits | Settings) -> View:
    return {
        "max_msgs": limits.max_msgs,
        "max_bytes": limits.max_bytes,
        "max_age": limits.max_age_ns,
        "max_subscriptions": limits.max_subscriptions,
        "max_inactivity": limits.max_inactivity_ns,
    }


def _page(
    source: Source, query: Query, names: Iterable[str]
) -> Generator[None, None, tuple[View, list[str]]]:
    """Return the head of a page, and those of the ``names`` that are on it."""
    limit, offset = query.forgiving_page()
    every = list(names)
    ordered = yield from in_order(every)
    shown = yield from page(ordered, offset, limit)
    view = {
        **_head(source),
        "offset": offset,
        "limit": limit,
        "count": len(shown),
        "total": len(every),
    }
    return view, shown


def clientsz(source: Source, query: Query) -> Steps:
    """``/streaming/clientsz``: all registered clients, or one.

    Raises:
        NotFoundError: there is no client of that name.
    """
    with_subscriptions = query.is_one("subs")
    wanted = query.text("client")
    clients = source.state.clients
    if wanted:
        client = clients.get(wanted)
        if client is None:
            raise NotFoundError(f"Client {wanted} not found")
        return _client(source, client, with_subscriptions)
    view, names = yield from _page(source, query, clients)
    shown = [client for name in names if (client := clients.get(name)) is not None]
    view["count"] = len(shown)  # a client may have left since the page was begun
    view["clients"] = Rows(_client(source, client, with_subscriptions) for client in shown)
    return view


def _client(source: Source, client: Client, with_subscriptions: bool) -> View:
    view: View = {
        "id": client.id,
        "hb_inbox": client.heartbeat_inbox,
        "subs_count": len(client.subscriptions),
    }
    if with_subscriptions and client.subscriptions:
        view["subscriptions"] = Fields(_by_channel(source, client))
    return view


def _by_channel(source: Source, client: Client) -> Iterator[tuple[str, Rows] | None]:
    by_channel: dict[str, list[Subscription]] = {}
    for number, subscription in enumerate(list(client.subscriptions.values()), 1):
        by_channel.setdefault(subscription.channel.name, []).append(subscription)
        if number % STEP_ROWS == 0:
            yield None
    for channel, subscriptions in by_channel.items():
        yield channel, _subscriptions(source, subscriptions)


def channelsz(source: Source, query: Query) -> Steps:
    """``/streaming/channelsz``: names, or with ``subs=1`` everything about all channels, or one.

    Raises:
        NotFoundError: there is no channel of that name.
    """
    with_subscriptions = query.is_one("subs")
    wanted = query.text("channel")
    channels = source.state.channels
    if wanted:
        channel = channels.get(wanted)
        if channel is None:
            raise NotFoundError(f"Channel {wanted} not found")
        return _channel(source, channel, with_subscriptions)
    view, names = yield from _page(source, query, channels)
    if not with_subscriptions:
        if names:
            view["names"] = Rows(names)
        return view
    shown = [channel for name in names if (channel := channels.get(name)) is not None]
    view["count"] = len(shown)  # a channel may have expired since the page was begun
    if shown:
        view["channels"] = Rows(_channel(source, channel, with_subscriptions) for channel in shown)
    return view


def _channel(source: Source, channel: Channel, with_subscriptions: bool) -> View:
    view: View = {
        "name": channel.name,
        "msgs": len(channel.log),
        "bytes": channel.log.bytes,
        "first_seq": channel.log.shown_first,
        "last_seq": channel.log.last,
        "subs_count": channel.subscription_count,
    }
    if with_subscriptions and channel.groups:
        holders = (holder for group in list(channel.groups.values()) for holder in list(group.holders))
        view["subscriptions"] = _subscriptions(source, holders)
    return view


def _subscriptions(source: Source, subscriptions: Iterable[Subscription]) -> Rows:
    return Rows(_subscription(source, subscription) for subscription in subscriptions)


def _subscription(source: Source, subscription: Subscription) -> View:
    group = subscription.group
    view: View = {
        "client_id": subscription.client_id,
        "inbox": subscription.inbox,
        "ack_inbox": _masked(subscription.ack_inbox, source.state.cluster_tag),
        "is_durable": bool(subscription.durable),
        "is_offline": not subscription.online,
        "max_inflight": subscription.max_in_flight,
        "ack_wait": subscription.ack_wait_ns // SECOND,
        "last_sent": subscription.last_sent,
        "pending_count": len(subscription.unacked),
        "is_stalled": subscription.stalled,
        "is_unreachable": subscription.online and not subscription.reachable,
        "is_paused": group.paused_ns is not None,
        "unacked": _unacked(source, subscription),
    }
    if group.queue:
        view["queue_name"] = group.name
        view["group"] = _group(group)
    elif subscription.durable:
        view["durable_name"] = subscription.durable
    return view


def _masked(inbox: str, tag: str) -> str:
    """Hide the cluster's tag in an inbox: with the tag, acks of future inboxes could be forged."""
    return inbox.replace(tag, "***") if tag else inbox


def _unacked(source: Source, subscription: Subscription) -> list[View]:
    """Return its unacked messages, the next due one first; ``remaining_ms`` is null while no AckWait runs."""
    now_ns = subscription.group.clock(source.cluster_time_ns())
    listed = dict(islice(subscription.unacked.items(), UNACKED_SHOWN_MAX))
    due = listed.keys() & subscription.due
    counts_down = subscription.online and subscription.group.paused_ns is None
    shown = []
    for seq, record in listed.items():
        remaining_ns = record.sent_at_ns + subscription.ack_wait_ns - now_ns
        is_due = seq in due or record.entry < subscription.due_before
        remaining_ms = 0 if is_due else max(0, remaining_ns) // MILLISECOND
        shown.append(
            {
                "seq": seq,
                "deliveries": record.deliveries,
                "remaining_ms": remaining_ms if counts_down else None,
            }
        )
    return shown


def _group(group: Group) -> View:
    """Return a subscription's queue group: its cursor, and its members in dispatch order."""
    return {
        "last_sent": group.cursor,
        "members": [member.client_id for member in group.members[:MEMBERS_SHOWN_MAX]],
        "members_count": len(group.members),
        "orphans_count": len(group.orphans),
    }


def raftz(source: Source) -> View:
    """``/raftz``: roles, indices and peers of the node's Raft group."""
    identity, raft, state, agreement = source.identity, source.raft(), source.state, source.agreement()
    offset_ns = agreement.clock_offset_ns
    return {
        **_head(source),
        "node_id": identity.name,
        "role": raft.role.capitalize(),
        "term": raft.term,
        "leader": raft.leader or "",
        "is_ready": raft.is_ready,
        "first_index": raft.first_index,
        "last_index": raft.last_index,
        "durable_index": raft.durable_index,
        "commit_index": raft.commit_index,
        "applied_index": raft.applied_index,
        "machine_version": state.version,
        "cluster_time_ns": source.cluster_time_ns(),
        "clock_offset_ms": None if offset_ns is None else offset_ns // MILLISECOND,
        "timestamps_behind_ms": agreement.timestamps_behind_ns // MILLISECOND,
        "ages_wait": state.expiry_paused,
        "state_agreed_index": agreement.state_agreed_index,
        "event_loop": asdict(source.event_loop()),
        "members": list(raft.members),
        "learners": list(raft.learners),
        "peers": [_peer(peer) for peer in raft.peers],
        "warnings": _warnings(source),
    }


def _peer(peer: Peer) -> View:
    reachable = peer.last_contact_ns
    return {
        "node_id": peer.name,
        "is_connected": peer.is_connected,
        "last_contact_ms": None if reachable is None else reachable // MILLISECOND,
        "match_index": peer.match_index,
        "next_index": peer.next_index,
        "state": peer.state,
    }


def healthz(source: Source) -> tuple[bool, View]:
    """``/healthz``: whether the node can serve, and if not, why; and warnings for an operator."""
    error = source.unhealthy()
    view: View = {"status": "error", "error": error} if error else {"status": "ok"}
    warnings = _warnings(source)
    if warnings:
        view["warnings"] = warnings
    return not error, view


def _warnings(source: Source) -> list[str]:
    """Return problems of a node that serves."""
    warnings = []
    agreement = source.agreement()
    if agreement.clock_is_wrong:
        off_s = (agreement.clock_offset_ns or 0) / SECOND
        warnings.append(f"this node's wall clock is {off_s:+.1f} s from the cluster's median")
    behind_ns = agreement.timestamps_behind_ns
    if abs(behind_ns) > TIMESTAMPS_OFF_MAX_NS:
        side = "behind" if behind_ns > 0 else "ahead of"
        warnings.append(
            f"timestamps are {abs(behind_ns) / SECOND:.1f} s {side} the nodes' wall clocks: "
            "see stanchion cluster clock"
        )
    if source.state.expiry_paused:
        warnings.append("no message is dropped for its age: the leader's wall clock is wrong")
    if source.identity.durability != "fsync":
        warnings.append("durability is relaxed: a power failure may lose what was acknowledged")
    warnings += source.warnings()
    return warnings
