"""A client whose subscribe request got no answer asks again, as all clients do, and gets its durable (R17).

The answer is lost because the client's node is killed when the request may be in the log already, or it takes
longer than the client waits because the leader stands still. Each time the client asks with another inbox.
STANCHION_RETRIES for more tries of each.
"""

from __future__ import annotations

import os
import random

import pytest
import trio
from e2e.harness import Cluster

from node.client.streaming import Client, Message, connect
from node.core import refusals
from node.errors import RefusedError, UnavailableError

TRIES = int(os.environ.get("STANCHION_RETRIES", "4"))
WITHIN_S = 20.0
IMPATIENT_S = 0.15
"""A client gives up after so long, and unsubscribes from the inbox: shorter than an election takes."""

pytestmark = pytest.mark.slow


async def persistent(client: Client, channel: str, patience_s: float) -> tuple[int, list[str]]:
    """Subscribe to a durable until that succeeds. Returns how often it asked, and refusals for good."""
    asked, refused = 0, []
    got: list[Message] = []
    with trio.fail_after(WITHIN_S):
        while True:
            while not client.nats.connected.is_set():
                await client.nats.connected.wait()
            asked += 1
            with trio.move_on_after(patience_s):
                try:
                    await client.subscribe(channel, got.append, durable="durable")
                except UnavailableError:
                    continue
                except RefusedError as error:
                    if not str(error).startswith(refusals.NO_LEADER):
                        refused.append(str(error))
                    await trio.sleep(0.02)
                    continue
                return asked, refused


async def test_the_clients_node_is_killed(cluster: Cluster, unique: str) -> None:
    chance = random.Random(unique)
    retried = 0
    for number in range(TRIES):
        leader = await trio.to_thread.run_sync(cluster.leader)
        victim = chance.choice([name for name in cluster.names if name != leader])
        async with connect([cluster.address(victim)], cluster.cluster_id, f"{unique}-{number}") as client:
            found: list[tuple[int, list[str]]] = []

            async def ask(client: Client = client, number: int = number) -> None:
                found.append(await persistent(client, f"{unique}.{number}", 2.0))  # noqa: B023 - awaited below

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(chance.uniform(0, 0.01))
                await trio.to_thread.run_sync(cluster.kill, victim)
        [(asked, refused)] = found
        assert refused == [], f"try {number}, asked {asked} times"
        retried += asked > 1
        cluster.start(victim)
        await trio.to_thread.run_sync(cluster.wait_ready)
    print(f"{retried} of {TRIES} asked again")  # noqa: T201 - shown with -rP


async def test_the_leader_stands_still(cluster: Cluster, unique: str) -> None:
    """A leader that was killed is replaced sooner than any client gives up; one that is stopped is not."""
    for number in range(TRIES):
        leader = await trio.to_thread.run_sync(cluster.leader)
        node = next(name for name in cluster.names if name != leader)
        async with connect([cluster.address(node)], cluster.cluster_id, f"{unique}-{number}") as client:
            await trio.to_thread.run_sync(cluster.pause, leader)
            asked, refused = await persistent(client, f"{unique}.{number}", IMPATIENT_S)
        assert refused == [], f"try {number}, asked {asked} times"
        assert asked > 1, "an election takes longer than the client waits"
        cluster.resume(leader)
        await trio.to_thread.run_sync(cluster.wait_ready)
