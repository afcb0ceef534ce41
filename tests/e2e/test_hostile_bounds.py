"""Names, numbers and sizes as long, as many and as large as a client can make them."""

from __future__ import annotations

import pytest
from e2e.attacks.bounds import (
    large_requests,
    long_groups,
    long_names,
    many_clients,
    many_groups,
    messages_for_groups,
)
from e2e.conftest import MakeCluster
from e2e.harness import Cluster
from e2e.hostile import Attack, endure
from e2e.wire import Wire

from node.protocol import nats, streaming

pytestmark = [pytest.mark.slow, pytest.mark.alone]

CLIENTS_OF_A_CONNECTION_MAX = 1000


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_names_of_a_megabyte(cluster: Cluster, unique: str, where: str) -> None:
    """1,500 client IDs of 200 KB took 533 MB on every node, and twenty of 1 MB ended each leader in turn."""
    name = cluster.leader() if where == "leader" else cluster.follower()
    damage = endure(cluster, unique, {name: [long_names]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check(memory_max=96 << 20)


@pytest.mark.parametrize("groups", [long_groups, many_groups])
def test_messages_for_thousands_of_groups_elsewhere(cluster: Cluster, unique: str, groups: Attack) -> None:
    """One such message was a frame that ended its sender, or broke the link. Now its sender is held up."""
    leader, follower = cluster.leader(), cluster.follower()
    links = route_links(cluster)
    damage = endure(cluster, unique, {follower: [groups], leader: [messages_for_groups]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check(memory_max=256 << 20)
    assert route_links(cluster) == links, "a link between nodes broke"


def route_links(cluster: Cluster) -> int:
    """How often links between nodes have come up, by the logs of all nodes."""
    return sum(cluster.log(name).read_text().count("route link with") for name in cluster.names)


def test_client_ids_without_end(make_cluster: MakeCluster, unique: str) -> None:
    """One connection registers no more than a thousand of them."""
    cluster = make_cluster()
    cluster.start()
    cluster.wait_ready()
    name = cluster.leader()
    damage = endure(cluster, unique, {name: [many_clients]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check(memory_max=96 << 20)
    registered = cluster.page(name, "/streaming/serverz")["clients"]
    assert registered <= CLIENTS_OF_A_CONNECTION_MAX + len(cluster.names)


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_requests_as_large_as_messages_may_be(make_cluster: MakeCluster, unique: str, where: str) -> None:
    """Each counted as 256 bytes: a batch of them ended the leader, or a follower forwarded it for ever."""
    cluster = make_cluster(settings={"clients": {"max_payload": "8MB"}})
    cluster.start()
    cluster.wait_ready()
    name = cluster.leader() if where == "leader" else cluster.follower()
    damage = endure(cluster, unique, {name: [large_requests]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check(memory_max=384 << 20)


@pytest.mark.parametrize(
    "inbox", ["_STANCHION.admin.test-cluster.client.ls", "_STAN.discover.test-cluster", "_STAN.x"]
)
def test_no_service_answers_heartbeats_for_a_client(cluster: Cluster, unique: str, inbox: str) -> None:
    """A client with such an inbox was never found dead."""
    with Wire(cluster.ports[cluster.leader()]["client"]) as wire:
        wire.hello()
        request = streaming.ConnectRequest(unique, inbox, 1, unique.encode(), 5, 3)
        wire.send(nats.sub(b"_INBOX.r", b"", b"r"))
        wire.send(nats.pub(b"_STAN.discover.test-cluster", b"_INBOX.r", streaming.encode_connect(request)))
        response = streaming.decode_connect_response(wire.message())
    assert response.error == "stan: invalid connection request"


def test_nobody_unsubscribes_a_durable_that_is_online_by_its_name(cluster: Cluster, unique: str) -> None:
    """As with the Go server: client IDs and durable names are no secrets."""
    port = cluster.ports[cluster.follower()]["client"]
    with Wire(port) as wire, Wire(port) as other:
        wire.hello()
        wire.register(unique)
        request = streaming.SubscriptionRequest(unique, unique, "", "_INBOX.m", 10, 30, "audit")
        wire.send(nats.sub(b"_INBOX.r", b"", b"r"))
        wire.send(nats.pub(b"_STAN.sub.test-cluster", b"_INBOX.r", streaming.encode_subscription(request)))
        assert streaming.decode_subscription_response(wire.message()).error == ""
        other.hello()
        other.send(nats.sub(b"_INBOX.o", b"", b"r"))
        end = streaming.UnsubscribeRequest(unique, unique, "", "audit")
        other.send(nats.pub(b"_STAN.unsub.test-cluster", b"_INBOX.o", streaming.encode_unsubscribe(end)))
        assert streaming.decode_unsubscribe_response(other.message()) == "stan: invalid subscription"
