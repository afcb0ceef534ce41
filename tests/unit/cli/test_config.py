"""``stanchion config`` lists mistakes, summarizes a file, or applies it to a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.cli.answers import Asked

from node.cli.main import main

SHIPPED = sorted((Path(__file__).parents[3] / "cluster-configs").glob("*.yaml"))


def test_all_configurations_are_found() -> None:
    names = ["docker.yaml", "five-node.yaml", "single.yaml", "three-node-tls.yaml", "three-node.yaml"]
    assert [file.name for file in SHIPPED] == names


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_configuration_is_valid(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(file)]) == 0
    assert f"{file}: no mistakes\ncluster test-cluster: " in capsys.readouterr().out


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_configuration_starts_with_its_purpose(file: Path) -> None:
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


def test_a_check_for_a_node_checks_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: 127.0.0.1:1}}}\nclients: {token_file: secret}\n")
    assert main(["config", "check", str(file)]) == 0
    assert main(["config", "check", str(file), "--node", "n1"]) == 2
    assert f"secret file {tmp_path}/secret can't be read" in capsys.readouterr().err


def test_overrides_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cluster: {nodes: {n1: {client: nowhere}}}\n")
    assert main(["config", "check", str(file), "--set", "cluster.nodes.n1.client=127.0.0.1:1"]) == 0


SINGLE = str(Path(__file__).parents[3] / "cluster-configs" / "single.yaml")


def test_limits_are_proposed_to_the_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """R23: the settings of the whole cluster, under the core's names; the changes are printed."""
    asked = Asked(monkeypatch)
    changes = {"max_msgs": [1, 7], "channels.a.>": [None, {"max_msgs": 2}]}
    asked.answers = [{"changes": changes, "applied": dry == 0} for dry in range(2)]
    asked.answers += [{"changes": {}, "applied": False}] * 2
    override = ["--set", "limits.max_msgs=7"]
    assert main(["config", "apply", SINGLE, *override]) == 0
    assert main(["config", "apply", SINGLE, *override, "--dry-run"]) == 0
    assert main(["config", "apply", SINGLE]) == 0
    assert main(["config", "apply", SINGLE, "--json"]) == 0
    shown = "max_msgs: 1 -> 7\nchannels.a.>: nothing -> max_msgs=2\n"
    printed = capsys.readouterr().out
    assert printed.startswith(f"{shown}applied\n{shown}not applied: this was a dry run\nno changes")
    (verb, fields), (_, dry_run), *_ = asked.requests
    assert (verb, fields["dry_run"], dry_run["dry_run"]) == ("config.apply", False, True)
    assert fields["settings"]["max_msgs"] == 7


def test_mistakes_are_not_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    file = tmp_path / "c.yaml"
    file.write_text("limits: {max_msgs: -3}\n")
    assert main(["config", "apply", str(file)]) == 2
    assert not asked.requests
