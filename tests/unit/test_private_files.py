"""Files of secrets are made once, and never used if others may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node import private_files
from node.errors import ConfigError


def test_the_first_to_make_it_wins(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x"

    def slow() -> str:
        private_files.obtain([path], "x", lambda: "first")
        return "second"

    assert private_files.obtain([path], "x", slow) == (path, "first")
    assert [each.name for each in path.parent.iterdir()] == ["x"]
    private_files.put(path, "third")
    assert private_files.read(path, "x") == "third"
    assert path.stat().st_mode & 0o777 == 0o600


def test_root_reads_what_belongs_to_others_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    private_files.put(path, "text")
    owner = path.stat().st_uid
    if owner == 0:
        os.chown(path, 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert private_files.read(path, "x") == "text"
    monkeypatch.setattr(os, "geteuid", lambda: 4712)
    with pytest.raises(ConfigError, match="belongs to user"):
        private_files.read(path, "x")


def test_where_there_is_no_place_all_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/x: Not a directory"):
        private_files.obtain([tmp_path / "file" / "x"], "x")
    with pytest.raises(OSError, match="no home directory"):
        private_files.obtain([], "x")


def test_the_state_directory() -> None:
    home = Path("/users/me")
    assert private_files.state_paths({"XDG_STATE_HOME": "/s"}, home, "x") == [Path("/s/stanchion/x")]
    assert private_files.state_paths({"XDG_STATE_HOME": "s"}, home, "x") == [
        Path("/users/me/.local/state/stanchion/x")
    ]
    assert private_files.state_paths({}, None, "x") == []
