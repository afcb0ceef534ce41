"""The selection of the cluster: by the file and by the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pytest

from node.cli.target import DEFAULT_SERVERS, Cluster, add_client, cluster_of
from node.errors import ConfigError


def arguments(words: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client(parser)
    return parser.parse_args(list(words))


def test_the_file_or_the_command_line_selects_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "cluster: {id: shop, nodes: {n1: {client: '0.0.0.0:4100'}}}\nstore: {dir: data}\n", encoding="utf-8"
    )
    monkeypatch.setenv("STANCHION_CLIENT_PASSWORD", "pass")
    asked = cluster_of(arguments(["--config", str(file), "--user", "ann"]))
    assert asked == Cluster(["127.0.0.1:4100"], "shop", "ann", "pass", directories=(tmp_path / "data",))
    assert "pass" not in repr(asked)
    asked = cluster_of(arguments(["--config", str(file), "--server", "h:1,i:2", "--cluster", "x"]))
    assert (asked.servers, asked.id) == (["h:1", "i:2"], "x")
    assert cluster_of(arguments([])) == Cluster(DEFAULT_SERVERS, "test-cluster", "", "pass")
    with pytest.raises(ConfigError):
        cluster_of(arguments(["--set", "cluster.id=x"]))


def operator_of(*words: str) -> Cluster:
    return cluster_of(arguments(words)).as_operator()


def test_the_operator_token_of_a_node_directory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an option, for nodes of this machine, if this user may read the file."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert operator_of().token == ""
    put(tmp_path / "state" / "stanchion" / "operator.token", "this user's")
    assert operator_of().token == "this user's"
    file = tmp_path / "c.yaml"
    node = "{client: '%s:4100', peer: '127.0.0.1:%d'}"
    nodes = f"{{n1: {node % ('192.0.2.1', 6001)}, n2: {node % ('127.0.0.1', 6002)}}}"
    file.write_text(
        f"cluster: {{id: shop, nodes: {nodes}}}\nstore: {{dir: 'data/{{node}}'}}\n", encoding="utf-8"
    )
    assert operator_of("--config", str(file)).token == "this user's"
    put(tmp_path / "data" / "n2" / "operator.token", "the node's")
    asked = operator_of("--config", str(file))
    assert (asked.token, asked.servers, asked.is_closed) == ("the node's", ["127.0.0.1:4100"], True)
    assert "the node's" not in repr(asked)
    (tmp_path / "data" / "n2" / "operator.token").chmod(0o644)  # refused, as by the node
    assert operator_of("--config", str(file)).token == "this user's"
    assert operator_of("--server", "192.0.2.1:4222").token == ""


def test_given_credentials_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    put(tmp_path / "state" / "stanchion" / "operator.token", "this user's")
    assert operator_of("--token", "typed").token == "typed"
    assert operator_of("--user", "ann").token == ""
    put(tmp_path / "token", "configured")
    file = tmp_path / "c.yaml"
    file.write_text(
        "cluster: {id: shop, nodes: {n1: {client: '192.0.2.1:4100'}}}\n"
        f"clients: {{operator_token_file: {tmp_path}/token}}\n",
        encoding="utf-8",
    )
    asked = operator_of("--config", str(file))
    assert (asked.token, asked.servers, asked.is_closed) == ("configured", ["192.0.2.1:4100"], False)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
