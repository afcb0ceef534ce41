"""Who is let in: nodes by their certificates, clients by their credentials; and nobody hears a secret."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trio
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.load import replay
from e2e.wire import Wire

from node.client.nats import Options
from node.client.streaming import connect
from node.errors import RefusedError
from node.protocol import nats
from node.protocol.peer import encode_frame

pytestmark = pytest.mark.slow

TLS = {"mode": "mtls", "ca": "certs/ca.pem", "cert": "certs/{node}.pem", "key": "certs/{node}.key"}


def make_certificates(action: str, directory: Path, *nodes: str) -> None:
    command = [str(STANCHION), "certs", action, str(directory), "--nodes", ",".join(nodes)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def with_tls(cluster: Cluster) -> Cluster:
    document = json.loads(cluster.config.read_text())
    document["cluster"]["peer_security"] = TLS
    cluster.config.write_text(json.dumps(document))
    return cluster


# --- nodes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``good`` of the cluster's authority, one of them for a node that is no member; ``bad`` of another."""
    directory = tmp_path_factory.mktemp("certificates")
    for kind in ("good", "bad"):
        make_certificates("init", directory / kind, "n1", "n2", "n3")
    make_certificates("issue", directory / "good", "mallory")
    return directory


@pytest.fixture
def secured(make_cluster: MakeCluster, certificates: Path) -> Cluster:
    """Three nodes that know one another by certificates; not yet started."""
    cluster = with_tls(make_cluster())
    shutil.copytree(certificates / "good", cluster.folder / "certs")
    return cluster


async def publish(cluster: Cluster, channel: str, count: int) -> None:
    async with connect(cluster.addresses(), cluster.cluster_id, "publisher") as client:
        for n in range(1, count + 1):
            await client.publish(channel, b"%d" % n)


def test_nodes_with_certificates(secured: Cluster, certificates: Path) -> None:
    """The cluster works and fails over; whoever else comes to its peer ports is sent away with a log line."""
    secured.start()
    secured.wait_ready()
    trio.run(publish, secured, "foo", 50)
    leader = secured.leader()
    secured.kill(leader)
    secured.leader()
    secured.start(leader)
    secured.wait_ready()
    for name in secured.names:
        told = trio.run(replay, secured.address(name), secured.cluster_id, f"r-{name}", "foo", 50)
        assert [seq for seq, _ in told] == list(range(1, 51))
    terms = [secured.page(name, "/raftz")["term"] for name in secured.names]

    for stranger in (plaintext, wrong_authority, no_certificate, old_tls, impostor):
        sees_refusal(secured, "n1", stranger, certificates)
    assert "says it is 'n2', but its certificate is for mallory" in secured.log("n1").read_text()
    assert [secured.page(name, "/raftz")["term"] for name in secured.names] == terms


def sees_refusal(cluster: Cluster, name: str, stranger: Any, certificates: Path) -> None:
    with socket.create_connection(("127.0.0.1", cluster.ports[name]["peer"]), timeout=10) as plain:
        mine = f"127.0.0.1:{plain.getsockname()[1]}"
        with contextlib.suppress(OSError):
            stranger(plain, certificates)
    until(
        f"a line about {mine}, {stranger.__name__}",
        lambda: any(mine in line and " WRN " in line for line in cluster.log(name).read_text().splitlines()),
    )


def plaintext(plain: socket.socket, _certificates: Path) -> None:
    plain.sendall(b"\x00\x00\x00\x10\x01\x92\x00" + bytes(10))
    assert not drain(plain).startswith(b"\x00"), "it answers with a frame"


def wrong_authority(plain: socket.socket, certificates: Path) -> None:
    assert say(b"", plain, certificates / "bad/n2") == b""


def no_certificate(plain: socket.socket, _certificates: Path) -> None:
    assert say(b"", plain, None) == b""


def old_tls(plain: socket.socket, certificates: Path) -> None:
    assert say(b"", plain, certificates / "good/n2", ssl.TLSVersion.TLSv1_2) == b""


def impostor(plain: socket.socket, certificates: Path) -> None:
    """Its certificate is good, but not for the name it uses."""
    hello = {"node": "n2", "to": "n1", "link": "raft", "instance": bytes(16), "epoch": 1}
    answer = say(encode_frame(hello), plain, certificates / "good/mallory")
    assert b"its certificate is for mallory" in answer, "it is told why"


def say(
    data: bytes, plain: socket.socket, certificate: Path | None, version: ssl.TLSVersion | None = None
) -> bytes:
    """The answer. In TLS 1.3 the client side is done before the other has looked at its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate.with_suffix(".pem"), certificate.with_suffix(".key"))
    with context.wrap_socket(plain) as stream:
        stream.sendall(data)
        return drain(stream)


def drain(stream: socket.socket) -> bytes:
    found = b""
    while data := stream.recv(4096):
        found += data
    return found


def test_node_of_another_authority_is_refused(secured: Cluster, certificates: Path) -> None:
    """Both sides say why; nothing is founded without it."""
    give_certificate(secured, certificates / "bad/n3")
    secured.start()
    until("n1 to say so", lambda: "certificate verify failed" in secured.tail("n1"))
    until("n3 to hear of it", lambda: "unknown ca" in secured.tail("n3"))
    for name in secured.names:
        assert secured.get(name, "/healthz")[0] != 200


def test_node_with_another_s_certificate_does_not_start(secured: Cluster, certificates: Path) -> None:
    give_certificate(secured, certificates / "good/n2")
    secured.start("n3")
    assert secured.children["n3"].wait(20) == 2
    assert "expected DNS:n3" in secured.tail("n3")


def give_certificate(cluster: Cluster, certificate: Path) -> None:
    """To n3, in place of its own."""
    for suffix in (".pem", ".key"):
        shutil.copy(certificate.with_suffix(suffix), cluster.folder / f"certs/n3{suffix}")


def test_peers_off_the_loopback_need_certificates(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    for node, address in (("n1", "0.0.0.0:6222"), ("n2", "192.0.2.1:6222")):
        command = [str(STANCHION), "node", "--config", str(cluster.config), "--name", "n1"]
        command += ["--set", f"cluster.nodes.{node}.peer={address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 2
        assert f"{address} is not on the loopback" in done.stderr
        assert "mtls" in done.stderr


# --- clients ----------------------------------------------------------------------------------------

PASSWORDS = {"alice": "alices-Pa55word", "bob": "bobs-Pa55word", "sub": "subs-Pa55word"}
STREAMING = {
    "publish": {"allow": ["_STAN.>", "_INBOX.>"]},
    "subscribe": {"allow": ["_INBOX.>", "_STAN.acks.>"]},
}
SUBSCRIBER = {
    "publish": {"allow": ["_STAN.>", "_INBOX.>", "private"], "deny": ["private"]},
    "subscribe": {"allow": ["_INBOX.>", "_STAN.acks.>", "news.*"], "deny": ["news.secret"]},
}


@contextlib.contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(RefusedError, match="Authorization Violation"):
        yield


async def attempt(cluster: Cluster, name: str, **credentials: str) -> None:
    """Connect with credentials, publish and receive one message."""
    got = trio.Event()
    async with connect(
        [cluster.address("n1")], cluster.cluster_id, name, options=Options(**credentials), attempts_s=10
    ) as client:
        await client.subscribe(f"to-{name}", lambda message: got.set())
        await client.publish(f"to-{name}", b"hello")
        with trio.fail_after(10):
            await got.wait()


@pytest.fixture
def guarded(make_cluster: MakeCluster) -> Iterator[Any]:
    """One node that wants credentials; afterwards none of them is in its log or on its pages."""
    found: list[tuple[Cluster, tuple[str, ...]]] = []

    def start(clients: dict[str, Any], *secrets: str) -> Cluster:
        cluster = make_cluster(size=1, settings={"clients": clients, "logging": {"level": "debug"}})
        cluster.start()
        cluster.wait_ready()
        found.append((cluster, secrets))
        return cluster

    yield start
    for cluster, secrets in found:
        pages = [
            json.dumps(cluster.get("n1", page))
            for page in ("/varz", "/connz?subs=1&auth=1", "/subsz?subs=1", "/streaming/serverz", "/raftz")
        ]
        for secret in secrets:
            assert secret not in cluster.log("n1").read_text()
            assert not any(secret in page for page in pages)


def test_users_with_permissions(guarded: Any) -> None:
    hashed = bcrypt.hashpw(PASSWORDS["bob"].encode(), bcrypt.gensalt(4)).decode()
    users = [
        {"user": "alice", "password": PASSWORDS["alice"]},
        {"user": "bob", "password": hashed, "permissions": STREAMING},
        {"user": "sub", "password": PASSWORDS["sub"], "permissions": SUBSCRIBER},
    ]
    cluster = guarded({"users": users}, *PASSWORDS.values(), hashed, "wr0ng-Pa55word")
    for user in ("alice", "bob"):
        trio.run(lambda user=user: attempt(cluster, user, user=user, password=PASSWORDS[user]))
    for user, password in (("alice", "wr0ng-Pa55word"), ("carol", PASSWORDS["alice"]), ("", "")):
        with refused():
            trio.run(lambda user=user, password=password: attempt(cluster, "x", user=user, password=password))
    with Wire(cluster.ports["n1"]["client"]) as wire:
        wire.hello(json.dumps({"user": "sub", "pass": PASSWORDS["sub"], "verbose": False}).encode())
        for subject in (b"news.secret", b"_STAN.>"):
            wire.send(nats.sub(subject, b"", b"1"))
            assert wire.line() == b"-ERR 'Permissions Violation for Subscription to \"%b\"'" % subject
        for subject in (b"private", b"other"):
            wire.send(nats.pub(subject, b"", b"x"))
            assert wire.line() == b"-ERR 'Permissions Violation for Publish to \"%b\"'" % subject
        wire.send(nats.sub(b"news.*", b"", b"3"))
        assert wire.answers()
        with Wire(cluster.ports["n1"]["client"]) as alice:
            alice.hello(json.dumps({"user": "alice", "pass": PASSWORDS["alice"], "verbose": False}).encode())
            for subject in (b"news.secret", b"news.all"):
                alice.send(nats.pub(subject, b"", subject))
            assert alice.answers()
        assert wire.message() == b"news.all"


def test_one_user(guarded: Any) -> None:
    cluster = guarded({"user": "alice", "password": PASSWORDS["alice"]}, PASSWORDS["alice"], "wr0ng-Pa55word")
    trio.run(lambda: attempt(cluster, "alice", user="alice", password=PASSWORDS["alice"]))
    with refused():
        trio.run(lambda: attempt(cluster, "x", user="alice", password="wr0ng-Pa55word"))


def test_token(guarded: Any) -> None:
    token, wrong = "t0ken-of-the-cluster", "wr0ng-t0ken"
    cluster = guarded({"token": token, "auth_timeout": "500ms"}, token, wrong)
    trio.run(lambda: attempt(cluster, "alice", token=token))
    with refused():
        trio.run(lambda: attempt(cluster, "x", token=wrong))
    with Wire(cluster.ports["n1"]["client"]) as wire:
        assert b'"auth_required":true' in wire.info.replace(b" ", b"")
        assert wire.rest() == b"-ERR 'Authentication Timeout'\r\n", "who says nothing is not waited for"
