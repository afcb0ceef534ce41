"""Pages of the NATS server about what this node doesn't have: the reference's shapes."""

from __future__ import annotations

import pytest

from node.monitor.account_views import accountz, accstatz, gatewayz, ipqueuesz, jsz, leafz
from node.monitor.figures import Connection, Traffic
from node.monitor.query import BadQueryError, Query

from .conftest import NOW_NS, FakeSource


@pytest.fixture
def connected(source: FakeSource) -> FakeSource:
    source.opened = [Connection(1, "127.0.0.1", 5, NOW_NS, NOW_NS)]
    source.traffic_now = Traffic(slow_consumers=1, in_msgs=2, in_bytes=3, out_msgs=4, out_bytes=5)
    return source


def test_all_clients_belong_to_the_global_account(connected: FakeSource) -> None:
    assert accountz(connected, Query())["accounts"] == ["$G"]
    detail = accountz(connected, Query({"acc": "$G"}))["account_detail"]
    assert (detail["account_name"], detail["client_connections"], detail["subscriptions"]) == ("$G", 1, 9)
    assert detail["sublist_stats"]["num_cache"] == 2
    with pytest.raises(BadQueryError, match=r"^Account X does not exist$"):
        accountz(connected, Query({"acc": "X"}))


def test_traffic_by_account(connected: FakeSource) -> None:
    expected = {
        "acc": "$G", "conns": 1, "leafnodes": 0, "total_conns": 1, "sent": {"msgs": 4, "bytes": 5},
        "received": {"msgs": 2, "bytes": 3}, "slow_consumers": 1,
    }  # fmt: skip
    assert accstatz(connected, Query())["account_statz"] == [expected]
    assert accstatz(connected, Query({"accs": "X"}))["account_statz"] == []
    connected.opened = []
    assert accstatz(connected, Query())["account_statz"] == []
    (unused,) = accstatz(connected, Query({"unused": "1"}))["account_statz"]
    assert unused["conns"] == 0


def test_what_is_not_there(source: FakeSource) -> None:
    assert gatewayz(source)["outbound_gateways"] == {}
    assert (leafz(source, Query())["leafnodes"], leafz(source, Query())["leafs"]) == (0, None)
    page = jsz(source, Query())
    assert (page["disabled"], page["api"], page["streams"]) == (True, {"total": 0, "errors": 0}, 0)
    assert ipqueuesz() == {}
    with pytest.raises(BadQueryError):
        leafz(source, Query({"subs": "x"}))
