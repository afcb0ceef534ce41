"""Which security a configuration asks for, and where the peer secret comes from when nothing says so."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from node.config.load import load
from node.config.model import Config
from node.config.values import Secret
from node.errors import ConfigError
from node.raft.security import Plaintext, SharedSecret
from node.server.peer_security import peer_security

FILE = """
cluster:
  nodes:
    n1: {client: 127.0.0.1:4221, peer: 127.0.0.1:6221}
    n2: {client: 127.0.0.1:4222, peer: 127.0.0.1:6222}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE)
    return load(path).for_node("n1")


def with_security(config: Config, **values: object) -> Config:
    security = dataclasses.replace(config.cluster.peer_security, **values)
    return dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, peer_security=security))


def proof(security: object) -> bytes:
    assert isinstance(security, SharedSecret)
    return security.secret.proof("dialer", dialer=b"", acceptor=b"", hello=b"")


def test_nodes_of_one_user_share_a_secret_without_being_told(config: Config, tmp_path: Path) -> None:
    one, other = peer_security(config, "n1"), peer_security(config, "n2")
    assert one.requires_proof
    assert proof(one) == proof(other)
    assert (tmp_path / "state" / "stanchion" / "peer.secret").exists()


def test_configured_secret_comes_first(config: Config, tmp_path: Path) -> None:
    configured = with_security(config, secret=Secret("text", "a configured secret"))
    assert proof(peer_security(configured, "n1")) != proof(peer_security(config, "n1"))
    with pytest.raises(ConfigError, match="at least 16"):
        peer_security(with_security(config, secret=Secret("text", "short")), "n1")


def test_reload_reads_the_secret_again(config: Config, tmp_path: Path) -> None:
    security = peer_security(config, "n1")
    before = proof(security)
    (tmp_path / "state" / "stanchion" / "peer.secret").write_text("x" * 64)
    security.reload()
    assert proof(security) != before


def test_mode_none_is_loud_and_offers_a_proof(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        security = peer_security(with_security(config, mode="none"), "n1")
    assert isinstance(security, SharedSecret)
    assert not security.requires_proof
    assert "any process on this machine can be a node of this cluster" in caplog.text


def test_mode_none_starts_without_a_place_for_a_secret(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    store = dataclasses.replace(config.store, dir=tmp_path / "file" / "data" / "n1")
    nowhere = dataclasses.replace(config, store=store)
    with pytest.raises(ConfigError, match="no place for the secret"):
        peer_security(nowhere, "n1")
    with caplog.at_level(logging.WARNING):
        assert type(peer_security(with_security(nowhere, mode="none"), "n1")) is Plaintext
    assert "nodes that require proofs will refuse this one" in caplog.text


def test_user_without_a_home_keeps_it_beside_the_data(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/nonexistent/home")
    monkeypatch.setattr(Path, "mkdir", _refuse_nonexistent(Path.mkdir))
    peer_security(config, "n1")
    assert (config.store.dir.parent / "peer.secret").exists()


def _refuse_nonexistent(mkdir):  # root may make anything
    def refused(self: Path, *args: object, **options: object) -> None:
        if str(self).startswith("/nonexistent"):
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *args, **options)

    return refused
