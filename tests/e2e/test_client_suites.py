"""What the clients' own tests try, against `nats-streaming-server`, started as they start theirs.

Their packages come without the tests, so the scenarios are written anew and named as there: those of
asyncio-nats-streaming and node-nats-streaming in ``clients/suite_*``, in their own languages; those of
stan.go (by its stand-in) and of libnats, which has the same ones, here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import MakeCluster, MakeProgram
from e2e.harness import STANCHION, Child, until
from e2e.ports import Guard, Ports
from e2e.programs import FOLDER, HERE, Program, ProgramError, command
from e2e.wire import Wire

from node.protocol import nats, streaming

CLUSTER = "test-cluster"
SUITE_S = 90.0

pytestmark = pytest.mark.slow


class Server:
    """One process of ``nats-streaming-server``, in memory."""

    def __init__(self, folder: Path, guard: Guard, ports: Ports, *flags: str) -> None:
        self.port, self.http = ports.take(), ports.take()
        self._command = [str(STANCHION.with_name("nats-streaming-server"))]
        self._command += ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.http), *flags]
        self._log = folder / f"server-{self.port}.log"
        self._guard = guard
        self.start()

    def start(self) -> None:
        self.child = Child("server", self._command, self._log, self._guard)
        until("the server", lambda: "Streaming Server is ready" in self._log.read_text())

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def page(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
        connection.request("GET", path)
        body = connection.getresponse().read()
        connection.close()
        return json.loads(body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, guard: Guard, ports: Ports) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), guard, ports)
    yield server
    server.child.end()


@pytest.fixture
def own_server(tmp_path: Path, guard: Guard, ports: Ports) -> Iterator[Callable[..., Server]]:
    """A server with flags of its own, or to be hurt."""
    started: list[Server] = []

    def start(*flags: str) -> Server:
        started.append(Server(tmp_path, guard, ports, *flags))
        return started[-1]

    yield start
    for server in started:
        server.child.signal(signal.SIGCONT)
        server.child.end()


def needs(kind: str) -> None:
    if command(kind) is None:
        text = f"the {kind} client is not installed: make clients"
        pytest.fail(text) if os.environ.get("STANCHION_REQUIRE_CLIENTS") else pytest.skip(text)


def run_suite(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=SUITE_S,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- asyncio-nats-streaming, node-nats-streaming ------------------------------------------------------


def test_suite_of_the_python_client(server: Server) -> None:
    """CLI-02. Its client_test.py, test_reconnect_without_graceful_close included."""
    needs("python")
    said = run_suite([str(FOLDER / "python/bin/python"), str(HERE / "clients/suite_py.py"), server.url], {})
    assert "Ran 16 tests" in said


def test_suite_of_the_node_client(server: Server) -> None:
    """CLI-03. Its basics, stan_connect and connect."""
    needs("node")
    words = ["node", str(HERE / "clients/suite_node.js"), str(server.port)]
    said = run_suite(words, {"NODE_PATH": str(FOLDER / "node/node_modules")})
    assert len(re.findall("^ok ", said, re.MULTILINE)) == 31


class TestConnectionLost:
    """CLI-04. node-nats-streaming's stan_connection_lost; nodes of ours stand for its NATS servers."""

    @pytest.fixture
    def client(self, program: MakeProgram) -> Program:
        needs("node")
        return program("node")

    def test_if_the_server_goes_away(self, make_cluster: MakeCluster, client: Program) -> None:
        """The client's node lives, but nobody there can answer pings."""
        cluster = make_cluster()
        cluster.start()
        cluster.wait_ready()
        client.connect(cluster, "me", "n1", ping_s=1, ping_max=2)
        for name in ("n2", "n3"):
            cluster.kill(name)
        client.wait_for("to be lost", lambda: client.lost)
        assert "PING failure" in client.lost[0]

    def test_if_the_server_cycles_and_loses_state(
        self, own_server: Callable[..., Server], client: Program
    ) -> None:
        server = own_server()
        connect(client, server, "me", ping_s=1, ping_max=3)
        server.child.end()
        server.start()
        client.wait_for("to be lost", lambda: client.lost)
        assert "client has been replaced or is no longer registered" in client.lost[0]

    def test_when_replaced(self, make_cluster: MakeCluster, client: Program, program: MakeProgram) -> None:
        """While its node was away another took its ID at the next node."""
        cluster = make_cluster()
        cluster.start()
        cluster.wait_ready()
        only = {"urls": cluster.url("n1"), "cluster": CLUSTER, "client": "me"}
        client.call("connect", **only, ping_s=1, ping_max=10)
        client.signal(signal.SIGSTOP)  # else it would go on at a node that it has learnt of
        cluster.kill("n1")
        second = program("node")
        second.connect(cluster, "me", "n2", ping_s=1, ping_max=10)
        cluster.start("n1")
        cluster.wait_ready()
        client.signal(signal.SIGCONT)
        answer = client.call("publish", channel="hello", prefix="w", first=1, count=1)
        assert answer["failed"]
        client.wait_for("to be lost", lambda: client.lost)
        assert "client has been replaced or is no longer registered" in client.lost[0]
        second.publish("hello", 1)
        assert not second.lost


# --- stan.go, libnats -------------------------------------------------------------------------------


@pytest.fixture(params=["go", "c"])
def new_client(
    request: pytest.FixtureRequest, program: MakeProgram, server: Server, unique: str
) -> Callable[..., Program]:
    """A connected client of stan.go's stand-in or of libnats: ``new_client("name")``."""
    needs(request.param)

    def start(name: str = "client", at: Server = server, **members: Any) -> Program:
        client = program(request.param)
        connect(client, at, f"{request.param}-{unique}-{name}", **members)
        return client

    return start


NewClient = Callable[..., Program]


def connect(client: Program, server: Server, name: str, **members: Any) -> None:
    client.call("connect", urls=server.url, cluster=CLUSTER, client=name, **members)


class TestStan:
    """CLI-01, CLI-05. stan.go's stan_test.go and nats.c's streaming tests, where they need a server."""

    def test_unreachable(self, new_client: NewClient, program: MakeProgram, server: Server) -> None:
        kind = new_client().kind
        with pytest.raises(ProgramError):
            program(kind).call("connect", urls=server.url, cluster="nobody", client="me", timeout_ms=250)

    def test_basic_publish(self, new_client: NewClient, unique: str) -> None:
        client = new_client()
        client.publish(unique, 3)
        client.publish(unique, 3, first=4, **{"async": True})

    def test_basic_pub_sub(self, new_client: NewClient, unique: str) -> None:
        """Five hundred, each once, with sequence and timestamp; also held to 25 in flight (flow control)."""
        client = new_client()
        client.call("subscribe", sub="s", channel=unique)
        client.call("subscribe", sub="flow", channel=unique, max_in_flight=25)
        client.publish(unique, 500)
        for sub in ("s", "flow"):
            messages = client.wait(sub, 500)
            assert [message.seq for message in messages] == list(range(1, 501))
            assert all(message.ts for message in messages)

    def test_basic_pub_queue_sub(self, new_client: NewClient, unique: str) -> None:
        client = new_client()
        client.call("subscribe", sub="s", channel=unique, queue="bar")
        client.publish(unique, 100)
        assert [message.seq for message in client.wait("s", 100)] == list(range(1, 101))

    def test_subscription_start_at(self, new_client: NewClient, unique: str) -> None:
        """StartPositionLast, AtSequence, AtTime, AtTimeDelta, AtFirst; AtWithEmptyStore."""
        client = new_client()
        starts: dict[str, dict[str, Any]] = {
            "last": {"start": "last"},
            "sequence": {"start": "sequence", "seq": 6},
            "long-ago": {"start": "time", "time_ms": 1_000_000},
            "delta": {"start": "delta", "delta_ms": 60_000},
            "first": {"start": "all"},
        }
        for name, start in starts.items():  # an empty channel
            client.call("subscribe", sub=f"empty-{name}", channel=unique, **start)
        client.publish(unique, 10)
        for name, start in starts.items():
            client.call("subscribe", sub=name, channel=unique, **start)
        expected = {"last": 10, "sequence": 6, "long-ago": 1, "delta": 1, "first": 1}
        for name, first in expected.items():
            assert [message.seq for message in client.wait(name, 11 - first)] == list(range(first, 11))
            assert [message.seq for message in client.wait(f"empty-{name}", 10)] == list(range(1, 11))

    def test_unsubscribe(self, new_client: NewClient, unique: str) -> None:
        client = new_client()
        for sub in ("one", "two"):
            client.call("subscribe", sub=sub, channel=unique)
        client.publish(unique, 50)
        client.wait("one", 50)
        client.call("unsubscribe", sub="one")
        client.publish(unique, 50, first=51)
        client.wait("two", 100)
        assert len(client.of("one")) == 50

    def test_dup_client_id(self, new_client: NewClient) -> None:
        new_client()
        with pytest.raises(ProgramError, match="stan: clientID already registered"):
            new_client()

    def test_close(self, new_client: NewClient, unique: str) -> None:
        """What was registered is gone: the ID is free, and nothing is delivered to it."""
        client = new_client()
        client.call("subscribe", sub="s", channel=unique)
        client.call("close")
        again = new_client()
        again.publish(unique, 1)
        assert client.of("s") == []

    def test_manual_ack(self, new_client: NewClient, unique: str) -> None:
        """Ten in flight until they are acknowledged."""
        client = new_client()
        client.call("subscribe", sub="s", channel=unique, manual=True, max_in_flight=10, ack_wait_s=30)
        client.publish(unique, 100)
        client.wait("s", 10)
        assert len(client.of("s")) == 10
        for seq in range(1, 101):
            client.wait("s", seq)
            client.call("ack", sub="s", seq=seq)
        assert client.seqs("s") == list(range(1, 101))

    def test_redelivery_and_its_flag(self, new_client: NewClient, unique: str) -> None:
        """Every second message is acknowledged; the others come again after a second, and say so."""
        client = new_client()
        client.call("subscribe", sub="s", channel=unique, manual=True, ack_wait_s=1)
        client.publish(unique, 100)
        client.wait("s", 100)
        for seq in range(2, 101, 2):
            client.call("ack", sub="s", seq=seq)
        messages = client.wait("s", 150)[:150]
        assert not any(message.redelivered for message in messages[:100])
        assert [message.seq for message in messages[100:]] == list(range(1, 101, 2))
        assert all(message.redelivered for message in messages[100:])

    def test_no_duplicates_on_subscriber_start(self, new_client: NewClient, unique: str) -> None:
        """Subscriptions made while it is published get each message once, in order."""
        client, other = new_client(), new_client("other")
        publishing = client.begin(
            "publish", channel=unique, prefix="m", first=1, count=2000, **{"async": True}
        )
        for number in range(5):
            other.call("subscribe", sub=f"s{number}", channel=unique, start="all")
        assert len(client.finish(publishing)["acked"]) == 2000
        for number in range(5):
            assert [message.seq for message in other.wait(f"s{number}", 2000)] == list(range(1, 2001))

    def test_durable_subscriber(self, new_client: NewClient, unique: str) -> None:
        """Another process goes on behind what was acknowledged; a second one at a time is refused."""
        client = new_client()
        durable = {"channel": unique, "durable": "durable-foo", "start": "all", "manual": True}
        client.call("subscribe", sub="s", **durable)
        client.publish(unique, 10)
        client.wait("s", 10)
        for seq in range(1, 6):
            client.call("ack", sub="s", seq=seq)
        with pytest.raises(ProgramError, match="stan: duplicate durable registration"):
            client.call("subscribe", sub="twice", **durable)
        client.call("close")
        again = new_client()
        again.call("subscribe", sub="s", **durable)
        assert [message.seq for message in again.wait("s", 5)] == [6, 7, 8, 9, 10]

    def test_subscriber_close(self, new_client: NewClient, unique: str) -> None:
        """Plain, durable, queue, durable queue: closed it gets nothing; only the durable ones go on."""
        client = new_client()
        kinds: dict[str, dict[str, str]] = {
            "plain": {},
            "durable": {"durable": "dur"},
            "queue": {"queue": "group"},
            "durable-queue": {"queue": "group", "durable": "dur"},
        }
        for name, members in kinds.items():
            client.call("subscribe", sub=name, channel=unique, **members)
        client.publish(unique, 1)
        for name in kinds:
            client.wait(name, 1)
        for name in kinds:
            client.call("close_sub", sub=name)
        client.publish(unique, 1, first=2)
        for name, members in kinds.items():
            client.call("subscribe", sub=f"{name}-again", channel=unique, **members)
        client.publish(unique, 1, first=3)
        for name in kinds:
            expected = [2, 3] if "durable" in name else [3]
            assert [message.seq for message in client.wait(f"{name}-again", len(expected))] == expected
            assert client.seqs(name) == [1]

    def test_max_channels(self, new_client: NewClient, own_server: Callable[..., Server]) -> None:
        client = new_client(at=own_server("-mc", "5"))
        for number in range(5):
            client.publish(f"c{number}", 1)
        [[_, error]] = client.call("publish", channel="c5", prefix="m", first=1, count=1)["failed"]
        assert error.endswith("too many channels")  # libnats says where in its sources it was told

    def test_pings(self, new_client: NewClient, own_server: Callable[..., Server]) -> None:
        """The server is gone: the session is lost when so many pings have had no answer."""
        server = own_server()
        client = new_client(at=server, ping_s=1, ping_max=3)
        server.child.end()
        client.wait_for("to be lost", lambda: client.lost)
        assert "PING failure" in client.lost[0]

    def test_pub_fails_on_client_replaced(self, new_client: NewClient, unique: str) -> None:
        """Its next publish is refused; and its next ping ends its session (PingsResponseError)."""
        first = new_client()
        first.signal(signal.SIGSTOP)
        second = new_client()
        first.signal(signal.SIGCONT)
        [[_, error]] = first.call("publish", channel=unique, prefix="m", first=1, count=1)["failed"]
        assert error.endswith(
            ("stan: invalid publish request", "client has been replaced or is no longer registered")
        )
        first.wait_for("to be lost", lambda: first.lost)
        assert "client has been replaced or is no longer registered" in first.lost[0]
        second.publish(unique, 1)

    def test_client_id_and_conn_id_in_pub_msg(
        self, new_client: NewClient, server: Server, unique: str
    ) -> None:
        """What is published can be overheard, by who may, with both names of its client."""
        client = new_client()
        with Wire(server.port) as wire:
            wire.hello()
            wire.send(nats.sub(f"_STAN.pub.{CLUSTER}.{unique}".encode(), b"", b"1"))
            assert wire.answers()
            client.publish(unique, 1)
            message = streaming.decode_publish(wire.message())
        assert message.client_id.startswith(client.kind)
        assert len(message.conn_id) == 22
        assert (message.channel, message.data) == (unique, b"m1")

    def test_sub_timeout(self, new_client: NewClient, own_server: Callable[..., Server], unique: str) -> None:
        """A subscription whose answer came too late is closed by the client, and there is none in the end."""
        server = own_server()
        client = new_client(at=server)
        client.publish(unique, 1)
        server.child.signal(signal.SIGSTOP)
        with pytest.raises(ProgramError):
            client.call("subscribe", sub="s", channel=unique)
        server.child.signal(signal.SIGCONT)
        client.publish(unique, 1, first=2)  # behind the close on its connection
        until(
            "no subscription",
            lambda: (
                server.page(f"/streaming/channelsz?channel={unique}&subs=1").get("subscriptions", []) == []
            ),
        )
        client.call("subscribe", sub="s", channel=unique, start="all")
        assert client.wait("s", 2)[-1].data == "m2"
