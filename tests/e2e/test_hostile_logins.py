"""Wrong passwords keep nobody from logging in."""

from __future__ import annotations

import multiprocessing
import threading
import time

import bcrypt
import pytest
import trio
from e2e.attacks.logins import guess
from e2e.conftest import MakeCluster
from e2e.harness import Cluster
from e2e.hostile import LOG_LINES_MAX, SECONDS, quantile
from e2e.wire import Wire

from node.client import connect
from node.client.nats import Options

pytestmark = [pytest.mark.slow, pytest.mark.alone]

COST = 10
"""Of bcrypt: some 50 ms for each comparison."""

LOGIN_MAX_S = 2.0
"""How long the client libraries wait for the answer to their CONNECT."""


def log_in(cluster: Cluster, name: str, user: str) -> float:
    """The first log-in of ``user``; how long it takes."""
    began_s = time.monotonic()
    with Wire(cluster.ports[name]["client"]) as wire:
        wire.hello(b'{"verbose":false,"user":"%s","pass":"right"}' % user.encode())
    return time.monotonic() - began_s


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"], ids=["same address", "another address"])
def test_wrong_passwords(make_cluster: MakeCluster, source: str) -> None:
    """They shut out first log-ins for 37 s, drew a line each, and never ended."""
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(COST)).decode()
    names = ["ann", *(f"user{number}" for number in range(int(SECONDS) * 2))]
    users = [{"user": name, "password": hashed} for name in names]
    cluster = make_cluster(size=3, settings={"clients": {"users": users}})
    cluster.start()
    cluster.wait_ready()
    name = cluster.leader()
    lines = cluster.log(name).read_bytes().count(b"\n")
    latencies_s: list[float] = []

    async def bystander(until_s: float) -> None:
        options = Options(user="ann", password="right")
        servers = cluster.addresses(name)
        async with connect(servers, cluster.cluster_id, "bystander", options=options) as client:
            while time.monotonic() < until_s:
                began_s = time.monotonic()
                await client.publish("foo", b"x")
                latencies_s.append(time.monotonic() - began_s)

    log_in(cluster, name, "ann")
    until_s = time.monotonic() + SECONDS + 1
    context = multiprocessing.get_context("spawn")
    attack = context.Process(target=guess, args=(cluster.ports[name]["client"], until_s, source), daemon=True)
    publisher = threading.Thread(target=lambda: trio.run(bystander, until_s))
    attack.start()
    publisher.start()
    took_s = []
    for user in names[1:]:
        took_s.append(log_in(cluster, name, user))
        time.sleep(max(0, min(0.4, until_s - time.monotonic())))
    attack.join()
    publisher.join()
    print(f"log-ins {sorted(took_s)}; publish p99 {quantile(latencies_s, 0.99):.3f} s")  # noqa: T201
    assert max(took_s) <= LOGIN_MAX_S
    assert quantile(latencies_s, 0.99) <= 0.25
    assert cluster.log(name).read_bytes().count(b"\n") - lines <= LOG_LINES_MAX
