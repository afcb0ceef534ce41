"""The output of ``stanchion cluster recover``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.cli.main import main
from node.cli.recover import text
from node.server.disk import recovering
from node.server.disk.recovering import Recovered

FOUND = Recovered("n1", "before", "after", 1234, 1200, 1_790_000_000_123_456_789)


def test_the_text_has_the_data_and_the_next_steps() -> None:
    said = text(FOUND, pretend=False)
    assert said.startswith("node n1 of cluster before has all entries up to 1234, 2026-09-21")
    assert "are missing; their number is unknown" in said
    assert "clients connect with cluster ID after" in said
    assert "stanchion cluster add NAME" in said
    assert "do not start other nodes of cluster before with their old directories" in said
    assert text(FOUND, pretend=True).endswith(
        "nothing was changed, except that a write torn by a power failure was repaired, if any"
    )
    assert " 1970" not in text(Recovered("n1", "a", "b", 1, 1, 0), pretend=True)


@pytest.mark.parametrize(("flag", "pretend"), [("--force-new", False), ("--dry-run", True)])
def test_what_is_asked_is_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    pretend: bool,
) -> None:
    asked: list[Any] = []

    def recover(config: Any, name: str, *, pretend: bool) -> Recovered:
        asked.append((config.cluster.id, name, pretend))
        return FOUND

    monkeypatch.setattr(recovering, "recover", recover)
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {id: after, nodes: {n1: {client: '127.0.0.1:1'}}}\nstore: {dir: data}\n")
    line = ["cluster", "recover", "--config", str(file), "--name", "n1"]
    assert main([*line, flag, "--json"]) == 0
    assert asked == [("after", "n1", pretend)]
    assert json.loads(capsys.readouterr().out)["index"] == 1234
    assert main(line) == 2, "it must be said that it is meant"
    capsys.readouterr()
