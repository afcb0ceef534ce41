"""Four clients by other people on shared channels and in shared queue groups, while nodes are killed.

asyncio-nats-streaming, node-nats-streaming, libnats, and what stan.go says, at the same time in one cluster.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable

import pytest
from e2e.conftest import MakeProgram
from e2e.harness import Cluster, until
from e2e.programs import KINDS, Program, Received, command

RATE = 60  # publishes a second and client
COUNT = 180
ACK_TIMEOUT_MS = 2500
SETTLED_S = 30.0

pytestmark = pytest.mark.slow


@pytest.fixture
def four(program: MakeProgram) -> dict[str, Program]:
    missing = [kind for kind in KINDS if command(kind) is None]
    if missing:
        text = f"not installed: {', '.join(missing)}; make clients"
        if os.environ.get("STANCHION_REQUIRE_CLIENTS"):
            pytest.fail(text)
        pytest.skip(text)
    return {kind: program(kind) for kind in KINDS}


class Publishes:
    """What each client publishes in the background, and what became of it."""

    def __init__(self, four: dict[str, Program], channel: str) -> None:
        self._four = four
        self._channel = channel
        self._begun: dict[str, int] = {}
        self._first = 1
        self.acked: set[str] = set()
        self.failed: dict[str, list[tuple[int, str]]] = {}

    def begin(self) -> None:
        for kind, client in self._four.items():
            self._begun[kind] = client.begin(
                "publish",
                channel=self._channel,
                prefix=f"{kind}-",
                first=self._first,
                count=COUNT,
                rate=RATE,
                **{"async": True},
            )
        self._first += COUNT

    def finish(self) -> None:
        for kind, client in self._four.items():
            answer = client.finish(self._begun[kind], SETTLED_S)
            self.failed[kind] = answer["failed"]
            self.acked |= {f"{kind}-{n}" for n in answer["acked"]}

    def are_seen(self, client: Program, sub: str) -> Callable[[], bool]:
        return lambda: self.acked <= {message.data for message in client.of(sub)}


def check(messages: list[Received]) -> None:
    """No gaps, one message a sequence, one sequence a message, and what comes again says so."""
    first: dict[int, Received] = {}
    for message in messages:
        earlier = first.setdefault(message.seq, message)
        assert message.data == earlier.data
        assert message is earlier or message.redelivered, f"{message.seq} came twice, not flagged"
    assert sorted(first) == list(range(1, len(first) + 1))
    assert len({message.data for message in first.values()}) == len(first), "stored twice"


def in_order(groups: list[list[Received]]) -> list[Received]:
    return sorted((message for group in groups for message in group), key=lambda message: message.at_s)


def test_four_clients_share_channel_and_groups(
    cluster: Cluster, four: dict[str, Program], unique: str
) -> None:
    """CLI-06. Each hears all and works in a queue group and a durable one; the leader is killed."""
    leader = cluster.leader()
    for number, (kind, client) in enumerate(four.items()):
        node = cluster.names[number % len(cluster.names)]
        client.connect(cluster, f"{unique}-{kind}", node, ack_timeout_ms=ACK_TIMEOUT_MS)
        client.call("subscribe", sub="all", channel=unique, start="all", ack_wait_s=2)
        client.call("subscribe", sub="q", channel=unique, start="all", queue="q", ack_wait_s=2)
        group = {"queue": "q", "durable": "d", "ack_wait_s": 2}
        client.call("subscribe", sub="dq", channel=unique, start="all", **group)
    publishes = Publishes(four, unique)
    publishes.begin()
    four["go"].wait("all", COUNT)
    cluster.kill(leader)
    publishes.finish()
    cluster.start(leader)
    cluster.wait_ready()

    assert len(publishes.acked) >= len(four) * COUNT // 2
    for kind, client in four.items():
        until(f"{kind} to hear all", publishes.are_seen(client, "all"), SETTLED_S)
        check(client.of("all"))
        assert not client.lost
    for sub in ("q", "dq"):

        def seen(sub: str = sub) -> set[str]:
            return {message.data for client in four.values() for message in client.of(sub)}

        until(f"all in group {sub}", lambda: publishes.acked <= seen(), SETTLED_S)
        shares = {kind: client.of(sub) for kind, client in four.items()}
        check(in_order(list(shares.values())))
        assert all(len(share) > COUNT // 8 for share in shares.values()), {
            kind: len(share) for kind, share in shares.items()
        }
    check_same(four)


def check_same(four: dict[str, Program]) -> None:
    """All were told the same message under each sequence."""
    texts: dict[int, set[str]] = defaultdict(set)
    for client in four.values():
        for message in client.of("all"):
            texts[message.seq].add(message.data)
    assert [seq for seq, told in texts.items() if len(told) > 1] == []


def test_four_clients_outlive_their_node_and_the_leader(
    cluster: Cluster, four: dict[str, Program], unique: str
) -> None:
    """CLI-07. All at a node that is killed, then the leader is: one session each, its durable goes on."""
    own = cluster.follower()
    durable = {"channel": unique, "durable": "d", "start": "all", "ack_wait_s": 2}
    for kind, client in four.items():
        client.connect(cluster, f"{unique}-{kind}", own, ack_timeout_ms=ACK_TIMEOUT_MS)
        client.call("subscribe", sub="d", **durable)
    publishes = Publishes(four, unique)
    for victim in (lambda: own, cluster.leader):
        publishes.begin()
        before = len(four["go"].of("d"))
        four["go"].wait("d", before + COUNT)
        name = victim()
        cluster.kill(name)
        publishes.finish()
        for kind, client in four.items():
            until(f"{kind} to hear all", publishes.are_seen(client, "d"), SETTLED_S)
            check(client.of("d"))
            assert not client.lost
        cluster.start(name)
        cluster.wait_ready()

    def is_acked() -> bool:
        subs = cluster.channel(cluster.names[0], unique)["subscriptions"]
        return all(sub["pending_count"] == 0 for sub in subs)

    until("everything acked", is_acked)
    for client in four.values():
        client.call("close_sub", sub="d")
    last = cluster.wait_same(unique)["last_seq"]
    for number, (kind, client) in enumerate(four.items()):
        client.publish(unique, 1, prefix=f"later-{kind}-", first=number)
    for kind, client in four.items():
        client.call("subscribe", sub="again", **durable)
        messages = client.wait("again", len(four))
        assert [message.seq for message in messages] == list(range(last + 1, last + 1 + len(four))), kind
        client.call("close")
