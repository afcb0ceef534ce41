"""The operator token is made once for the user who runs nodes, and lies in each node's directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.config.model import Clients, Config, Store
from node.config.values import Secret
from node.errors import ConfigError
from node.server.operator_token import found, operator_token


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "stanchion" / "operator.token"


def config(directory: Path, token: str | None = None, *, store: str = "file") -> Config:
    directory.mkdir(parents=True, exist_ok=True)
    secret = None if token is None else Secret("text", token)
    return replace(Config(), store=Store(store=store, dir=directory), clients=Clients(operator_token=secret))


def test_nodes_of_one_user_share_it_and_each_has_a_copy(tmp_path: Path, state: Path) -> None:
    one, two = tmp_path / "n1", tmp_path / "n2"
    token = operator_token(config(one))
    assert len(token) == 64
    assert operator_token(config(two)) == token
    for path in (state, one / "operator.token", two / "operator.token"):
        assert path.read_text() == token + "\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert found([tmp_path / "nowhere", two]) == found([]) == token


def test_a_copy_follows_the_token(tmp_path: Path, state: Path) -> None:
    operator_token(config(tmp_path))
    state.unlink()
    token = operator_token(config(tmp_path))
    assert (tmp_path / "operator.token").read_text() == state.read_text() == token + "\n"


def test_a_user_without_a_home_has_it_in_the_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("node.private_files.home", lambda: None)
    token = operator_token(config(tmp_path))
    assert operator_token(config(tmp_path)) == token == found([tmp_path])


def test_a_node_that_keeps_nothing_writes_nothing_into_a_directory(tmp_path: Path, state: Path) -> None:
    assert operator_token(config(tmp_path / "n1", store="memory")) == found([])
    assert list((tmp_path / "n1").iterdir()) == []


def test_what_others_can_read_is_no_token(
    tmp_path: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node goes on without one."""
    operator_token(config(tmp_path))
    state.chmod(0o644)
    assert operator_token(config(tmp_path)) == ""
    assert "lets others read the operator token: chmod 600" in caplog.text
    state.chmod(0o600)
    state.write_text("short")
    assert operator_token(config(tmp_path)) == ""


def test_a_configured_one_is_taken_as_it_is(tmp_path: Path, state: Path) -> None:
    assert operator_token(config(tmp_path, "a token of our own")) == "a token of our own"
    assert not state.exists()
    with pytest.raises(ConfigError, match=r"clients\.operator_token: .* at least 16 characters, .* has 5"):
        operator_token(config(tmp_path, "short"))
