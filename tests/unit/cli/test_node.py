"""``stanchion node`` reads the file as its node and runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from node.cli import node as command
from node.cli.main import main
from node.config.model import Config
from node.server.launch import Launch


def test_a_node_runs_with_the_file_as_it_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: 127.0.0.1:1}}}\nstore: {dir: 'data/{node}'}\n")
    ran: list[tuple[Config, str]] = []
    logs: list[tuple[Any, ...]] = []

    def run(config: Config, name: str, launch: Launch) -> int:
        ran.append((config, name))
        assert launch.reload is not None
        assert launch.reload() == config
        return 7

    server = ModuleType("node.server.node")
    server.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "node.server.node", server)
    monkeypatch.setattr("node.server.node", server, raising=False)
    monkeypatch.setattr(command, "set_up", lambda *words, **more: logs.append(words))
    arguments = [
        "--config",
        str(file),
        "--name",
        "n1",
        "--set",
        "raft.heartbeat=60ms",
        "--log-level",
        "debug",
    ]
    assert main(["node", *arguments]) == 7
    ((config, name),) = ran
    assert (name, config.store.dir) == ("n1", tmp_path / "data" / "n1")
    assert config.raft.heartbeat_ns == 60_000_000
    assert logs == [("debug", "text", None)]


def test_a_node_not_in_the_file_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: 127.0.0.1:1}}}\n")
    assert main(["node", "--config", str(file), "--name", "n9"]) == 2
    assert "cluster.nodes has no node n9" in capsys.readouterr().err
