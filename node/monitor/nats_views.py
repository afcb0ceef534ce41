"""The pages of the NATS server: this node, its connections, its routes, its subscriptions.

Tools decode these pages into fixed types, so a number is always a number and a time always a time. Optional
fields are omitted when they are empty.

Source: the monitoring pages of the NATS server; the types that nats-top and the Prometheus exporter
read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final

from node.monitor.figures import Connection, Identity, Interest, NatsSubscription, Route, Source
from node.monitor.formats import round_trip_text, time_text, uptime_text
from node.monitor.ordered import in_order, page
from node.monitor.process import Process
from node.monitor.query import BadQueryError, Query
from node.monitor.rendering import Rows, Steps, View
from node.monitor.views import STEP_ROWS, python_version
from node.protocol.subjects import literal, matches
from node.units import SECOND

MAX_PROTOCOL: Final = 1

GLOBAL_ACCOUNT: Final = "$G"
"""The account of all clients of a NATS server without other accounts."""


def varz(source: Source, process: Process, requests: Mapping[str, int], base_path: str) -> View:
    """``/varz``: an overview of the node. ``requests`` has the number of requests for each page."""
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
        "connections": source.connection_count,
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
    """Return the addresses for routes; empty fields are omitted."""
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
"""Sort orders of the connection list; all but ``cid`` are descending."""

_ASCENDING: Final = ("", "cid")


def connz(source: Source, query: Query) -> Steps:
    """``/connz``: client connections, open or closed.

    Raises:
        BadQueryError: a parameter is invalid.
    """
    limit, offset = query.page()
    sort, state, details = query.text("sort"), query.text("state") or "open", query.text("subs")
    if sort and sort not in _SORTS:
        raise BadQueryError(f"invalid sorting option: {sort}")
    if state not in ("open", "closed", "any", "all"):
        raise BadQueryError(f"Error decoding state for {state}")
    if sort in ("stop", "reason") and state == "open":
        raise BadQueryError(f"invalid sorting option: {sort} is for closed connections")
    if details != "detail":
        details = "subjects" if query.flag("subs") else ""
    with_user = query.flag("auth")
    chosen, total = yield from _chosen(source, query, state)
    if sort not in _ASCENDING or state != "open":
        chosen = yield from in_order(list(chosen), _SORTS[sort or "cid"], reverse=sort not in _ASCENDING)
    shown = yield from page(chosen, offset, limit)
    now_ns = source.now_ns()
    return {
        "server_id": source.identity.server_id,
        "now": time_text(now_ns),
        "num_connections": len(shown),
        "total": total,
        "offset": offset,
        "limit": limit,
        "connections": Rows(
            _connection(connection, now_ns, with_user) | _subscribed(source, connection, details)
            for connection in shown
        ),
    }


def _chosen(
    source: Source, query: Query, state: str
) -> Generator[None, None, tuple[Iterator[Connection], int]]:
    """Return the requested connections and their number."""
    cid, user, account = query.integer("cid", 0), query.text("user"), query.text("acc")
    is_unfiltered = not (cid or user or account)
    if state == "open" and is_unfiltered:  # only the connections on the page are read
        return source.connections(closed=False), source.connection_count
    found = []
    for closed in (False, True):
        if state == ("open" if closed else "closed"):
            continue
        for number, connection in enumerate(source.connections(closed=closed), 1):
            if (not cid or connection.cid == cid) and (not user or connection.user == user):
                found.append(connection)
            if number % STEP_ROWS == 0:
                yield
    if account and account != GLOBAL_ACCOUNT:
        found = []
    return iter(found), len(found)


def _subscribed(source: Source, connection: Connection, details: str) -> View:
    if not details or connection.stop_ns is not None:
        return {}
    subscriptions = source.subscriptions(connection.cid)
    if details == "detail":
        return {"subscriptions_list_detail": Rows(_subscription(each) for each in subscriptions)}
    return {"subscriptions_list": Rows(each.subject for each in subscriptions)}


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
    routes = source.routes()
    return {
        "server_id": source.identity.server_id,
        "now": time_text(now_ns),
        "num_routes": len(routes),
        "routes": [_route(route, now_ns) | _subjects(route, subs) for route in routes],
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
        "dropped_msgs": route.dropped_msgs,
    }


def _subjects(route: Route, shown: bool) -> View:
    return {"subscriptions_list": Rows(_in_order(route.subjects))} if shown else {}


def _in_order(subjects: Callable[[], Iterable[str]]) -> Iterator[str | None]:
    proposer = in_order(subjects())
    while True:
        try:
            next(proposer)
        except StopIteration as done:
            yield from done.value
            return
        yield None


def subsz(source: Source, query: Query) -> Steps:
    """``/subsz``: the routing table, with ``subs=1`` its entries, with ``test`` those that match.

    Raises:
        BadQueryError: a parameter is invalid.
    """
    limit, offset = query.page()
    with_list, test, account = query.flag("subs"), query.text("test"), query.text("acc")
    if test and not literal(test.encode()):
        raise BadQueryError(f"invalid test subject, must be valid publish subject: {test}")
    interest = source.interest()
    view: View = {
        "server_id": source.identity.server_id,
        "now": time_text(source.now_ns()),
        **table(interest),
        "total": interest.subscriptions,
        "offset": offset,
        "limit": limit,
    }
    if account not in ("", GLOBAL_ACCOUNT):
        return table(Interest())
    if with_list or test:
        found: Iterable[NatsSubscription] = source.subscriptions()
        view["total"] = source.subscription_count()
        if test:
            matching = yield from _matching(found, test.encode())
            view["num_subscriptions"] = view["total"] = len(matching)
            found = matching
        shown = yield from page(found, offset, limit)
        view["subscriptions_list"] = Rows({"account": GLOBAL_ACCOUNT, **_subscription(s)} for s in shown)
    return view


def _matching(
    subscriptions: Iterable[NatsSubscription], subject: bytes
) -> Generator[None, None, list[NatsSubscription]]:
    found = []
    for number, subscription in enumerate(subscriptions, 1):
        if matches(subscription.subject.encode(), subject):
            found.append(subscription)
        if number % STEP_ROWS == 0:
            yield
    return found


def table(interest: Interest) -> View:
    """Return the routing table's values under the reference's names."""
    return {
        "num_subscriptions": interest.subscriptions,
        "num_cache": interest.cached,
        "num_inserts": interest.inserts,
        "num_removes": interest.removes,
        "num_matches": interest.matches,
        "cache_hit_rate": interest.cache_hit_rate,
        "max_fanout": interest.max_fanout,
        "avg_fanout": interest.average_fanout,
    }
