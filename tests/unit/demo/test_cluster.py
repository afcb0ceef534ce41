"""The configuration of the demo's cluster, and the log lines it recognizes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config.load import load
from node.demo import cluster as demo
from node.demo.cluster import Claims, packaged_config, said, with_free_ports

ROOT = Path(__file__).parents[3]


def test_the_packaged_configuration_is_the_one_of_cluster_configs() -> None:
    """An installed package has no ``cluster-configs``; so there is a copy, and it is kept the same."""
    assert packaged_config() == (ROOT / "cluster-configs" / "three-node.yaml").read_text(encoding="utf-8")


@pytest.fixture
def claims() -> Iterator[Claims]:
    claims = Claims()
    yield claims
    claims.release()


def test_two_demonstrations_use_other_ports(claims: Claims) -> None:
    """Both found the ports of the packaged configuration free, and a node of one waited for the other's."""
    own = set(demo.ADDRESS.findall(packaged_config()))
    first, second = (set(demo.ADDRESS.findall(with_free_ports(packaged_config(), claims))) for _ in range(2))
    assert not own & first
    assert not own & second
    assert not first & second


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets")
def test_a_port_of_a_node_that_is_down_is_not_taken(claims: Claims) -> None:
    """The port is free, but its node is restarted; another demo had taken the port by then."""
    other = Claims()
    try:
        port = next(port for port in range(*demo.PORTS) if other.take(port))
        assert not claims.take(port)
        other.release()
        assert claims.take(port)
    finally:
        other.release()


def test_other_ports_where_one_is_taken(tmp_path: Path, claims: Claims) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config = packaged_config().replace("127.0.0.1:4222", f"127.0.0.1:{port}")
        assert not claims.take(port)
        changed = with_free_ports(config, claims)
    found = demo.ADDRESS.findall(changed)
    assert len(set(found)) == 9
    assert not set(found) & set(demo.ADDRESS.findall(config))
    (tmp_path / "c.yaml").write_text(changed)
    assert list(load(tmp_path / "c.yaml").cluster.nodes) == ["n1", "n2", "n3"]


def test_the_message_of_a_log_line() -> None:
    assert said(b'{"level": "info", "message": "ready to lead term 3"}') == "ready to lead term 3"
    assert said(b"Traceback (most recent call last):") == "Traceback (most recent call last):"


def test_the_log_lines_of_nodes_are_recognized() -> None:
    """As ``server.replica`` writes them."""
    found = demo.ROLE.fullmatch("role leader term 4 leader n2: elected, last by n3")
    assert found is not None
    assert found.groups() == ("leader", "4", "n2", "elected, last by n3")
    assert demo.ROLE.fullmatch("role candidate term 4 leader none: a majority would vote for this node")
    ready = demo.READY.fullmatch("ready to lead term 4")
    assert ready is not None
    assert ready[1] == "4"
    source = (ROOT / "node" / "server" / "replica.py").read_text(encoding="utf-8")
    assert '"role %s term %d leader %s: %s"' in source
    assert '"ready to lead term %d"' in source
