"""A node without a leader: core NATS goes on, streaming requests are refused at once, and refused means not
stored."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from e2e.conftest import MakeCluster, MakeProgram
from e2e.harness import STANCHION, Cluster, until
from e2e.load import replay
from e2e.ports import Ports
from e2e.programs import Program, ProgramError
from e2e.relay import Island
from e2e.wire import Wire

from node.core import refusals
from node.protocol import nats, streaming

pytestmark = pytest.mark.slow

PATIENCE_S = 1.0
"""After so long without an answer an impatient client publishes again."""
CORE_S = 8.0
"""Beyond the 5 s after which a node without a leader tells its clients."""


@pytest.fixture(params=["leader", "follower"])
def survivor(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """The node that will be left, which led before or didn't."""
    return cluster.leader() if request.param == "leader" else cluster.follower()


def others(cluster: Cluster, name: str) -> list[str]:
    return [other for other in cluster.names if other != name]


def open_wire(cluster: Cluster, name: str) -> Wire:
    wire = Wire(cluster.ports[name]["client"])
    wire.hello()
    return wire


def refused_connect(wire: Wire, client_id: str) -> str:
    """The error of a request to connect; "" if it was accepted."""
    return wire.register(client_id).error


def test_core_nats_goes_on_without_a_majority(cluster: Cluster, survivor: str, unique: str) -> None:
    """R25. Request and reply between two clients of the node that is left, and new ones are taken."""
    with open_wire(cluster, survivor) as asking, open_wire(cluster, survivor) as serving:
        assert not asking.register(f"{unique}-before").error
        served = f"{unique}.service".encode()
        serving.send(nats.sub(served, b"", b"1"))
        assert serving.answers()
        for name in others(cluster, survivor):
            cluster.kill(name)
        ends_s = time.monotonic() + CORE_S
        asked = 0
        while time.monotonic() < ends_s:
            inbox = f"{unique}.answer.{asked}".encode()
            asking.send(nats.sub(inbox, b"", b"2") + nats.pub(served, inbox, b"?"))
            reply = serving.line().split(b" ")[3]
            assert serving.payload(1) == b"?"
            serving.send(nats.pub(reply, b"", b"!"))
            assert asking.message() == b"!"
            asking.send(nats.unsub(b"2", None))
            asked += 1
            time.sleep(0.02)
        assert asked > 50
        with open_wire(cluster, survivor) as late:
            assert json.loads(late.info.partition(b" ")[2])["ldm"] is True
            assert refused_connect(late, f"{unique}-late") == refusals.NO_LEADER
            assert late.answers()
    cluster.heal()
    with open_wire(cluster, survivor) as again:
        until("INFO without lame duck mode", lambda: not lame_duck(cluster, survivor))
        assert not refused_connect(again, f"{unique}-again")


def lame_duck(cluster: Cluster, name: str) -> bool:
    with Wire(cluster.ports[name]["client"]) as wire:
        return bool(json.loads(wire.info.partition(b" ")[2]).get("ldm"))


def test_status_and_reads_are_answered_without_a_majority(
    cluster: Cluster, survivor: str, unique: str
) -> None:
    """Pages, `stanchion status` and operators' reads; what would change something is refused at once."""
    with open_wire(cluster, survivor) as wire:
        assert not wire.register(unique).error
        publish(wire, unique, unique, b"stored")
    for name in others(cluster, survivor):
        cluster.kill(name)
    time.sleep(CORE_S)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(STANCHION), *words], capture_output=True, text=True, timeout=30, check=False
        )

    at = ("--server", cluster.address(survivor), "--cluster", cluster.cluster_id)
    assert cluster.get(survivor, "/healthz")[0] == 503
    assert cluster.channel(survivor, unique)["msgs"] == 1
    assert survivor in run("status", "--config", str(cluster.config)).stdout
    listed = run("channel", "ls", *at)
    assert listed.returncode == 0, listed.stderr
    assert unique in listed.stdout
    peeked = run("channel", "peek", unique, *at)
    assert peeked.returncode == 0, peeked.stderr
    assert "stored" in peeked.stdout
    began_s = time.monotonic()
    purged = run("channel", "purge", unique, *at)
    assert purged.returncode == 1, purged.stdout + purged.stderr
    assert "no leader" in purged.stderr
    assert time.monotonic() - began_s < 5


def test_streaming_clients_are_told_at_once(
    cluster: Cluster, kind: str, program: MakeProgram, unique: str
) -> None:
    """A publish without a majority is refused within a second; the same session goes on when there is one."""
    survivor = cluster.follower()
    client = program(kind)
    client.call(
        "connect", urls=cluster.url(survivor), cluster=cluster.cluster_id, client=unique, ack_timeout_ms=30000
    )
    client.publish(unique, 1, prefix="before")
    logged = cluster.log_from_now(survivor)
    for name in others(cluster, survivor):
        cluster.kill(name)
    until("requests to be refused", lambda: "refusing streaming requests" in logged())
    began_s = time.monotonic()
    answer = client.call("publish", channel=unique, prefix="during", first=1, count=3)
    assert time.monotonic() - began_s < 2
    assert [n for n, _ in answer["failed"]] == [1, 2, 3]
    assert all("no leader" in text for _, text in answer["failed"])
    with pytest.raises(ProgramError, match="no leader"):
        client.call("subscribe", sub="s", channel=unique)
    cluster.heal()
    client.publish(unique, 1, prefix="after")
    client.call("subscribe", sub="s", channel=unique, start="all")
    assert [message.data for message in client.wait("s", 2)] == ["before1", "after1"]


def publish(wire: Wire, client_id: str, channel: str, data: bytes) -> str:
    """Publish and wait for the answer: its error."""
    request = streaming.PublishRequest(client_id, data.decode(), channel, "", data, client_id.encode())
    answer = wire.ask(f"_STAN.pub.test-cluster.{channel}", streaming.encode_publish(request))
    return streaming.decode_pub_ack(answer).error


class Impatient(threading.Thread):
    """A client that publishes a message again, as another, when it was refused or not answered for a second.

    Each attempt says which it is, so that what was stored can be compared with what was answered.
    """

    def __init__(self, cluster: Cluster, name: str, client_id: str, channel: str) -> None:
        super().__init__(daemon=True)
        self._wire = open_wire(cluster, name)
        self._wire.socket.settimeout(PATIENCE_S)
        self._client_id, self._channel = client_id, channel
        inbox = f"_INBOX.{client_id}.acks"
        self._inbox = inbox.encode()
        assert not self._wire.register(client_id).error
        self._wire.send(nats.sub(self._inbox, b"", b"acks"))
        self._stopped = threading.Event()
        self.answers: dict[str, str] = {}
        """By attempt: the error it was answered, "" if it was stored."""
        self.attempts: dict[int, list[str]] = {}
        """By message."""
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self._stopped.is_set():
                    return
                self._publish(number)
        except BaseException as error:  # told to the test, which fails by it
            self.failure = error

    def _publish(self, number: int) -> None:
        subject = f"_STAN.pub.test-cluster.{self._channel}".encode()
        attempts = self.attempts.setdefault(number, [])
        while not self._stopped.is_set():
            guid = f"{self._client_id}.{number}.{len(attempts)}"
            attempts.append(guid)
            request = streaming.PublishRequest(
                self._client_id, guid, self._channel, "", guid.encode(), self._client_id.encode()
            )
            self._wire.send(nats.pub(subject, self._inbox, streaming.encode_publish(request)))
            with suppress(TimeoutError):
                while guid not in self.answers:
                    ack = streaming.decode_pub_ack(self._wire.message())
                    self.answers[ack.guid] = ack.error
            if not self.answers.get(guid, "unanswered"):
                return
            self._stopped.wait(0.05)

    def stop(self) -> None:
        self._stopped.set()
        self.join(30)
        assert self.failure is None, repr(self.failure)
        self._wire.socket.close()


@pytest.mark.parametrize("round_", range(4))
def test_refused_publishes_are_never_stored(
    cluster: Cluster, survivor: str, unique: str, round_: int
) -> None:
    """Two of three nodes are killed under impatient publishers, and come back: no retry is stored twice.

    Only what was under way at the kill, one publish a client, has an outcome that its client didn't learn in
    time.
    """
    clients = [Impatient(cluster, survivor, f"{unique}-{number}", unique) for number in range(8)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    for name in others(cluster, survivor):
        cluster.kill(name)
    time.sleep(6.5)
    cluster.heal()
    time.sleep(1)
    for client in clients:
        client.stop()
    last = cluster.wait_same(unique)["last_seq"]
    told = trio.run(replay, cluster.address(survivor), cluster.cluster_id, f"{unique}-reader", unique, last)
    stored = [data.decode() for _, data in told]
    assert len(stored) == len(set(stored))
    refused = {guid for client in clients for guid, error in client.answers.items() if error}
    accepted = {guid for client in clients for guid, error in client.answers.items() if not error}
    assert len(refused) > 8 * 20, "retries were refused at once"
    assert not refused & set(stored), "what was refused was stored"
    assert accepted <= set(stored), "what was acknowledged is missing"
    twice = [
        attempts
        for client in clients
        for attempts in client.attempts.values()
        if len(set(attempts) & set(stored)) > 1
    ]
    assert len(twice) <= len(clients), twice
    for attempts in twice:
        assert attempts[0] in stored, f"a retry was stored twice: {attempts}"


@pytest.fixture
def islanded(make_cluster: MakeCluster, ports: Ports) -> Iterator[tuple[Cluster, Island]]:
    """A cluster whose n3 can be cut off from the others, but not from its clients."""
    cluster = make_cluster()
    island = Island(cluster, ports, "n3")
    cluster.start()
    cluster.wait_ready()
    yield cluster, island
    island.close()


def test_streaming_clients_of_a_node_that_is_cut_off_move_to_the_others(
    islanded: tuple[Cluster, Island], kind: str, program: MakeProgram, unique: str
) -> None:
    """The others have a leader: a streaming client goes there by itself; a core client stays, undisturbed."""
    cluster, island = islanded
    client = program(kind)
    client.connect(cluster, unique, "n3", ack_timeout_ms=3000)  # what it sends as it is sent away is lost
    client.publish(unique, 1)
    with open_wire(cluster, "n3") as core:
        island.cut()
        sent_away = "sending 1 streaming clients"
        until("streaming clients to be sent away", lambda: sent_away in cluster.tail("n3"))
        until("the client to be served", lambda: _publishes(client, unique), 30)
        core.send(nats.sub(b"here", b"", b"1") + nats.pub(b"here", b"", b"still"))
        assert received(core) == b"still", "its connection was left alone"
    assert not client.lost


def _publishes(client: Program, channel: str) -> bool:
    return client.call("publish", channel=channel, prefix="moved", first=1, count=1)["failed"] == []


def test_a_node_that_starts_without_a_majority_serves_core_nats(make_cluster: MakeCluster) -> None:
    """It has not caught up, and may never: its clients are not kept waiting for that."""
    cluster = make_cluster()
    cluster.start()
    cluster.wait_ready()
    for name in cluster.names:
        cluster.kill(name)
    cluster.start("n1")
    with until("n1 to take connections", lambda: _wire(cluster, "n1")) as wire:
        wire.socket.settimeout(20)
        wire.hello()
        wire.send(nats.sub(b"a", b"", b"own") + nats.pub(b"a", b"", b"heard"))
        assert received(wire) == b"heard"
        assert refused_connect(wire, "me") == refusals.NO_LEADER
        cluster.start()
        cluster.wait_ready()
        assert not refused_connect(wire, "me")


def _wire(cluster: Cluster, name: str) -> Wire | None:
    with suppress(OSError):
        return Wire(cluster.ports[name]["client"])
    return None


def received(wire: Wire) -> bytes:
    """The next message; INFO lines between are passed over."""
    while (message := wire.message()).startswith(b"INFO"):
        pass
    return message
