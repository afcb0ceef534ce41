"""The pages of the NATS server: this node, its connections, its routes, its subscriptions.

Tools decode these into fixed types, so a number is always a number and a time always a time; what
may be left out is left out when it is empty.

Source: the monitoring pages of the NATS server; the types that nats-top and the Prometheus exporter
read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from node.monitor.figures import Connection, Identity, NatsSubscription, Route, Source
from node.monitor.formats import round_trip_text, time_text, uptime_text
from node.monitor.process import Process
from node.monitor.query import BadQueryError, Query
from node.monitor.views import Steps, View, python_version
from node.protocol.subjects import matches
from node.units import SECOND

MAX_PROTOCOL: Final = 1


def varz(source: Source, process: Process, requests: Mapping[str, int], base_path: str) -> View:
    """``/varz``: the node at a glance. ``requests`` counts what was asked of each page."""
    identity, traffic = source.identity, source.traffic()
    now_ns, routes = source.now_ns(), source.routes()
    view: View = {
        "server_id": identity.server_id,
        "server_name": identity.name,
        "version": identity.version,
        "proto": MAX_PROTOCOL,
        "go": python_version(),
        "host": identity.host,
        "port": identity.port,
        "max_connections": identity.max_connections,
        "max_payload": identity.max_payload,
        "max_control_line": identity.max_control_line,
        "max_pending": identity.max_pending,
        "ping_interval": identity.ping_interval_ns,
        "ping_max": identity.ping_max,
        "http_host": identity.http_host,
        "http_port": identity.http_port,
        "http_base_path": base_path,
        "https_port": 0,
        "auth_timeout": identity.auth_timeout_ns / SECOND,
        "tls_timeout": 0.0,
        "write_deadline": identity.write_deadline_ns,
        "start": time_text(identity.start_ns),
        "now": time_text(now_ns),
        "config_load_time": time_text(identity.start_ns),
        "uptime": uptime_text(now_ns - identity.start_ns),
        "mem": process.memory,
        "cores": process.cores,
        "gomaxprocs": 1,
        "cpu": process.cpu,
        "connections": len(source.connections(closed=False)),
        "total_connections": traffic.connections_total,
        "routes": len(routes),
        "remotes": len({route.name for route in routes}),
        "leafnodes": 0,
        "in_msgs": traffic.in_msgs,
        "out_msgs": traffic.out_msgs,
        "in_bytes": traffic.in_bytes,
        "out_bytes": traffic.out_bytes,
        "slow_consumers": traffic.slow_consumers,
        "subscriptions": source.interest().subscriptions,
        "http_req_stats": dict(requests),
        "cluster": _cluster(identity),
        **{name: {} for name in ("gateway", "leaf", "mqtt", "websocket", "jetstream")},
    }
    if identity.auth_required:
        view["auth_required"] = True
    if urls := list(source.connect_urls()):
        view["connect_urls"] = urls
    return view


def _cluster(identity: Identity) -> View:
    """Of the routes; what is empty is left out."""
    peers = identity.peers
    view: View = {"name": identity.cluster_id} if identity.is_clustered or peers is not None else {}
    if peers is None:
        return view
    if peers.port:
        view |= {"addr": peers.host, "cluster_port": peers.port}
    if peers.urls:
        view["urls"] = list(peers.urls)
    if peers.is_tls:
        view |= {"tls_required": True, "tls_verify": True}
    return view


_SORTS: Final[dict[str, Callable[[Connection], Any]]] = {
    "cid": lambda c: c.cid,
    "start": lambda c: c.start_ns,
    "subs": lambda c: c.subscriptions,
    "pending": lambda c: c.pending_bytes,
    "msgs_to": lambda c: c.out_msgs,
    "msgs_from": lambda c: c.in_msgs,
    "bytes_to": lambda c: c.out_bytes,
    "bytes_from": lambda c: c.in_bytes,
    "last": lambda c: c.last_activity_ns,
    "idle": lambda c: -c.last_activity_ns,
    "uptime": lambda c: -c.start_ns,
    "stop": lambda c: c.stop_ns or 0,
    "reason": lambda c: c.reason,
}
"""What a list of connections is sorted by; all but ``cid`` from the largest down."""

_ASCENDING: Final = ("", "cid")


def connz(source: Source, query: Query) -> Steps:
    """``/connz``: client connections, open or closed.

    Raises:
        BadQueryError: a parameter that can't be read, or nothing it could mean.
    """
    limit, offset = query.page()
    sort, state, details = query.text("sort"), query.text("state") or "open", query.text("subs")
    if sort and sort not in _SORTS:
        raise BadQueryError(f"Invalid sort option: {sort}")
    if state not in ("open", "closed", "any", "all"):
        raise BadQueryError(f"Error decoding state: {state!r} is not open, closed, any or all")
    if sort in ("stop", "reason") and state == "open":
        raise BadQueryError(f"Invalid sort option: {sort} is for closed connections")
    with_subscriptions = details == "detail" or query.flag("subs")
    with_user, cid, user = query.flag("auth"), query.integer("cid", 0), query.text("user")
    found: list[Connection] = []
    if state != "closed":
        found += source.connections(closed=False)
    if state != "open":
        found += source.connections(closed=True)
    found = [c for c in found if (not cid or c.cid == cid) and (not user or c.user == user)]
    found.sort(key=_SORTS[sort or "cid"], reverse=sort not in _ASCENDING)
    shown = []
    now_ns = source.now_ns()
    for connection in found[offset : offset + limit]:
        view = _connection(connection, now_ns, with_user)
        if with_subscriptions and connection.stop_ns is None:
            subscriptions = source.subscriptions(connection.cid)
            if details == "detail":
                view["subscriptions_list_detail"] = [_subscription(each) for each in subscriptions]
            else:
                view["subscriptions_list"] = [each.subject for each in subscriptions]
        shown.append(view)
        yield
    return {
        "server_id": source.identity.server_id,
        "now": time_text(now_ns),
        "num_connections": len(shown),
        "total": len(found),
        "offset": offset,
        "limit": limit,
        "connections": shown,
    }


def _connection(connection: Connection, now_ns: int, with_user: bool) -> View:
    until_ns = now_ns if connection.stop_ns is None else connection.stop_ns
    view: View = {
        "cid": connection.cid,
        "kind": "Client",
        "type": "nats",
        "ip": connection.ip,
        "port": connection.port,
        "start": time_text(connection.start_ns),
        "last_activity": time_text(connection.last_activity_ns),
        "uptime": uptime_text(until_ns - connection.start_ns),
        "idle": uptime_text(until_ns - connection.last_activity_ns),
        **_counters(connection, pending="pending_bytes"),
    }
    optional = {
        "name": connection.name,
        "lang": connection.lang,
        "version": connection.version,
        "authorized_user": connection.user if with_user else "",
        "reason": connection.reason,
    }
    view.update({name: text for name, text in optional.items() if text})
    if connection.stop_ns is not None:
        view["stop"] = time_text(connection.stop_ns)
    return view


def _counters(link: Connection | Route, *, pending: str) -> View:
    view: View = {
        pending: link.pending_bytes,
        "in_msgs": link.in_msgs,
        "out_msgs": link.out_msgs,
        "in_bytes": link.in_bytes,
        "out_bytes": link.out_bytes,
        "subscriptions": link.subscriptions,
    }
    if link.rtt_ns is not None:
        view["rtt"] = round_trip_text(link.rtt_ns)
    return view


def _subscription(subscription: NatsSubscription) -> View:
    view: View = {
        "subject": subscription.subject,
        "sid": subscription.sid,
        "msgs": subscription.msgs,
        "cid": subscription.cid,
    }
    if subscription.queue:
        view["qgroup"] = subscription.queue
    if subscription.max_msgs:
        view["max"] = subscription.max_msgs
    return view


def routez(source: Source, query: Query) -> View:
    """``/routez``: the link to each other node; with ``subs=1``, what it is interested in."""
    now_ns, subs = source.now_ns(), query.flag("subs")
    routes = [_route(route, now_ns) | _subjects(route, subs) for route in source.routes()]
    return {
        "server_id": source.identity.server_id,
        "now": time_text(now_ns),
        "num_routes": len(routes),
        "routes": routes,
    }


def _route(route: Route, now_ns: int) -> View:
    return {
        "rid": route.rid,
        "remote_id": route.name,
        "did_solicit": route.dialled,
        "is_configured": route.is_configured,
        "ip": route.ip,
        "port": route.port,
        "start": time_text(route.start_ns),
        "last_activity": time_text(route.last_activity_ns),
        "uptime": uptime_text(now_ns - route.start_ns),
        "idle": uptime_text(now_ns - route.last_activity_ns),
        **_counters(route, pending="pending_size"),
    }


def _subjects(route: Route, shown: bool) -> View:
    return {"subscriptions_list": sorted(route.subjects())} if shown else {}


def subsz(source: Source, query: Query) -> Steps:
    """``/subsz``: the routing table, with ``subs=1`` its entries, with ``test`` those that match.

    Raises:
        BadQueryError: a parameter that can't be read.
    """
    limit, offset = query.page()
    with_list, test = query.flag("subs"), query.text("test")
    interest = source.interest()
    view: View = {
        "server_id": source.identity.server_id,
        "now": time_text(source.now_ns()),
        "num_subscriptions": interest.subscriptions,
        "num_cache": interest.cached,
        "num_inserts": interest.inserts,
        "num_removes": interest.removes,
        "num_matches": interest.matches,
        "cache_hit_rate": interest.cache_hit_rate,
        "max_fanout": interest.max_fanout,
        "avg_fanout": interest.average_fanout,
        "total": interest.subscriptions,
        "offset": offset,
        "limit": limit,
    }
    if with_list or test:
        subject = test.encode()
        found = [s for s in source.subscriptions() if not test or matches(s.subject.encode(), subject)]
        view["total"] = len(found)
        if test:
            view["num_subscriptions"] = len(found)
        yield
        view["subscriptions_list"] = [_subscription(each) for each in found[offset : offset + limit]]
    return view
