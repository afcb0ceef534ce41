"""The requests of the membership commands, and their output."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from node.cli import members as command
from node.cli.main import main
from node.errors import RefusedError


class Cluster:
    """Returns prepared answers and records the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.changed = True
        self.refuses = ""

    def administer(
        self, args: argparse.Namespace, verb: str, fields: Mapping[str, Any] | None = None, *, repeats: bool
    ) -> Any:
        assert repeats, "whoever connects to a node that dies asks another one"
        given = dict(fields or {})
        assert verb == "cluster.members" or given.pop("within") == args.timeout
        self.asked.append((verb, given))
        if verb == self.refuses:
            raise RefusedError("not now")
        if verb == "cluster.members":
            return {
                "settled": False,
                "members": [
                    member("n1", leads=True, match=12),
                    member("n4", role="learner", peer="h:6", connected=False),
                ],
            }
        role = "none" if verb == "cluster.remove" else "voter" if given["wait"] else "learner"
        return {"name": given["name"], "role": role, "changed": self.changed}


def member(name: str, **fields: Any) -> dict[str, Any]:
    known = {"name": name, "role": "voter", "peer": "", "leads": False, "connected": True, "match": 0}
    return known | fields


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(command, "administer", cluster.administer)
    monkeypatch.chdir(tmp_path)
    nodes = {f"n{i}": {"client": f"h:{i}", "peer": f"h:6{i}"} for i in (1, 2, 3, 4)}
    document = {
        "cluster": {"nodes": nodes, "peer_security": {"mode": "mtls", "ca": "c", "cert": "c", "key": "k"}},
        "store": {"dir": "data/{node}"},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(document), encoding="utf-8")
    return cluster


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["cluster", *words, "--config", "c.yaml"]) == 0
    return capsys.readouterr().out.strip()


def test_add(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The peer address is that of the file unless it is given."""
    assert said(capsys, "add", "n4") == "n4 votes"
    assert cluster.asked == [("cluster.add", {"name": "n4", "peer": "h:64", "wait": True})]
    assert "votes once it has joined" in said(capsys, "add", "n9", "--peer", "i:1", "--no-wait")
    assert cluster.asked[1][1] == {"name": "n9", "peer": "i:1", "wait": False}
    cluster.changed = False
    assert said(capsys, "add", "n4") == "n4 is already a voting member"
    assert json.loads(said(capsys, "add", "n4", "--json")) == {
        "name": "n4", "role": "voter", "changed": False
    }  # fmt: skip


@pytest.mark.parametrize("words", [["add", "n9", "--config", "c.yaml"], ["add", "n9"]])
def test_a_node_without_an_address_is_not_added(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["cluster", *words]) == 2
    assert "n9" in capsys.readouterr().err
    assert cluster.asked == []


def test_remove(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "remove", "n2") == "n2 is removed"
    assert cluster.asked == [("cluster.remove", {"name": "n2", "absent": False})]
    cluster.changed = False
    assert said(capsys, "remove", "n2") == "n2 is not a member"
    cluster.refuses = "cluster.remove"
    assert main(["cluster", "remove", "n2", "--config", "c.yaml"]) == 1
    assert capsys.readouterr().err.strip() == "stanchion: not now"


def test_replace_adds_before_it_removes(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "replace", "n3", "n4") == "n3 is removed; n4 votes"
    assert [verb for verb, _ in cluster.asked] == ["cluster.add", "cluster.remove"]
    answer = json.loads(said(capsys, "replace", "n3", "n4", "--json"))
    assert (answer["added"]["name"], answer["removed"]["name"]) == ("n4", "n3")


def test_replace_removes_nothing_if_the_address_is_missing(cluster: Cluster) -> None:
    cluster.refuses = "cluster.add"
    assert main(["cluster", "replace", "n3", "n4", "--config", "c.yaml"]) == 1
    assert main(["cluster", "replace", "n9", "n9", "--config", "c.yaml"]) == 2
    assert [verb for verb, _ in cluster.asked] == ["cluster.add"]


def test_replace_by_its_own_name(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Only if it is stopped: otherwise a second command would remove what the first one added."""
    assert said(capsys, "replace", "n3", "n3") == "n3 is removed; n3 votes"
    assert cluster.asked[0] == ("cluster.remove", {"name": "n3", "absent": True})
    assert cluster.asked[1][0] == "cluster.add"


def test_members(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "members").splitlines()
    assert lines[1].split() == ["n1", "leader", "connected", "12", "as", "configured"]
    assert lines[2].split() == ["n4", "learner", "disconnected", "0", "h:6"]
    assert lines[3] == "a membership change is in progress"
