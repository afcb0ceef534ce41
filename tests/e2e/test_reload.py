"""SIGHUP on one node changes what the whole cluster goes by; with SIGUSR2 a leader leaves slowly."""

from __future__ import annotations

import json
import signal
from typing import Any

from e2e.conftest import MakeCluster
from e2e.harness import Cluster, until
from e2e.wire import Wire

from node.protocol import streaming


def rewrite(cluster: Cluster, section: str, **values: Any) -> None:
    document = json.loads(cluster.config.read_text())
    document[section] = values
    cluster.config.write_text(json.dumps(document))


def publish(wire: Wire, subjects: streaming.ConnectResponse, channel: str) -> str:
    """Publish and wait for the ack; its error."""
    request = streaming.PublishRequest("me", channel, channel, data=b"x", conn_id=b"me")
    answer = wire.ask(f"{subjects.pub_prefix}.{channel}", streaming.encode_publish(request))
    return streaming.decode_pub_ack(answer).error


def test_limits_of_one_nodes_file_become_the_clusters(make_cluster: MakeCluster) -> None:
    """R23: one replicated command; the others, whose files say the same, have nothing left to do."""
    cluster = make_cluster(settings={"limits": {"max_channels": 1}})
    cluster.start()
    cluster.wait_ready()
    follower, leader = cluster.follower(), cluster.leader()
    with Wire(cluster.ports[leader]["client"]) as wire:
        wire.hello()
        subjects = wire.register("me")
        assert [publish(wire, subjects, name) for name in ("a", "b")] == ["", "too many channels"]
        rewrite(cluster, "limits", max_chanels=3)
        cluster.children[follower].signal(signal.SIGHUP)
        until("the complaint", lambda: "did you mean max_channels?" in cluster.tail(follower))
        assert publish(wire, subjects, "b") == "too many channels"
        rewrite(cluster, "limits", max_channels=2)
        cluster.children[follower].signal(signal.SIGHUP)
        until("the new limit", lambda: publish(wire, subjects, "b") == "")
        cluster.children[leader].signal(signal.SIGHUP)
        until("the leader's file", lambda: "configuration reloaded" in cluster.tail(leader))
    assert "proposed to the cluster: max_channels" in cluster.tail(follower)
    assert "proposed to the cluster" not in cluster.tail(leader)


def test_a_lame_leader_hands_over_and_leaves(make_cluster: MakeCluster) -> None:
    """Its clients are told at once, closed one by one, and find a leader wherever they go."""
    clients = {"lame_duck_duration": "3s", "lame_duck_grace_period": "500ms"}
    cluster = make_cluster(settings={"clients": clients})
    cluster.start()
    cluster.wait_ready()
    leader = cluster.leader()
    with Wire(cluster.ports[leader]["client"]) as wire:
        wire.hello(b'{"verbose":false,"protocol":1}')
        cluster.ask_to_stop(leader, signal.SIGUSR2)
        line = wire.line()
        while b'"ldm":true' not in line:  # others may announce themselves first
            assert line.startswith(b"INFO")
            line = wire.line()
        others = [name for name in cluster.names if name != leader]
        assert until("another leader", lambda: cluster.ready_leader(others)) != leader
        assert wire.rest() == b""
    assert cluster.children[leader].wait(10) == 0
