"""The NATS server's pages about accounts, and about features that this node doesn't have.

All clients belong to one account, the global one. There are no gateways, leaf nodes or JetStream, and the
pages say so in the reference's format, so that tools which read every page find it.

Source: the monitoring pages of the NATS server 2.9.
"""

from __future__ import annotations

from typing import Any

from node.monitor.figures import Source
from node.monitor.formats import time_text
from node.monitor.nats_views import GLOBAL_ACCOUNT, table
from node.monitor.query import BadQueryError, Query
from node.monitor.rendering import View


def _head(source: Source) -> View:
    return {"server_id": source.identity.server_id, "now": time_text(source.now_ns())}


def accountz(source: Source, query: Query) -> View:
    """``/accountz``: the names of all accounts, or with ``acc`` one account.

    Raises:
        BadQueryError: there is no account of that name.
    """
    wanted = query.text("acc")
    if not wanted:
        return {**_head(source), "accounts": [GLOBAL_ACCOUNT]}
    if wanted != GLOBAL_ACCOUNT:
        raise BadQueryError(f"Account {wanted} does not exist")
    interest = source.interest()
    return {
        **_head(source),
        "account_detail": {
            "account_name": GLOBAL_ACCOUNT,
            "update_time": time_text(source.identity.start_ns),
            "expired": False,
            "complete": True,
            "jetstream_enabled": False,
            "leafnode_connections": 0,
            "client_connections": source.connection_count,
            "subscriptions": interest.subscriptions,
            "sublist_stats": table(interest),
        },
    }


def accstatz(source: Source, query: Query) -> View:
    """``/accstatz``: connections and traffic by account; with ``unused=1`` also of an unused account."""
    with_unused, connected = query.flag("unused"), source.connection_count
    wanted: list[str] = [name for name in query.text("accs").split(",") if name]
    is_shown = (connected or with_unused) and (not wanted or GLOBAL_ACCOUNT in wanted)
    return {**_head(source), "account_statz": [_statistics(source, connected)] if is_shown else []}


def _statistics(source: Source, connected: int) -> dict[str, Any]:
    traffic = source.traffic()
    return {
        "acc": GLOBAL_ACCOUNT,
        "conns": connected,
        "leafnodes": 0,
        "total_conns": connected,
        "sent": {"msgs": traffic.out_msgs, "bytes": traffic.out_bytes},
        "received": {"msgs": traffic.in_msgs, "bytes": traffic.in_bytes},
        "slow_consumers": traffic.slow_consumers,
    }


def gatewayz(source: Source) -> View:
    """``/gatewayz``: always empty."""
    return {**_head(source), "outbound_gateways": {}, "inbound_gateways": {}}


def leafz(source: Source, query: Query) -> View:
    """``/leafz``: always empty."""
    query.flag("subs")
    return {**_head(source), "leafnodes": 0, "leafs": None}


def jsz(source: Source, query: Query) -> View:
    """``/jsz``: JetStream is disabled."""
    for name in ("accounts", "streams", "consumers", "config", "leader-only"):
        query.flag(name)
    return {
        **_head(source),
        "disabled": True,
        "config": {"max_memory": 0, "max_storage": 0},
        **dict.fromkeys(("memory", "storage", "reserved_memory", "reserved_storage", "accounts"), 0),
        "ha_assets": 0,
        "api": {"total": 0, "errors": 0},
        **dict.fromkeys(("streams", "consumers", "messages", "bytes"), 0),
    }


def ipqueuesz() -> View:
    """``/ipqueuesz``: the reference's internal queues, of which this node has none."""
    return {}
