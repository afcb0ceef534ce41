"""What the Prometheus NATS exporter's streaming collectors fetch and decode, decoded here as strictly.

The exporter is a Go program that no package registry we use has; what it does is known: two URLs a server,
decoded into structs of fixed types, one sample for each channel and subscription, and two samples with the
same labels spoil the whole scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import trio
from e2e.harness import Cluster, until

from node.client.streaming import Client, connect

UINT64_MAX = (1 << 64) - 1
INT64_MAX = (1 << 63) - 1

SERVERZ = {
    "cluster_id": str,
    "server_id": str,
    "version": str,
    "go": str,
    "state": str,
    "now": datetime,
    "start_time": datetime,
    "uptime": str,
    "clients": int,
    "subscriptions": int,
    "channels": int,
    "total_msgs": int,
    "total_bytes": int,
}
ROLE = {"role": str, "node_id": str}
CHANNELSZ = {
    "cluster_id": str,
    "server_id": str,
    "now": datetime,
    "offset": int,
    "limit": int,
    "count": int,
    "total": int,
    "channels": list,
}
CHANNEL = {"name": str, "msgs": int, "bytes": int, "first_seq": int, "last_seq": int}
SUBSCRIPTION = {
    "client_id": str,
    "inbox": str,
    "ack_inbox": str,
    "is_durable": bool,
    "is_offline": bool,
    "max_inflight": int,
    "ack_wait": int,
    "last_sent": int,
    "pending_count": int,
    "is_stalled": bool,
}
OPTIONAL = {"durable_name": str, "queue_name": str, "subscriptions": list}


def decode(page: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    """As Go decodes into a struct: what is there has to have the field's type, exactly."""
    for name, kind in fields.items():
        assert name in page, f"{name} is missing of {sorted(page)}"
        _decode(name, page[name], kind)
    for name, kind in OPTIONAL.items():
        if name in page and name not in fields:
            assert page[name], f"{name} is empty, so it is left out"
            _decode(name, page[name], kind)


def _decode(name: str, value: Any, kind: type) -> None:
    if kind is datetime:
        assert isinstance(value, str), name
        assert datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo is not None, name
    else:
        assert type(value) is kind, f"{name} is {value!r}, not of type {kind.__name__}"
        if kind is int:
            most = UINT64_MAX if name in {"last_seq", "first_seq", "last_sent", "total_bytes"} else INT64_MAX
            assert 0 <= value <= most, f"{name} is {value}"


@asynccontextmanager
async def users(cluster: Cluster, unique: str) -> AsyncIterator[Client]:
    """Subscriptions of every kind, one of them stalled, one durable and one durable group offline."""
    async with connect(cluster.addresses(), cluster.cluster_id, f"{unique}-client") as client:
        for _ in range(5):
            await client.publish(unique, b"x" * 100)

        async def subscribe(**members: Any) -> Any:
            return await client.subscribe(unique, lambda _: None, manual_ack=True, **members)

        for members in (
            {},
            {"durable": "here"},
            {"queue": "group"},
            {"queue": "group"},
            {"queue": "group", "durable": "dur"},
            {"queue": "group", "durable": "dur"},
            {"max_in_flight": 1},
        ):
            await subscribe(**members)
        for members in ({"durable": "away"}, {"queue": "gone", "durable": "dur"}):
            await (await subscribe(**members)).close()
        for _ in range(5):
            await client.publish(unique, b"x" * 100)
        yield client


def scrape(cluster: Cluster, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two pages, decoded."""
    serverz = cluster.page(name, "/streaming/serverz")
    decode(serverz, SERVERZ | ROLE)
    channelsz = cluster.page(name, "/streaming/channelsz?subs=1")
    decode(channelsz, CHANNELSZ)
    for channel in channelsz["channels"]:
        decode(channel, CHANNEL)
        for sub in channel.get("subscriptions", []):
            decode(sub, SUBSCRIPTION)
    return serverz, channelsz


def samples(channelsz: dict[str, Any]) -> list[tuple[str, ...]]:
    """The labels of each sample of a subscription's metrics, as an old and a new exporter have them."""
    found = []
    for channel in channelsz["channels"]:
        for sub in channel.get("subscriptions", []):
            common = (channel["name"], sub["client_id"], sub["inbox"], str(sub["is_durable"]))
            queue = sub.get("queue_name", "")
            found.append((*common, queue, str(sub["is_offline"])))
            if sub["is_durable"] and queue:  # the new one takes what is before the colon for the durable
                durable, colon, queue = queue.partition(":")
                assert colon, f"{sub['queue_name']} has no colon"
                assert durable
                found.append(("new", *common, queue, durable))
    return found


async def test_exporter_can_scrape_every_node(cluster: Cluster, unique: str) -> None:
    """MON-15. Types and labels of serverz and channelsz, with durable groups, on leader and followers."""
    async with users(cluster, unique):
        await trio.to_thread.run_sync(
            until, "the channel everywhere", lambda: _is_everywhere(cluster, unique)
        )
        for name in cluster.names:
            serverz, channelsz = scrape(cluster, name)
            assert serverz["state"] == "CLUSTERED"
            assert serverz["node_id"] == name
            assert serverz["channels"] == channelsz["total"] >= 1
            [channel] = [channel for channel in channelsz["channels"] if channel["name"] == unique]
            assert (channel["msgs"], channel["last_seq"]) == (10, 10)
            assert channel["bytes"] > 1000
            labels = Counter(samples(channelsz))
            assert [label for label, count in labels.items() if count > 1] == []
            check_subscriptions(channel["subscriptions"])


def _is_everywhere(cluster: Cluster, channel: str) -> bool:
    pages = [cluster.get(name, f"/streaming/channelsz?channel={channel}&subs=1") for name in cluster.names]
    return all(status == 200 and page["msgs"] == 10 for status, page in pages)


def check_subscriptions(subs: list[dict[str, Any]]) -> None:
    """Two groups of two, four single ones, and the two that are offline."""
    groups = Counter(sub.get("queue_name", "") for sub in subs)
    assert groups == {"": 4, "group": 2, "dur:group": 2, "dur:gone": 1}
    assert {sub.get("durable_name") for sub in subs} == {None, "here", "away"}
    offline = [sub for sub in subs if sub["is_offline"]]
    assert sorted(sub.get("queue_name") or sub["durable_name"] for sub in offline) == ["away", "dur:gone"]
    assert all(sub["is_durable"] for sub in offline)
    [stalled] = [sub for sub in subs if sub["is_stalled"]]
    assert (stalled["max_inflight"], stalled["pending_count"]) == (1, 1)


@pytest.mark.parametrize("after", ["start", "kill"])
def test_one_node_says_leader(cluster: Cluster, after: str) -> None:
    """MON-02. Exactly one role is Leader, the others are Follower; so too when the leader was killed."""
    if after == "kill":
        leader = cluster.leader()
        cluster.kill(leader)
        cluster.leader()
        cluster.start(leader)
        cluster.wait_ready()
    roles = Counter(cluster.page(name, "/streaming/serverz")["role"] for name in cluster.names)
    assert roles == {"Leader": 1, "Follower": 2}
