"""Attacks on the port where nodes find one another, and what they cost the cluster."""

from __future__ import annotations

import multiprocessing
import secrets
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e.attacks import peers
from e2e.conftest import MakeCluster
from e2e.harness import STANCHION, Cluster, until
from e2e.hostile import Attack, endure
from e2e.load import replay

from node.client.streaming import connect
from node.protocol.peer import FrameDecoder, encode_frame
from node.raft.frames import Stale, VoteRequest

pytestmark = pytest.mark.slow

FAR = (1 << 63) - 1


async def publish(cluster: Cluster, channel: str, first: int, last: int) -> None:
    async with connect(cluster.addresses(), cluster.cluster_id, f"publisher-{first}") as client:
        for n in range(first, last + 1):
            await client.publish(channel, b"%d" % n)


def hello_of(cluster: Cluster, node: str, to: str, link: str = "raft") -> dict[str, Any]:
    """What a node of the release before peer secrets says first, as any process can say it."""
    return {
        "wire": 1,
        "machine": 1,
        "cluster": cluster.cluster_id,
        "founding": "",
        "empty": True,
        "nonce": "",
        "met": {},
        "client": "",
        "directory": "",
        "members": b"",
        "members_since": 0,
        "settled": b"",
        "settled_since": 0,
        "link": link,
        "node": node,
        "to": to,
        "instance": secrets.token_bytes(16),
        "epoch": 1,
    }


def said_to(port: int, *values: Any) -> list[Any]:
    """What a node answers to these frames until it closes the connection."""
    decoder = FrameDecoder()
    answers: list[Any] = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        for value in values:
            peer.sendall(encode_frame(value))
        try:
            while data := peer.recv(65536):
                answers += decoder.feed(data)
        except ConnectionResetError:
            pass
    return answers


def test_stranger_without_the_secret_is_nobody(cluster: Cluster, unique: str) -> None:
    """It says that it is a node that is down, on each kind of link, and speaks of the last term there is."""
    leader = cluster.leader()
    away = next(name for name in cluster.names if name != leader)
    cluster.kill(away)
    term = cluster.page(leader, "/raftz")["term"]
    for link in ("raft", "route", "snapshot", "foreign", "join"):
        for frame in (Stale(FAR), VoteRequest(FAR, FAR, FAR, True)):
            answers = said_to(
                cluster.ports[leader]["peer"], hello_of(cluster, away, leader, link), (0, frame.encode())
            )
            assert len(answers) == 1, answers
            assert set(answers[0]) == {"refused"}
            assert "shows no proof of the peer secret" in answers[0]["refused"]
    trio.run(publish, cluster, unique, 1, 10)
    assert cluster.page(leader, "/raftz")["term"] == term
    cluster.start(away)
    cluster.wait_ready()
    assert cluster.page(leader, "/raftz")["term"] == term


def test_process_on_the_port_of_a_stopped_node_learns_and_changes_nothing(cluster: Cluster) -> None:
    """It is dialed by both others, sends each a refusal, and neither of them believes it."""
    leader = cluster.leader()
    away = next(name for name in cluster.names if name != leader)
    cluster.kill(away)
    told: list[Any] = []
    with socket.create_server(("127.0.0.1", cluster.ports[away]["peer"]), reuse_port=False) as server:
        server.settimeout(10)
        while len(told) < 4:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(10)
                decoder = FrameDecoder()
                values: list[Any] = []
                while not values:
                    values = decoder.feed(peer.recv(65536))
                told += values
                peer.sendall(
                    encode_frame({"refused": "removed", "cluster": cluster.cluster_id, "settled": b"\x90"})
                )
    assert all(len(hello["challenge"]) == 32 for hello in told)
    assert cluster.ready_leader() == leader
    cluster.start(away)
    cluster.wait_ready()


def test_rolling_upgrade_from_a_release_without_secrets(make_cluster: MakeCluster) -> None:
    """The second round: nodes that take anybody and nodes that require proofs, in every step of it."""
    cluster = make_cluster()
    cluster.options = {name: ["--set", "cluster.peer_security.mode=none"] for name in cluster.names}
    cluster.start()
    cluster.wait_ready()
    answers = said_to(cluster.ports["n1"]["peer"], hello_of(cluster, "n2", "n3"))
    assert "a wrong peer address" in answers[0]["refused"]  # the names are looked at, no proof is wanted
    first = 1
    for name in cluster.names:
        cluster.ask_to_stop(name)
        cluster.children[name].wait(10)
        cluster.options[name] = []
        cluster.start(name)
        cluster.wait_ready()
        trio.run(publish, cluster, "foo", first, first + 9)
        first += 10
    answers = said_to(cluster.ports["n1"]["peer"], hello_of(cluster, "n2", "n3"))
    assert "shows no proof" in answers[0]["refused"]
    until("the same", lambda: cluster.wait_same("foo")["last_seq"] == 30)
    assert len(trio.run(replay, cluster.address("n1"), cluster.cluster_id, "reader", "foo", 30)) == 30


# --- floods -----------------------------------------------------------------------------------------

TLS = {"mode": "mtls", "ca": "certs/ca.pem", "cert": "certs/{node}.pem", "key": "certs/{node}.key"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    command = [str(STANCHION), "certs", "init", str(directory), "--nodes", "n1,n2,n3"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory


@pytest.fixture
def linked(request: pytest.FixtureRequest, make_cluster: MakeCluster, certificates: Path) -> Cluster:
    """Three nodes that know one another by the one or the other."""
    cluster = make_cluster(settings={"cluster": {"peer_security": TLS}} if request.param == "mtls" else None)
    (cluster.folder / "certs").symlink_to(certificates)
    cluster.start()
    cluster.wait_ready()
    return cluster


FLOODS: list[tuple[str, Attack]] = [
    ("secret", peers.hold_silent),
    ("secret", peers.claim_names),
    ("secret", peers.send_garbage),
    ("mtls", peers.hold_silent),
    ("mtls", peers.hold_half_a_hello),
    ("mtls", peers.begin_tls),
]


@pytest.mark.parametrize(
    ("linked", "flood"),
    FLOODS,
    indirect=["linked"],
    ids=[f"{mode}-{flood.__name__}" for mode, flood in FLOODS],
)
def test_flood_of_strangers_costs_nobody_else_anything(linked: Cluster, unique: str, flood: Attack) -> None:
    """And a node that was away comes back while it goes on at the others."""
    leader = linked.leader()
    damage = endure(linked, unique, {leader: [flood]}, ports={leader: linked.ports[leader]["peer"]})
    damage.check()
    away = next(name for name in linked.names if name != leader)
    linked.kill(away)
    context = multiprocessing.get_context("spawn")
    floods = [
        context.Process(target=flood, args=(linked.ports[name]["peer"], time.monotonic() + 60), daemon=True)
        for name in linked.running
    ]
    try:
        for process in floods:
            process.start()
        linked.start(away)
        linked.wait_ready(timeout_s=15)
        assert linked.leader() == leader
        assert all(process.is_alive() for process in floods)
    finally:
        for process in floods:
            process.kill()
            process.join()


# --- certificates -----------------------------------------------------------------------------------


def told_by(cluster: Cluster, name: str, hello: dict[str, Any], own: str) -> Any:
    """What a node answers to a hello under the certificate of ``own``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cluster.folder / "certs" / "ca.pem")
    files = cluster.folder / "certs" / own
    context.load_cert_chain(f"{files}.pem", f"{files}.key")
    decoder = FrameDecoder()
    with (
        socket.create_connection(("127.0.0.1", cluster.ports[name]["peer"]), timeout=10) as tcp,
        context.wrap_socket(tcp) as peer,
    ):
        peer.sendall(encode_frame(hello))
        while data := peer.recv(65536):
            if values := decoder.feed(data):
                return values[0]
    return None


def remote_route(node: str, cluster: str = "north") -> dict[str, Any]:
    return {
        "link": "foreign",
        "wire": 1,
        "cluster": cluster,
        "node": node,
        "to": "?",
        "instance": secrets.token_bytes(16),
        "epoch": 1,
        "listen": "",
        "client": "",
        "bootstrap": "",
        "peers": [],
    }


def test_certificate_of_a_removed_node_links_no_more(make_cluster: MakeCluster) -> None:
    """Neither as a member nor as a node of another cluster, also after everybody was started again."""
    cluster = make_cluster(settings={"cluster": {"peer_security": TLS, "routes": []}})
    command = [str(STANCHION), "certs", "init", str(cluster.folder / "certs"), "--nodes", "n1,n2,n3,far"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    cluster.start()
    cluster.wait_ready()
    removed = cluster.follower()
    others = [name for name in cluster.names if name != removed]
    cluster.expect_end(removed)
    command = [str(STANCHION), "cluster", "remove", removed, "--config", str(cluster.config)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    cluster.children[removed].wait(15)

    def is_refused(name: str, link: str) -> bool:
        """Not at once: a removed node is sent the log until it knows, or for 5 s; its link may just close."""
        answer = told_by(cluster, name, hello_of(cluster, removed, name, link), removed)
        return answer is not None and "never added, or was removed" in answer.get("refused", "")

    for round_ in range(2):
        for name in others:
            for link in ("raft", "route", "snapshot"):
                until(f"{name} to refuse {removed} on {link}", lambda: is_refused(name, link))  # noqa: B023
            answer = told_by(cluster, name, remote_route(removed), removed)
            assert "is or was a member of 'test-cluster'" in answer["refused"], answer
            assert told_by(cluster, name, remote_route("far"), "far")["node"] == name
        if round_ == 0:
            for name in others:
                cluster.ask_to_stop(name)
                cluster.children[name].wait(10)
            cluster.start(*others)
            cluster.wait_ready(others)


def test_certificate_that_runs_out_is_told_of_ahead(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(settings={"cluster": {"peer_security": TLS}})
    command = [str(STANCHION), "certs", "init", str(cluster.folder / "certs")]
    command += ["--nodes", "n1,n2,n3", "--days", "9"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    cluster.start()
    cluster.wait_ready()
    for name in cluster.names:
        text = f"{name}.pem expires in 8 days"
        for page in ("/healthz", "/raftz"):
            assert any(text in warning for warning in cluster.page(name, page)["warnings"])
        assert text in cluster.log(name).read_text()
    command = [str(STANCHION), "status", "--config", str(cluster.config)]
    told = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout
    assert "n1.pem expires in 8 days" in told
