"""Mistakes in the combination of options."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config.checks import exposed_files
from node.config.load import load
from node.errors import ConfigError

TWO = """
cluster:
  nodes:
    n1: {client: 127.0.0.1:4221, peer: 127.0.0.1:6221, http: 127.0.0.1:8221}
    n2: {client: 127.0.0.1:4222, peer: 127.0.0.1:6222, http: 127.0.0.1:8222}
"""


def problems(tmp_path: Path, *overrides: str, text: str = TWO) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    try:
        load(file, overrides=overrides, environ={})
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("cluster.bootstrap=true",), ""),
        (("cluster.join=true", "cluster.routes=[127.0.0.1:6222]"), ""),
        (("cluster.join=true",), "cluster.join: needs cluster.routes"),
        (("cluster.bootstrap=true", "cluster.join=true"), "cluster.join: has no effect with bootstrap"),
        (("cluster.bootstrap=true", "store.store=memory"), "memory is only for a single node"),
        (("cluster.bootstrap=true", "cluster.nodes.n1={client: 127.0.0.1:1}"), "n1.peer: missing"),
        (("cluster.bootstrap=true", "cluster.nodes.n1.peer=0.0.0.0:1"), "can't connect to 0.0.0.0:1"),
    ],
)
def test_a_cluster_that_starts_with_one_node(
    tmp_path: Path, overrides: tuple[str, ...], problem: str
) -> None:
    one = "cluster: {nodes: {n1: {client: 127.0.0.1:4221, peer: 127.0.0.1:6221}}}"
    found = problems(tmp_path, *overrides, text=one)
    assert problem in found if problem else found == ""


def test_a_valid_cluster_has_no_problems(tmp_path: Path) -> None:
    assert problems(tmp_path) == ""


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("cluster.nodes.n2.client=127.0.0.1:4221", "127.0.0.1:4221 is also used by cluster.nodes.n1.client"),
        ("cluster.nodes.n2.http=127.0.0.1:6222", "127.0.0.1:6222 is also used by cluster.nodes.n2.peer"),
        ("cluster.nodes.n2.client=0.0.0.0:6222", "port 6222 is also used by cluster.nodes.n2.client"),
        ("cluster.nodes.n2.advertise=127.0.0.1:4221", "127.0.0.1:4221 is already advertised by n1"),
        ("cluster.nodes.n2.advertise=0.0.0.0:4222", "can't connect to 0.0.0.0:4222"),
        ("cluster.nodes.n2.client=0.0.0.0:4222", "clients can't connect to 0.0.0.0:4222"),
        ("cluster.nodes.n2.peer=0.0.0.0:6222", "can't connect to 0.0.0.0:6222"),
        ("cluster.nodes.n2.peer=10.0.0.1:6222", "10.0.0.1:6222 is not on the loopback"),
        ("cluster.nodes.n2.peer_listen=0.0.0.0:6222", "n2.peer_listen: 0.0.0.0:6222 is not on the loopback"),
        ("cluster.nodes.n2.peer_listen=127.0.0.1:4222", "n2.peer_listen: 127.0.0.1:4222 is also"),
        ("cluster.nodes.n2.http=0.0.0.0:8222", "0.0.0.0:8222 is not on the loopback; set monitoring.token"),
        ("cluster.nodes.n3.client=127.0.0.1:4223", "n3.peer: missing: the other nodes dial it"),
        ('cluster.nodes."n 3"={client: 127.0.0.1:4223, peer: 127.0.0.1:6223}', "invalid node name 'n 3'"),
        ("cluster.nodes.N2={client: 127.0.0.1:4223, peer: 127.0.0.1:6223}", "N2 is too similar to n2"),
        ("cluster.bootstrap=true", "cluster.bootstrap: only for a file with one node"),
        ("cluster.join=true", "cluster.join: only for a file with one node"),
        ("cluster.peer_security.mode=mtls", "peer_security.ca: missing: mode mtls needs ca, cert and key"),
        ("cluster.peer_security.ca=ca.pem", "peer_security.ca: has no effect without mode: mtls"),
        ("raft.election_timeout=[600ms, 300ms]", "the second value must be larger"),
        ("raft.election_timeout=[225ms, 600ms]", "225ms, must be more than 3 heartbeats of 75ms"),
        ("raft.heartbeat=400ms", "the first value, 1s, must be more than 3 heartbeats of 400ms"),
        ("store.dir=data", "store.dir: the nodes on 127.0.0.1 would share it; add {node} to the path"),
        ("logging.file=node.log", "logging.file: the nodes on 127.0.0.1 would share it"),
        ("store.encryption={cipher: aes-256-gcm}", "encryption key required: add key_env or key_file"),
        ("store={store: memory, encryption: {key_env: K}}", "encryption: has no effect with store: memory"),
        ("limits.channels={a..b: {}}", 'invalid channel name "a..b"'),
        ("limits.channels={'a.>.b': {}}", 'invalid channel name "a.>.b"'),
        ("limits.channels={a/b: {}}", 'invalid channel name "a/b"'),
        ("limits={max_channels: 1, channels: {a: {}, b: {}, 'c.*': {}}}", "2 channels are named, but"),
        ("clients={token: t, user: u, password: p}", "use only one of users, user and token"),
        ("clients={user: u}", "clients.user: has no effect without password"),
        ("clients={password: p}", "clients.password: has no effect without user"),
        ("clients={users: [{user: u, password: p}, {user: u, password: q}]}", "users: u is given twice"),
        ("clients={no_auth_user: u}", "no_auth_user: clients.users has no user u"),
        (
            "clients={users: [{user: u, password: p, permissions: {publish: {allow: [a..b]}}}]}",
            "clients.users.0.permissions.publish.allow: 'a..b' is not a valid subject",
        ),
        ("clients={max_pending: 64KB}", "max_pending: less than max_payload"),
        ("monitoring={open: true, token: t}", "monitoring.token: has no effect with open: true"),
    ],
)  # fmt: skip
def test_invalid_combinations_are_refused(tmp_path: Path, override: str, problem: str) -> None:
    assert problem in problems(tmp_path, override)


@pytest.mark.parametrize(
    "override",
    [
        "limits={max_channels: 2, channels: {a: {}, b: {}, 'c.*': {}}}",
        "limits={max_channels: 0, channels: {a: {}, b: {}}}",
        "limits.channels={'>': {}, '*': {}, 'a.*.b': {}, 'a.>': {}}",
        "raft.election_timeout=[226ms, 600ms]",
        "cluster.nodes.n2.advertise=n2.example.com:4222",
    ],
)
def test_valid_combinations_are_accepted(tmp_path: Path, override: str) -> None:
    assert problems(tmp_path, override) == ""


def test_nodes_of_different_machines_may_use_the_same_path_and_port(tmp_path: Path) -> None:
    text = """
cluster:
  nodes:
    n1: {client: "0.0.0.0:4222", advertise: "a:4222", peer: "a:6222", http: "0.0.0.0:8222"}
    n2: {client: "0.0.0.0:4222", advertise: "b:4222", peer: "b:6222", http: "0.0.0.0:8222"}
  peer_security: {mode: mtls, ca: ca.pem, cert: c.pem, key: k.pem}
store: {dir: /data}
monitoring: {open: true}
"""
    assert problems(tmp_path, text=text) == ""


def test_an_invalid_value_is_reported_once(tmp_path: Path) -> None:
    assert problems(tmp_path, "raft.heartbeat=soon").count("\n") == 0


def test_files_of_secrets_that_others_can_read_are_found(tmp_path: Path) -> None:
    for name, mode in (("open", 0o644), ("group", 0o640), ("mine", 0o600)):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(mode)
    file = tmp_path / "c.yaml"
    file.write_text(
        TWO + "clients:\n  token_file: open\nmonitoring:\n  token_file: mine\n"
        "store:\n  encryption:\n    key_file: group\n"
    )
    config = load(file).for_node("n1")
    assert exposed_files(config) == [tmp_path / "open", tmp_path / "group"]
