"""The NATS pages: the types that tools decode, the sorts and pages they ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from node.monitor.figures import Connection, NatsSubscription, Peering, Route, Traffic
from node.monitor.nats_views import connz, routez, subsz, varz
from node.monitor.process import Process
from node.monitor.query import BadQueryError, Query
from node.monitor.rendering import finished
from node.units import SECOND

from .conftest import NOW_NS, FakeSource


def connection(cid: int, **more: Any) -> Connection:
    return Connection(cid, "127.0.0.1", 50_000 + cid, NOW_NS - 65 * SECOND, NOW_NS - 5 * SECOND, **more)


def shown(source: FakeSource, **query: str) -> dict[str, Any]:
    return finished(connz(source, Query(query)))


def cids(source: FakeSource, **query: str) -> list[int]:
    return [each["cid"] for each in shown(source, **query)["connections"]]


def test_varz_has_the_types_that_tools_decode(source: FakeSource) -> None:
    """MON-11."""
    source.traffic_now = Traffic(
        connections_total=7, slow_consumers=1, in_msgs=2, in_bytes=3, out_msgs=4, out_bytes=5
    )
    source.opened = [connection(1)]
    view = varz(source, Process(memory=1000, cpu=1.5, cores=2), {"/varz": 3}, "/")
    integers = [
        *("proto", "port", "max_connections", "max_payload", "max_control_line", "max_pending"),
        *("ping_interval", "ping_max", "http_port", "https_port", "write_deadline", "mem", "cores"),
        *("gomaxprocs", "connections", "total_connections", "routes", "remotes", "leafnodes"),
        *("in_msgs", "out_msgs", "in_bytes", "out_bytes", "slow_consumers", "subscriptions"),
    ]
    assert [name for name in integers if type(view[name]) is not int] == []
    assert [name for name in ("cpu", "auth_timeout", "tls_timeout") if type(view[name]) is not float] == []
    texts = "server_id server_name version go host http_host http_base_path start now config_load_time uptime"
    assert [name for name in texts.split() if type(view[name]) is not str] == []
    assert (view["connections"], view["total_connections"], view["subscriptions"]) == (1, 7, 9)
    assert view["ping_interval"] == 120 * SECOND
    assert view["http_req_stats"] == {"/varz": 3}
    assert "auth_required" not in view
    assert view["cluster"] == {"name": "test-cluster"}
    peers = Peering("127.0.0.1", 6222, ["127.0.0.1:7222"], is_tls=True)
    source.identity = replace(source.identity, peers=peers)
    assert varz(source, Process(), {}, "/")["cluster"] == {
        "name": "test-cluster", "addr": "127.0.0.1", "cluster_port": 6222, "urls": ["127.0.0.1:7222"],
        "tls_required": True, "tls_verify": True,
    }  # fmt: skip


def test_a_connection_omits_unset_fields(source: FakeSource) -> None:
    source.opened = [connection(1)]
    (view,) = shown(source)["connections"]
    assert view == {
        "cid": 1,
        "kind": "Client",
        "type": "nats",
        "ip": "127.0.0.1",
        "port": 50_001,
        "start": "2023-11-14T22:12:15.000000005Z",
        "last_activity": "2023-11-14T22:13:15.000000005Z",
        "uptime": "1m5s",
        "idle": "5s",
        "pending_bytes": 0,
        "in_msgs": 0,
        "out_msgs": 0,
        "in_bytes": 0,
        "out_bytes": 0,
        "subscriptions": 0,
    }


def test_a_connection_shows_its_user_only_when_asked(source: FakeSource) -> None:
    source.opened = [connection(1, name="ann", lang="go", version="1.22", user="u", rtt_ns=412_000)]
    (view,) = shown(source)["connections"]
    assert (view["name"], view["lang"], view["version"], view["rtt"]) == ("ann", "go", "1.22", "412µs")
    assert "authorized_user" not in view
    assert shown(source, auth="1")["connections"][0]["authorized_user"] == "u"


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("", [1, 2, 3]),
        ("cid", [1, 2, 3]),
        ("subs", [2, 3, 1]),
        ("bytes_to", [3, 1, 2]),
        ("pending", [1, 3, 2]),
    ],
)
def test_connections_are_sorted(source: FakeSource, sort: str, order: list[int]) -> None:
    """MON-12."""
    source.opened = [
        connection(3, subscriptions=5, out_bytes=9, pending_bytes=2),
        connection(1, subscriptions=0, out_bytes=8, pending_bytes=3),
        connection(2, subscriptions=7, out_bytes=7, pending_bytes=1),
    ]
    assert cids(source, sort=sort) == order


def test_connections_are_paged_and_filtered(source: FakeSource) -> None:
    """MON-12."""
    source.opened = [connection(cid, user="u" if cid % 2 else "v") for cid in range(1, 6)]
    assert cids(source, limit="2", offset="3") == [4, 5]
    assert cids(source, cid="4") == [4]
    assert cids(source, user="u") == [1, 3, 5]
    page = shown(source, limit="2")
    assert (page["num_connections"], page["total"]) == (2, 5)


def test_closed_connections_say_when_and_why(source: FakeSource) -> None:
    source.opened = [connection(1)]
    source.closed = [connection(2, stop_ns=NOW_NS - SECOND, reason="Client Closed")]
    assert cids(source) == [1]
    assert cids(source, state="any") == [1, 2]
    (view,) = shown(source, state="closed", sort="stop")["connections"]
    assert (view["stop"], view["reason"], view["uptime"]) == (
        "2023-11-14T22:13:19.000000005Z",
        "Client Closed",
        "1m4s",
    )


def test_subscriptions_of_a_connection_by_subject_or_in_detail(source: FakeSource) -> None:
    """MON-12."""
    source.opened = [connection(1)]
    source.subscribed = [
        NatsSubscription("a.>", "q", "7", 1, msgs=3, max_msgs=5),
        NatsSubscription("b", "", "8", 2),
    ]
    assert shown(source, subs="1")["connections"][0]["subscriptions_list"] == ["a.>"]
    assert shown(source, subs="detail")["connections"][0]["subscriptions_list_detail"] == [
        {"subject": "a.>", "sid": "7", "msgs": 3, "cid": 1, "qgroup": "q", "max": 5}
    ]


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "size"},
        {"sort": "stop"},
        {"limit": "x"},
        {"offset": "1.5"},
        {"cid": "one"},
        {"subs": "maybe"},
        {"auth": "yes"},
        {"state": "ajar"},
    ],
)
def test_invalid_parameters_are_refused(source: FakeSource, query: dict[str, str]) -> None:
    """MON-12: a sort that isn't one."""
    with pytest.raises(BadQueryError):
        shown(source, **query)


def test_routez_has_one_entry_for_each_other_node(source: FakeSource) -> None:
    source.linked = [
        Route(
            1,
            "n2",
            True,
            "127.0.0.1",
            6222,
            NOW_NS - SECOND,
            NOW_NS,
            in_msgs=4,
            rtt_ns=1_500_000,
            dropped_msgs=7,
        ),
        Route(
            2, "c/n2", False, "::1", 6223, NOW_NS, NOW_NS, subjects=lambda: ["b", "a"], is_configured=False
        ),
    ]
    view = finished(routez(source, Query()))
    assert view["num_routes"] == 2
    assert [(route["remote_id"], route["is_configured"]) for route in view["routes"]] == [
        ("n2", True), ("c/n2", False),
    ]  # fmt: skip
    assert "subscriptions_list" not in view["routes"][1]
    listed = finished(routez(source, Query({"subs": "1"})))
    assert [route["subscriptions_list"] for route in listed["routes"]] == [[], ["a", "b"]]
    counted = varz(source, Process(), {}, "/")
    assert (counted["routes"], counted["remotes"]) == (2, 2)
    assert (view["routes"][0]["rtt"], view["routes"][0]["pending_size"]) == ("1.5ms", 0)
    assert [route["dropped_msgs"] for route in view["routes"]] == [7, 0]


def test_subsz_counts_lists_and_tests(source: FakeSource) -> None:
    source.subscribed = [NatsSubscription(subject, "", "1", 1) for subject in ("a.b", "a.*", "c")]
    plain = finished(subsz(source, Query()))
    assert (plain["num_subscriptions"], plain["num_cache"], plain["total"]) == (9, 2, 9)
    assert "subscriptions_list" not in plain
    listed = finished(subsz(source, Query({"subs": "1", "offset": "1"})))
    assert [each["subject"] for each in listed["subscriptions_list"]] == ["a.*", "c"]
    assert {each["account"] for each in listed["subscriptions_list"]} == {"$G"}
    assert finished(subsz(source, Query({"subs": "1", "acc": "X"})))["num_subscriptions"] == 0
    tested = finished(subsz(source, Query({"test": "a.b"})))
    assert [each["subject"] for each in tested["subscriptions_list"]] == ["a.b", "a.*"]


def test_every_page_is_json(source: FakeSource) -> None:
    source.opened = [connection(1, rtt_ns=1)]
    for view in (
        varz(source, Process(), {}, "/"),
        shown(source),
        finished(routez(source, Query())),
        finished(subsz(source, Query())),
    ):
        json.dumps(view, allow_nan=False)
