"""Programs of three public client libraries, unmodified, and stan.go's stand-in live on when the leader dies.

Each test runs with each client, connected to the leader that is killed, or to a follower.
"""

from __future__ import annotations

import pytest
from e2e.conftest import MakeProgram
from e2e.harness import Cluster, until
from e2e.programs import Program, Received

RATE = 300
COUNT = 600

pytestmark = pytest.mark.slow


@pytest.fixture(params=["leader", "follower"])
def side(request: pytest.FixtureRequest) -> str:
    side: str = request.param
    return side


def check_delivered(client: Program, sub: str, acked: list[int]) -> list[Received]:
    """Everything acked has come, sequences have no gaps, and what came twice says so."""
    client.wait_for("every acked message", lambda: {f"m{n}" for n in acked} <= texts(client, sub))
    messages = client.of(sub)
    first: dict[int, Received] = {}
    for message in messages:
        earlier = first.setdefault(message.seq, message)
        assert message.data == earlier.data
        assert message is earlier or message.redelivered, f"{message.seq} came twice, not flagged"
    assert sorted(first) == list(range(1, len(first) + 1))
    assert len({message.data for message in first.values()}) == len(first), "stored twice"
    return messages


def texts(client: Program, sub: str) -> set[str]:
    return {message.data for message in client.of(sub)}


def test_durable_goes_on_through_the_leaders_death(
    cluster: Cluster, kind: str, side: str, program: MakeProgram, unique: str
) -> None:
    """PNG-06. Publishing and a durable subscription, in one session, without the application's doing."""
    leader = cluster.leader()
    at = leader if side == "leader" else cluster.follower()
    client = program(kind)
    client.connect(cluster, unique, at, ack_timeout_ms=4000)
    client.call("subscribe", sub="s", channel=unique, durable="d", start="all", ack_wait_s=2)
    publishing = client.begin(
        "publish", channel=unique, prefix="m", first=1, count=COUNT, rate=RATE, **{"async": True}
    )
    client.wait("s", RATE // 3)
    cluster.kill(leader)
    answer = client.finish(publishing, timeout_s=30)
    failed = {n for n, _ in answer["failed"]}
    if side == "follower":
        assert not failed, "its own node lived: it kept every publish until it was applied"
    assert len(answer["acked"]) >= COUNT - RATE // 2, "only what was in flight may be unknown"
    check_delivered(client, "s", answer["acked"])

    last = until("a channel", lambda: cluster.channel(cluster.running[0], unique))["last_seq"]
    client.publish(unique, 20, prefix="later")
    client.wait_for("what came later", lambda: f"later{20}" in texts(client, "s"))
    cluster.start(leader)
    cluster.wait_ready()
    until(
        "everything acked",
        lambda: cluster.channel(leader, unique)["subscriptions"][0]["pending_count"] == 0,
    )
    client.call("close_sub", sub="s")
    client.publish(unique, 1, prefix="last")
    client.call("subscribe", sub="again", channel=unique, durable="d", start="all", ack_wait_s=2)
    client.wait("again", 1)
    assert [(message.seq, message.data) for message in client.of("again")] == [(last + 21, "last1")]
    assert not client.lost


def test_synchronous_publisher_sees_one_slow_answer(
    cluster: Cluster, kind: str, program: MakeProgram, unique: str
) -> None:
    """At a follower every publish succeeds, one of them a little late; each is stored once, in order."""
    leader = cluster.leader()
    client = program(kind)
    client.connect(cluster, unique, cluster.follower())
    publishing = client.begin("publish", channel=unique, prefix="m", first=1, count=200, rate=100)
    until(
        "publishes",
        lambda: cluster.get(cluster.running[0], f"/streaming/channelsz?channel={unique}")[0] == 200,
    )
    cluster.kill(leader)
    answer = client.finish(publishing, timeout_s=30)
    assert answer["failed"] == []
    client.call("subscribe", sub="s", channel=unique, start="all")
    assert [message.data for message in client.wait("s", 200)] == [f"m{n}" for n in range(1, 201)]


def test_queue_member_killed_with_its_process(
    cluster: Cluster, kind: str, program: MakeProgram, unique: str
) -> None:
    """kill -9 of a consumer and of the leader at the same moment: the other member gets everything."""
    leader, follower = cluster.leader(), cluster.follower()
    survivor = next(name for name in cluster.names if name not in (leader, follower))
    staying, dying = program(kind), program(kind)
    staying.connect(cluster, f"{unique}-stays", survivor)
    dying.connect(cluster, f"{unique}-dies", leader)
    group = {"channel": unique, "queue": "q", "manual": True, "ack_wait_s": 30}
    dying.call("subscribe", sub="d", **group)
    staying.publish(unique, 5)
    dying.wait("d", 5)
    staying.call("subscribe", sub="s", **group)
    dying.kill()
    cluster.kill(leader)
    messages = staying.wait("s", 5)
    assert [message.seq for message in messages] == [1, 2, 3, 4, 5]
    assert all(message.redelivered for message in messages)
    staying.publish(unique, 5, first=6)
    assert staying.wait("s", 10)[-1].data == "m10"
