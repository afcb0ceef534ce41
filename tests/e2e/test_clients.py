"""Programs of three public client libraries, unmodified, and stan.go's stand-in do all that their APIs offer.

Each test runs with each client, connected to the leader and to a follower.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from itertools import chain

import pytest
import trio
from e2e.conftest import MakeProgram
from e2e.harness import Cluster, until
from e2e.programs import ProgramError, Received

from node.client.streaming import connect

AGES_APART_S = 2.1  # the Python client counts start times in whole seconds


@pytest.fixture(params=["leader", "follower"])
def at(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """The node the client connects to."""
    return cluster.leader() if request.param == "leader" else cluster.follower()


def texts(messages: list[Received]) -> list[str]:
    return [message.data for message in messages]


def numbered(first: int, last: int) -> list[str]:
    return [f"m{n}" for n in range(first, last + 1)]


def wait_acked(cluster: Cluster, at: str, channel: str) -> None:
    """A client shows a message before it acknowledges it: wait for the last ack."""

    def is_acked() -> bool:
        return all(sub["pending_count"] == 0 for sub in cluster.channel(at, channel)["subscriptions"])

    until("everything acked", is_acked)


def test_publish_and_receive(cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str) -> None:
    """What was published, waiting for each ack or not, arrives once and in order, on every node."""
    client = program(kind)
    client.connect(cluster, f"{unique}-client", at)
    client.call("subscribe", sub="all", channel=unique)
    client.publish(unique, 20)
    client.publish(unique, 1000, first=21, size=100, **{"async": True})
    messages = client.wait("all", 1020)
    assert [message.seq for message in messages] == list(range(1, 1021))
    assert [text.rstrip(".") for text in texts(messages)] == numbered(1, 1020)
    assert not any(message.redelivered for message in messages)
    assert cluster.wait_same(unique)["last_seq"] == 1020
    client.call("unsubscribe", sub="all")
    client.call("close")
    assert not client.lost
    assert not client.errors


@dataclass(frozen=True, slots=True)
class History:
    """A channel with five old messages and five young ones, and a moment between them (Unix seconds)."""

    channel: str
    between_s: float


@pytest.fixture(scope="module")
def history(shared_cluster: Cluster) -> History:
    shared_cluster.heal()

    async def publish(first: int) -> None:
        async with connect(shared_cluster.addresses(), shared_cluster.cluster_id, "historian") as client:
            for n in range(first, first + 5):
                await client.publish("history", f"m{n}".encode())

    trio.run(publish, 1)
    between_s = time.time() + 0.1
    until("old messages to be old", lambda: time.time() > between_s + AGES_APART_S)
    trio.run(publish, 6)
    return History("history", between_s)


def test_start_positions(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str, history: History
) -> None:
    """Every start position that an API offers begins where it says."""
    client = program(kind)
    client.connect(cluster, unique, at)
    channel = history.channel
    delta_ms = int((time.time() - history.between_s) * 1000)
    starts: dict[str, tuple[dict[str, object], int]] = {
        "default": ({}, 11),
        "new": ({"start": "new"}, 11),
        "last": ({"start": "last"}, 10),
        "all": ({"start": "all"}, 1),
        "sequence": ({"start": "sequence", "seq": 4}, 4),
        "behind-the-last": ({"start": "sequence", "seq": 4000}, 11),
        "time": ({"start": "time", "time_ms": int(history.between_s * 1000)}, 6),
        "long-ago": ({"start": "time", "time_ms": int(history.between_s * 1000) - 3_600_000}, 1),
    }
    if kind != "c":  # it has one way to say it, and refuses sequence 0 by itself
        starts["first"] = ({"start": "first"}, 1)
        starts["before-the-first"] = ({"start": "sequence", "seq": 0}, 1)
    if kind != "python":
        starts["delta"] = ({"start": "delta", "delta_ms": delta_ms}, 6)
    for name, (members, _) in starts.items():
        client.call("subscribe", sub=name, channel=channel, **members)
    for name, (_, first) in starts.items():
        if first < 11:
            assert texts(client.wait(name, 11 - first))[: 11 - first] == numbered(first, 10), name
    time_of_first = client.of("all")[0].ts / 1e9
    assert history.between_s - 30 < time_of_first < history.between_s
    for name, (_, first) in starts.items():
        assert len(client.of(name)) == 11 - first, f"{name} got too much"


def test_new_only_gets_what_comes_later(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    client = program(kind)
    client.connect(cluster, unique, at)
    client.publish(unique, 3)
    client.call("subscribe", sub="new", channel=unique, start="new")
    client.publish(unique, 2, first=4)
    assert texts(client.wait("new", 2)) == numbered(4, 5)


def test_durable_goes_on_where_it_stopped(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    """Unacked messages first, flagged; then what came meanwhile. The start position is ignored."""
    client = program(kind)
    client.connect(cluster, unique, at)
    durable = {"channel": unique, "durable": "dur", "manual": True}
    client.call("subscribe", sub="one", start="all", **durable)
    client.publish(unique, 5)
    client.wait("one", 5)
    for seq in (1, 2):
        client.call("ack", sub="one", seq=seq)
    client.call("close_sub", sub="one")

    client.publish(unique, 3, first=6)
    client.call("subscribe", sub="two", start="sequence", seq=8, **durable)
    messages = client.wait("two", 6)
    assert texts(messages) == numbered(3, 8)
    assert [message.redelivered for message in messages] == [True] * 3 + [False] * 3
    with pytest.raises(ProgramError, match="stan: duplicate durable registration"):
        client.call("subscribe", sub="twice", **durable)
    for seq in range(3, 9):
        client.call("ack", sub="two", seq=seq)
    client.call("close")

    again = program(kind)  # another process, another session of the same client ID
    again.connect(cluster, unique, at)
    again.publish(unique, 1, first=9)
    again.call("subscribe", sub="three", **durable)
    assert texts(again.wait("three", 1)) == ["m9"]
    again.call("unsubscribe", sub="three")  # forgets the durable, so its next life begins anew
    again.call("subscribe", sub="four", start="all", **durable)
    assert texts(again.wait("four", 9)) == numbered(1, 9)


def test_queue_group_shares(cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str) -> None:
    """Members on two nodes get every message once between them, each a fair share."""
    here, there = program(kind), program(kind)
    here.connect(cluster, f"{unique}-here", at)
    there.connect(cluster, f"{unique}-there", next(name for name in cluster.names if name != at))
    for client, sub in ((here, "a"), (here, "b"), (there, "c")):
        client.call("subscribe", sub=sub, channel=unique, queue="workers")
    here.publish(unique, 600, **{"async": True})

    def taken() -> dict[str, list[int]]:
        return {"a": here.seqs("a"), "b": here.seqs("b"), "c": there.seqs("c")}

    until("all messages", lambda: sum(map(len, taken().values())) >= 600)
    shares = taken()
    assert sorted(chain(*shares.values())) == list(range(1, 601))
    assert all(len(share) > 60 for share in shares.values()), {sub: len(got) for sub, got in shares.items()}


def test_durable_queue_group_is_kept(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    """Its cursor outlives its members; any client may join it again. The last unsubscribe ends it."""
    group = {"channel": unique, "queue": "workers", "durable": "dur"}
    first = program(kind)
    first.connect(cluster, f"{unique}-1", at)
    first.call("subscribe", sub="a", start="all", **group)
    first.publish(unique, 3)
    first.wait("a", 3)
    wait_acked(cluster, at, unique)
    first.call("close")

    second = program(kind)
    second.connect(cluster, f"{unique}-2", at)
    second.publish(unique, 2, first=4)
    second.call("subscribe", sub="b", start="all", **group)
    assert texts(second.wait("b", 2)) == numbered(4, 5)
    second.call("unsubscribe", sub="b")
    second.call("subscribe", sub="c", start="all", **group)
    assert texts(second.wait("c", 5)) == numbered(1, 5)


def test_redelivery_after_ack_wait(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    """What isn't acked comes again, flagged, after the AckWait; max in flight holds back the rest."""
    client = program(kind)
    client.connect(cluster, unique, at)
    client.call("subscribe", sub="s", channel=unique, manual=True, ack_wait_s=1, max_in_flight=2)
    client.publish(unique, 3)
    one, two, one_again, two_again = client.wait("s", 4)[:4]
    assert [one.seq, two.seq] == [1, 2]
    assert [one_again.seq, two_again.seq] == [1, 2]
    assert [one.redelivered, two.redelivered, one_again.redelivered, two_again.redelivered] == [
        False,
        False,
        True,
        True,
    ]
    assert one_again.count in (1, None)
    assert one_again.at_s - one.at_s > 0.8
    client.call("ack", sub="s", seq=1)
    client.wait_for("the third message", lambda: 3 in client.seqs("s"))
    for seq in (2, 3):
        client.call("ack", sub="s", seq=seq)
    wait_acked(cluster, at, unique)


def test_client_id_is_taken_once(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    """While its owner lives a client ID is refused; a dead owner is replaced."""
    first, second = program(kind), program(kind)
    first.connect(cluster, unique, at)
    with pytest.raises(ProgramError, match="stan: clientID already registered"):
        second.connect(cluster, unique, at)
    first.publish(unique, 1)
    first.kill()
    third = program(kind)
    third.connect(cluster, unique, at)
    third.publish(unique, 1, first=2)


def test_replaced_client_is_told(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    """A client that was silent while another took its ID learns so from its next ping."""
    first, second = program(kind), program(kind)
    first.connect(cluster, unique, at, ping_s=1, ping_max=30)
    first.signal(signal.SIGSTOP)
    second.connect(cluster, unique, at)
    first.signal(signal.SIGCONT)
    first.wait_for("to be told", lambda: first.lost)
    assert "client has been replaced or is no longer registered" in first.lost[0]
    second.publish(unique, 1)


def test_refusals_reach_the_application(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    client = program(kind)
    with pytest.raises(ProgramError, match="stan: invalid clientID: only alphanumeric and"):
        client.connect(cluster, f"{unique}.dotted", at)
    client = program(kind)
    client.connect(cluster, unique, at)
    with pytest.raises(ProgramError, match="stan: invalid subject"):
        client.call("subscribe", sub="s", channel="some..where")
    with pytest.raises(ProgramError, match="can't contain the character ':'"):
        client.call("subscribe", sub="s", channel=unique, queue="q", durable="a:b")
    answer = client.call("publish", channel="up/down", prefix="m", first=1, count=1)
    [[_, error]] = answer["failed"]
    assert error.endswith("stan: invalid publish request")
    client.publish(unique, 1)


def test_another_cluster_id_is_not_answered(
    cluster: Cluster, kind: str, at: str, program: MakeProgram, unique: str
) -> None:
    client = program(kind)
    with pytest.raises(ProgramError):
        client.call("connect", urls=cluster.url(at), cluster="another-cluster", client=unique, timeout_ms=500)
