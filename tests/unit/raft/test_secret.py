"""The peer secret: one file for all nodes of a user, readable by nobody else, and proofs that name their
end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.raft.secret import ACCEPTOR, DIALER, PeerSecret, checked, default_paths, obtain, read

SHOWN = {"dialer": b"d" * 32, "acceptor": b"a" * 32, "hello": b"hello"}


def test_proof_is_good_for_its_end_its_challenges_and_its_hello_only() -> None:
    secret = PeerSecret("a secret of some length")
    proof = secret.proof(DIALER, **SHOWN)
    assert secret.is_proof(proof, DIALER, **SHOWN)
    assert not secret.is_proof(proof, ACCEPTOR, **SHOWN)
    for part in SHOWN:
        assert not secret.is_proof(proof, DIALER, **SHOWN | {part: b"x" * 32})
    assert not PeerSecret("another secret of some length").is_proof(proof, DIALER, **SHOWN)
    assert "secret of some" not in repr(secret)


def test_nodes_that_start_together_agree_on_one(tmp_path: Path) -> None:
    """The second node's draft is discarded: it reads the existing file."""
    path = tmp_path / "state" / "stanchion" / "peer.secret"
    first = obtain([path], lambda: "1" * 64)
    assert first == obtain([path], lambda: "2" * 64) == (path, "1" * 64)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["peer.secret"]


def test_race_for_the_file_is_won_by_the_first(tmp_path: Path) -> None:
    path = tmp_path / "peer.secret"

    def slow() -> str:
        obtain([path], lambda: "1" * 64)  # another node, while this one draws
        return "2" * 64

    assert obtain([path], slow) == (path, "1" * 64)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "peer.secret"
    obtain([path])
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o} lets others read the peer secret: chmod 600"):
        obtain([path])


def test_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "peer.secret"
    obtain([path])
    owner = path.stat().st_uid
    if owner == 0:
        os.chown(path, 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        read(path)


@pytest.mark.parametrize("text", ["", "short", "\n"])
def test_empty_or_short_file_is_no_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peer.secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="at least 16"):
        obtain([path])
    with pytest.raises(ConfigError, match="at least 16"):
        checked(text, "option")


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "peer.secret"
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="at least 16"):
        obtain([path])


def test_next_place_is_taken_where_the_first_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path, _ = obtain([tmp_path / "file" / "peer.secret", tmp_path / "peer.secret"])
    assert path == tmp_path / "peer.secret"
    with pytest.raises(ConfigError, match=r"no place for the secret.*file/peer.secret: Not a directory"):
        obtain([tmp_path / "file" / "peer.secret"])


def test_places() -> None:
    state, home, data = {"XDG_STATE_HOME": "/state"}, Path("/users/me"), Path("/data/n1")
    assert default_paths(state, home, data) == [
        Path("/state/stanchion/peer.secret"),
        Path("/data/peer.secret"),
    ]
    assert default_paths({"XDG_STATE_HOME": "relative"}, home, None) == [
        Path("/users/me/.local/state/stanchion/peer.secret")
    ]
    assert default_paths({}, None, data) == [Path("/data/peer.secret")]
