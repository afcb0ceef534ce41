"""What must hold when the leader dies under load, with our own client and a checker of its history."""

from __future__ import annotations

import statistics

import pytest
import trio
from e2e.harness import Cluster
from e2e.load import History, publish_for_ever, replay

from node.client.streaming import connect
from node.protocol.positions import StartPosition

KILLS = 20
PUBLISHERS = 3
RATE = 200  # a second and publisher
GAP_MAX_S = 5.0
GAP_MEDIAN_MAX_S = 1.5

pytestmark = pytest.mark.slow


@pytest.mark.alone
async def test_twenty_leaders_killed_under_load(cluster: Cluster, unique: str) -> None:
    """kill -9 of the leader, twenty times: nothing acked is lost, doubled or out of order."""
    history = History()
    gaps_s: list[float] = []
    async with (
        connect(cluster.addresses(), cluster.cluster_id, f"{unique}-consumer") as consumer,
        trio.open_nursery() as nursery,
    ):
        await consumer.subscribe(
            unique, history.delivered, durable="checked", start=StartPosition.FIRST, ack_wait_s=5
        )
        async with trio.open_nursery() as load:
            for number in range(PUBLISHERS):
                load.start_soon(_publisher, cluster, unique, number, history)
            await history.wait_acked(RATE)
            for _ in range(KILLS):
                gaps_s.append(await _kill_leader(cluster, history))
            load.cancel_scope.cancel()
        await history.wait_all_delivered()
        assert not consumer.lost
        nursery.cancel_scope.cancel()
    history.check()
    last = (await trio.to_thread.run_sync(cluster.wait_same, unique))["last_seq"]
    assert last == len({delivery.seq for delivery in history.deliveries})
    replays = [
        await replay(cluster.address(name), cluster.cluster_id, f"{unique}-{name}", unique, last)
        for name in cluster.names
    ]
    assert replays[0] == replays[1] == replays[2]
    assert max(gaps_s) < GAP_MAX_S, gaps_s
    assert statistics.median(gaps_s) < GAP_MEDIAN_MAX_S, gaps_s


async def _publisher(cluster: Cluster, channel: str, number: int, history: History) -> None:
    first = cluster.names[number % len(cluster.names)]
    client_id = f"{channel}-publisher{number}"
    async with connect(cluster.addresses(first), cluster.cluster_id, client_id) as client:
        await publish_for_ever(client, history, channel, f"p{number}", RATE)


async def _kill_leader(cluster: Cluster, history: History) -> float:
    """Kill it, see the others go on, start it again. The longest time without a publish ack."""
    leader = await trio.to_thread.run_sync(cluster.leader)
    killed_s = trio.current_time()
    history.kills_s.append(killed_s)
    cluster.kill(leader)
    await history.wait_acked(RATE)
    gap_s = history.longest_gap_s(killed_s, trio.current_time())
    cluster.start(leader)
    await trio.to_thread.run_sync(cluster.wait_ready)
    await history.wait_acked(RATE)
    return gap_s
