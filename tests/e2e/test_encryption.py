"""Encryption at rest: what a disk tells whoever finds it, and that nodes get along with it."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import Cluster, until
from e2e.load import replay

from node.client.streaming import Message, connect
from node.protocol.positions import StartPosition

SETTINGS: dict[str, Any] = {
    "raft": {"journal_segment": 64 * 1024, "trailing_logs": 10},
    "store": {
        "dir": "data/{node}",
        "checkpoint_interval": "50ms",
        "encryption": {"key_file": "key"},
    },
}
CHANNEL, CLIENT, DURABLE = "audit.of.accounts", "teller-at-the-counter", "the-ledger"

pytestmark = pytest.mark.slow


def payload(number: int) -> bytes:
    return b"%08d the payload " % number + b"secret " * 300


async def publish(cluster: Cluster, first: int, count: int) -> int:
    """Publish numbered messages. Returns the last number."""
    servers = [cluster.address(name) for name in cluster.running]
    async with connect(servers, cluster.cluster_id, f"{CLIENT}-publishes") as client:
        for number in range(first, first + count):
            await client.publish(CHANNEL, payload(number))
    return first + count - 1


async def subscribe(cluster: Cluster) -> None:
    """Leave a durable behind that has read one message and not acknowledged the next."""
    async with connect(cluster.addresses(), cluster.cluster_id, CLIENT) as client:
        seen = trio.Event()

        def take(_message: Message) -> None:
            seen.set()

        await client.subscribe(CHANNEL, take, durable=DURABLE, start=StartPosition.FIRST)
        with trio.fail_after(10):
            await seen.wait()


def check(cluster: Cluster, last: int) -> None:
    """Every node tells a client every message."""
    cluster.wait_same(CHANNEL)
    for name in cluster.running:
        told = trio.run(replay, cluster.address(name), cluster.cluster_id, f"reads-{name}", CHANNEL, last)
        assert told == [(number, payload(number)) for number in range(1, last + 1)]


def check_disks(cluster: Cluster, *phrases: str) -> None:
    """CFG-07: nothing of what clients said, nor who they are, nor a pass phrase, is in any file."""
    words = [b"the payload", b"secret secret", CHANNEL.encode(), CLIENT.encode(), DURABLE.encode(), b"_INBOX"]
    words += [phrase.encode() for phrase in phrases]
    files = [path for name in cluster.names for path in cluster.data(name).rglob("*") if path.is_file()]
    assert len(files) > 4 * len(cluster.names)
    for path in files:
        content = path.read_bytes()
        for word in words:
            assert word not in content, f"{word!r} is in {path}"
    for name in cluster.names:
        for phrase in phrases:
            assert phrase not in cluster.log(name).read_text()


def give(cluster: Cluster, name: str, phrase: str) -> None:
    (cluster.folder / name).write_text(phrase + "\n")


def configure(cluster: Cluster, **encryption: Any) -> None:
    """From the next start on."""
    document = json.loads(cluster.config.read_text())
    document["store"]["encryption"] = encryption
    cluster.config.write_text(json.dumps(document, indent=2))


def refused(cluster: Cluster, name: str) -> str:
    """What a node that must not start says."""
    before = cluster.log(name).stat().st_size
    cluster.start(name)
    assert cluster.children[name].wait(10) == 2
    return cluster.log(name).read_text()[before:]


def test_a_disk_tells_nothing_and_opens_with_its_key_only(make_cluster: MakeCluster) -> None:
    """CFG-07: after kill -9 too; with another key, or with none, a node says so and touches nothing."""
    cluster = make_cluster(size=1, settings=SETTINGS)
    give(cluster, "key", "correct horse battery staple")
    cluster.start()
    cluster.wait_ready()
    last = trio.run(publish, cluster, 1, 100)
    trio.run(subscribe, cluster)
    cluster.kill("n1")
    check_disks(cluster, "correct horse battery staple")
    before = shutil.copytree(cluster.data("n1"), cluster.folder / "before")

    give(cluster, "key", "a guess")
    assert "not the one that this directory is encrypted with" in refused(cluster, "n1")
    document = json.loads(cluster.config.read_text())
    encryption = document["store"].pop("encryption")
    cluster.config.write_text(json.dumps(document))
    assert "this directory is encrypted" in refused(cluster, "n1")
    for path in before.rglob("*"):
        if path.is_file() and path.name not in {"lock", "lock.mdb"}:
            assert path.read_bytes() == (cluster.data("n1") / path.relative_to(before)).read_bytes(), path

    configure(cluster, **encryption)
    give(cluster, "key", "correct horse battery staple")
    cluster.start()
    cluster.wait_ready()
    last = trio.run(publish, cluster, last + 1, 20)
    check(cluster, last)
    assert cluster.channel("n1", CHANNEL)["subscriptions"][0]["is_offline"]


def test_a_snapshot_and_a_changed_pass_phrase(make_cluster: MakeCluster) -> None:
    """Each directory has keys of its own; a node that was away is sent another's store and reads it."""
    cluster = make_cluster(settings=SETTINGS)
    give(cluster, "key", "the first phrase")
    give(cluster, "next", "the second phrase")
    cluster.start()
    cluster.wait_ready()
    last = trio.run(publish, cluster, 1, 20)
    away = cluster.follower()
    behind = cluster.page(away, "/raftz")["last_index"]
    cluster.kill(away)
    others = cluster.running

    def are_trimmed() -> bool:
        """Neither of the others still has what the third needs."""
        return all(cluster.page(name, "/raftz")["first_index"] > behind + 1 for name in others)

    while not are_trimmed():
        last = trio.run(publish, cluster, last + 1, 50)
    # It comes back with another pass phrase than the others have; it still knows theirs.
    configure(cluster, key_file="next", previous_keys=[{"key_file": "key"}])
    cluster.start(away)
    until("the snapshot", lambda: "installed a snapshot" in cluster.log(away).read_text())
    cluster.wait_ready()
    for name in others:  # the others follow, one after the other
        cluster.kill(name)
        cluster.start(name)
        cluster.wait_ready()
    last = trio.run(publish, cluster, last + 1, 20)
    for name in cluster.names:
        cluster.kill(name)
    configure(cluster, key_file="next")  # and the old one is forgotten
    cluster.start()
    cluster.wait_ready()
    last = trio.run(publish, cluster, last + 1, 20)
    check(cluster, last)
    for name in cluster.names:
        cluster.kill(name)
    check_disks(cluster, "the first phrase", "the second phrase")
    configure(cluster, key_file="key")
    assert "not the one that this directory is encrypted with" in refused(cluster, away)
