"""``stanchion config check`` lists mistakes, or what the file describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.cli.main import main

SHIPPED = sorted((Path(__file__).parents[3] / "cluster-configs").glob("*.yaml"))


def test_all_configurations_are_found() -> None:
    names = ["docker.yaml", "five-node.yaml", "single.yaml", "three-node-tls.yaml", "three-node.yaml"]
    assert [file.name for file in SHIPPED] == names


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_configuration_we_ship_is_sound(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(file)]) == 0
    assert f"{file}: no mistakes\ncluster test-cluster: " in capsys.readouterr().out


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_configuration_we_ship_opens_by_saying_what_it_is_for(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# ")


def test_mistakes_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: nowhere}}}\nraft: {heartbeat: 3}\n")
    assert main(["config", "check", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.removeprefix(f"{file}:").split(": ")[0] for line in printed.err.splitlines()] == [
        "1:32",
        "2:19",
    ]


def test_a_check_as_a_node_looks_at_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: 127.0.0.1:1}}}\nclients: {token_file: secret}\n")
    assert main(["config", "check", str(file)]) == 0
    assert main(["config", "check", str(file), "--node", "n1"]) == 2
    assert f"secret file {tmp_path}/secret can't be read" in capsys.readouterr().err


def test_overrides_count(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: nowhere}}}\n")
    assert main(["config", "check", str(file), "--set", "cluster.nodes.n1.client=127.0.0.1:1"]) == 0
