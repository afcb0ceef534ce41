"""The streaming pages show what the cluster holds, in the reference's fields and types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node.core.settings import Settings
from node.monitor.figures import Agreement
from node.monitor.process import Process
from node.monitor.query import LIMIT_MAX, NotFoundError, Query
from node.monitor.rendering import finished
from node.monitor.views import channelsz, clientsz, healthz, raftz, serverz, storez
from node.units import SECOND

from .conftest import TAG, FakeSource, identity

PROCESS = Process(memory=1000, cpu=1.5, cores=2, open_fds=12, max_fds=1024)


def shown(steps: Any) -> dict[str, Any]:
    return finished(steps)


def test_serverz_sums_over_all_channels(source: FakeSource) -> None:
    """MON-01."""
    ann = source.client("ann")
    orders = source.channel("orders", [100, 200])
    source.channel("empty")
    source.subscription(orders, ann)
    source.subscription(orders, None, durable="d", last_client="bob")
    view = shown(serverz(source, PROCESS))
    assert view["cluster_id"] == "test-cluster"
    assert view["server_id"] == "STREAMING-ID"
    assert (view["clients"], view["subscriptions"], view["channels"]) == (1, 2, 2)
    assert (view["total_msgs"], view["total_bytes"]) == (2, 300)
    assert (view["state"], view["role"], view["node_id"]) == ("CLUSTERED", "Leader", "n1")
    assert view["uptime"] == "1h2m3s"
    assert view["now"] == "2023-11-14T22:13:20.000000005Z"
    assert view["start_time"] == "2023-11-14T21:11:17.000000005Z"
    assert view["go"].startswith("python3")
    assert (view["open_fds"], view["max_fds"]) == (12, 1024)


def test_serverz_of_a_single_node_has_no_role() -> None:
    """MON-01: nor a node's name."""
    view = shown(serverz(FakeSource(identity=identity(is_clustered=False)), Process()))
    assert view["state"] == "STANDALONE"
    assert not {"role", "node_id", "open_fds", "max_fds"} & set(view)


def test_storez_shows_limits_after_inheritance(source: FakeSource) -> None:
    """MON-08."""
    source.state.settings = Settings(
        max_msgs=10,
        channels={"foo.>": {"max_msgs": 400}, "foo.*": {"max_bytes": 1000}, "foo.bar": {"max_msgs": 0}},
    )
    view = shown(storez(source))
    assert view["type"] == "RAFT_FILE"
    assert view["limits"]["max_msgs"] == 10
    assert {name: (c["max_msgs"], c["max_bytes"]) for name, c in view["limits"]["channels"].items()} == {
        "foo.>": (400, 1_024_000_000),
        "foo.*": (400, 1000),
        "foo.bar": (0, 1000),
    }


@pytest.mark.parametrize(
    ("store", "is_clustered", "kind"),
    [
        ("file", False, "FILE"),
        ("memory", False, "MEMORY"),
        ("file", True, "RAFT_FILE"),
        ("memory", True, "RAFT_MEMORY"),
    ],
)
def test_storez_says_where_messages_are_kept(store: str, is_clustered: bool, kind: str) -> None:
    source = FakeSource(identity=replace(identity(is_clustered=is_clustered), store=store))
    assert shown(storez(source))["type"] == kind


def test_storez_without_channel_limits_leaves_them_out(source: FakeSource) -> None:
    assert "channels" not in shown(storez(source))["limits"]


def test_clientsz_is_sorted_and_paged(source: FakeSource) -> None:
    for name in ("cat", "ann", "bob"):
        source.client(name)
    view = shown(clientsz(source, Query({"limit": "2", "offset": "1"})))
    assert [client["id"] for client in view["clients"]] == ["bob", "cat"]
    assert (view["offset"], view["limit"], view["count"], view["total"]) == (1, 2, 2, 3)
    assert view["clients"][0] == {"id": "bob", "hb_inbox": "_INBOX.hb.bob", "subs_count": 0}


def test_a_page_has_a_bound(source: FakeSource) -> None:
    source.client("ann")
    assert shown(clientsz(source, Query({"limit": "999999999"})))["limit"] == LIMIT_MAX


@pytest.mark.parametrize(
    "values", [{"limit": "0", "offset": "-1"}, {"limit": "-5"}, {"limit": "x", "offset": "y"}]
)
def test_invalid_parameters_have_their_defaults(source: FakeSource, values: dict[str, str]) -> None:
    """MON-09."""
    view = shown(clientsz(source, Query(values)))
    assert (view["limit"], view["offset"]) == (1024, 0)


def test_one_client_with_its_subscriptions_by_channel(source: FakeSource) -> None:
    """MON-07."""
    ann = source.client("ann")
    source.subscription(source.channel("a"), ann)
    source.subscription(source.channel("b"), ann)
    view = shown(clientsz(source, Query({"client": "ann", "subs": "1"})))
    assert view["subs_count"] == 2
    assert {name: len(subs) for name, subs in view["subscriptions"].items()} == {"a": 1, "b": 1}


def test_an_unknown_client_is_not_found(source: FakeSource) -> None:
    """MON-05."""
    with pytest.raises(NotFoundError, match=r"^Client zoe not found$"):
        shown(clientsz(source, Query({"client": "zoe"})))


def test_channelsz_lists_names(source: FakeSource) -> None:
    """MON-03."""
    assert "names" not in shown(channelsz(source, Query()))
    for name in ("b", "a"):
        source.channel(name)
    assert shown(channelsz(source, Query()))["names"] == ["a", "b"]
    beyond = shown(channelsz(source, Query({"offset": "5"})))
    assert (beyond["count"], beyond["total"]) == (0, 2)
    assert "names" not in beyond


def test_only_exactly_1_asks_for_subscriptions(source: FakeSource) -> None:
    source.channel("a")
    assert "names" in shown(channelsz(source, Query({"subs": "true"})))
    assert "channels" in shown(channelsz(source, Query({"subs": "1"})))


def test_a_channel_shows_its_log(source: FakeSource) -> None:
    orders = source.channel("orders", [10, 20, 30])
    orders.log.drop_before(2)
    assert shown(channelsz(source, Query({"channel": "orders"}))) == {
        "name": "orders",
        "msgs": 2,
        "bytes": 50,
        "first_seq": 2,
        "last_seq": 3,
        "subs_count": 0,
    }


def test_a_channel_that_never_held_anything_starts_at_0(source: FakeSource) -> None:
    source.channel("new")
    view = shown(channelsz(source, Query({"channel": "new"})))
    assert (view["first_seq"], view["last_seq"]) == (0, 0)


def test_an_unknown_channel_is_not_found(source: FakeSource) -> None:
    """MON-05."""
    with pytest.raises(NotFoundError, match=r"^Channel nope not found$"):
        shown(channelsz(source, Query({"channel": "nope"})))


def the_subscription(source: FakeSource) -> dict[str, Any]:
    (channel,) = shown(channelsz(source, Query({"subs": "1"})))["channels"]
    (subscription,) = channel["subscriptions"]
    found: dict[str, Any] = subscription
    return found


def test_a_subscription_shows_its_unacked_messages_and_remaining_ack_waits(source: FakeSource) -> None:
    subscription = source.subscription(source.channel("orders", [1] * 9), source.client("ann"))
    source.sent(subscription, 4, at_ns=80 * SECOND)
    source.sent(subscription, 5, at_ns=95 * SECOND, deliveries=3)
    source.sent(subscription, 6, at_ns=60 * SECOND)
    view = the_subscription(source)
    assert view == {
        "client_id": "ann",
        "inbox": "_INBOX.sub.1",
        "ack_inbox": "_INBOX.***.0000000000000000000001",
        "is_durable": False,
        "is_offline": False,
        "max_inflight": 3,
        "ack_wait": 30,
        "last_sent": 6,
        "pending_count": 3,
        "is_stalled": True,
        "is_unreachable": False,
        "is_paused": False,
        "unacked": [
            {"seq": 4, "deliveries": 1, "remaining_ms": 10_000},
            {"seq": 5, "deliveries": 3, "remaining_ms": 25_000},
            {"seq": 6, "deliveries": 1, "remaining_ms": 0},
        ],
    }


def test_the_tag_of_the_cluster_is_never_shown(source: FakeSource) -> None:
    source.subscription(source.channel("orders"), source.client("ann"))
    assert TAG not in str(shown(channelsz(source, Query({"subs": "1"}))))
    assert TAG not in str(raftz(source))


def test_a_due_message_has_no_time_left(source: FakeSource) -> None:
    subscription = source.subscription(source.channel("orders", [1] * 9), source.client("ann"))
    source.sent(subscription, 4, at_ns=99 * SECOND)
    subscription.due = [4]
    assert the_subscription(source)["unacked"][0]["remaining_ms"] == 0


def test_nothing_counts_down_in_a_pause(source: FakeSource) -> None:
    subscription = source.subscription(source.channel("orders", [1] * 9), source.client("ann"))
    source.sent(subscription, 4, at_ns=99 * SECOND)
    subscription.group.paused_ns = 99 * SECOND
    view = the_subscription(source)
    assert view["is_paused"]
    assert view["unacked"][0]["remaining_ms"] is None


def test_only_the_first_due_messages_are_listed(source: FakeSource) -> None:
    subscription = source.subscription(source.channel("orders", [1] * 200), source.client("ann"))
    for seq in range(1, 151):
        source.sent(subscription, seq, at_ns=90 * SECOND)
    view = the_subscription(source)
    assert view["pending_count"] == 150
    assert [record["seq"] for record in view["unacked"]] == list(range(1, 101))


def test_an_offline_durable_keeps_its_client_and_its_messages(source: FakeSource) -> None:
    subscription = source.subscription(source.channel("orders", [1]), None, durable="d", last_client="bob")
    source.sent(subscription, 1, at_ns=90 * SECOND)
    view = the_subscription(source)
    assert (view["client_id"], view["durable_name"]) == ("bob", "d")
    assert (view["is_durable"], view["is_offline"], view["is_unreachable"]) == (True, True, False)
    assert view["unacked"] == [{"seq": 1, "deliveries": 1, "remaining_ms": None}]


def test_members_of_a_queue_group_show_their_own_cursor_and_the_groups(source: FakeSource) -> None:
    orders = source.channel("orders", [1] * 9)
    first = source.subscription(orders, source.client("ann"), durable="d", queue="workers")
    second = source.subscription(orders, source.client("bob"), durable="d", queue="workers")
    source.sent(first, 1, at_ns=90 * SECOND)
    source.sent(second, 2, at_ns=90 * SECOND)
    (channel,) = shown(channelsz(source, Query({"subs": "1"})))["channels"]
    assert [
        (sub["queue_name"], sub["is_durable"], sub["last_sent"], "durable_name" in sub)
        for sub in channel["subscriptions"]
    ] == [("d:workers", True, 1, False), ("d:workers", True, 2, False)]
    assert channel["subscriptions"][0]["group"] == {
        "last_sent": 2,
        "members": ["ann", "bob"],
        "members_count": 2,
        "orphans_count": 0,
    }


def test_a_client_without_reachable_inbox_is_unreachable(source: FakeSource) -> None:
    ann = source.client("ann")
    source.subscription(source.channel("orders"), ann)
    ann.unreachable = True
    assert the_subscription(source)["is_unreachable"]


def test_a_channel_that_goes_while_the_page_is_made_is_left_out(source: FakeSource) -> None:
    for name in ("a", "b"):
        source.channel(name)
    steps = channelsz(source, Query({"subs": "1"}))
    next(steps)
    del source.state.channels["b"]
    view = finished(steps)
    assert [channel["name"] for channel in view["channels"]] == ["a"]
    assert view["count"] == 1


def test_raftz_shows_the_group(source: FakeSource) -> None:
    view = raftz(source)
    assert (view["role"], view["term"], view["leader"], view["is_ready"]) == ("Leader", 3, "n1", True)
    assert (view["commit_index"], view["applied_index"], view["last_index"]) == (19, 18, 20)
    assert (view["members"], view["learners"]) == (["n1", "n2", "n3"], ["n3"])
    assert view["peers"] == [
        {
            "node_id": "n2",
            "is_connected": True,
            "last_contact_ms": 40,
            "match_index": 19,
            "next_index": 20,
            "state": "replicate",
        },
        {
            "node_id": "n3",
            "is_connected": False,
            "last_contact_ms": None,
            "match_index": 0,
            "next_index": 0,
            "state": "",
        },
    ]


def test_health_names_its_reason(source: FakeSource) -> None:
    assert healthz(source) == (True, {"status": "ok"})
    source.error = "no leader"
    assert healthz(source) == (False, {"status": "error", "error": "no leader"})


def test_health_has_warnings(source: FakeSource) -> None:
    """R13: a node whose clock is wrong serves all the same."""
    source.agreed = Agreement(clock_offset_ns=-12_300_000_000, clock_is_wrong=True)
    source.state.expiry_paused = True
    source.identity = replace(source.identity, durability="relaxed")
    assert healthz(source) == (
        True,
        {
            "status": "ok",
            "warnings": [
                "this node's wall clock is -12.3 s from the cluster's median",
                "no message is dropped for its age: the leader's wall clock is wrong",
                "durability is relaxed: a power failure may lose what was acknowledged",
            ],
        },
    )
    assert shown(serverz(source, PROCESS))["durability"] == "relaxed"


def test_raftz_shows_how_far_nodes_agree(source: FakeSource) -> None:
    """R13, R30."""
    assert raftz(source)["clock_offset_ms"] is None
    source.agreed = Agreement(
        clock_offset_ns=1_500_000, timestamps_behind_ns=-7_000_000, state_agreed_index=8192
    )
    source.state.expiry_paused = True
    view = raftz(source)
    assert (view["clock_offset_ms"], view["ages_wait"], view["state_agreed_index"]) == (1, True, 8192)
    assert view["timestamps_behind_ms"] == -7
    assert view["event_loop"] == {"p50_ms": 1, "p99_ms": 3, "longest_ms": 12.5}


@pytest.mark.parametrize(("behind_s", "side"), [(3600, "behind"), (-3600, "ahead of")])
def test_health_warns_of_timestamps_far_from_the_clocks(source: FakeSource, behind_s: int, side: str) -> None:
    """R13: a clock was set, or was wrong from the start; nothing said so."""
    source.agreed = Agreement(timestamps_behind_ns=behind_s * SECOND)
    assert healthz(source)[1]["warnings"] == [
        f"timestamps are 3600.0 s {side} the nodes' wall clocks: see stanchion cluster clock"
    ]
    source.agreed = Agreement(timestamps_behind_ns=9 * SECOND)
    assert healthz(source) == (True, {"status": "ok"})
