"""``stanchion status`` shows the leader, the progress of the nodes, and the unreachable nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.cli import status as command
from node.cli.main import main
from node.config.values import Address
from node.errors import UnavailableError

CONFIG = """
cluster:
  nodes:
    n1: {client: 127.0.0.1:1, peer: 127.0.0.1:2, http: 127.0.0.1:3}
    n2: {client: 127.0.0.1:4, peer: 127.0.0.1:5, http: 127.0.0.1:6}
    n3: {client: 127.0.0.1:7, peer: 127.0.0.1:8}
monitoring: {http_base_path: /nats, token: hunter2}
"""


def pages(role: str, *, leader: str = "n1", health: str = "", **channels: Any) -> dict[str, Any]:
    return {
        "/nats/healthz": {"status": "error", "error": health} if health else {"status": "ok"},
        "/nats/streaming/serverz": {"clients": 2, "uptime": "3m5s"},
        "/nats/raftz": {
            "role": role,
            "term": 4,
            "leader": leader,
            "commit_index": 120,
            "applied_index": 120,
            "last_index": 121,
            "event_loop": {"p50_ms": 1, "p99_ms": 3, "longest_ms": 12.5},
        },
        "/nats/streaming/channelsz?subs=1": {"total": len(channels.get("channels", [])), **channels},
    }


CHANNEL = {
    "name": "orders",
    "msgs": 5,
    "bytes": 640,
    "first_seq": 3,
    "last_seq": 7,
    "subs_count": 1,
    "subscriptions": [
        {
            "client_id": "ann",
            "queue_name": "d:workers",
            "last_sent": 6,
            "pending_count": 2,
            "max_inflight": 2,
            "is_offline": False,
            "is_unreachable": False,
            "is_stalled": True,
            "is_paused": True,
        }
    ],
}


class Asked:
    """Nodes with prepared answers, by port."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: dict[int, dict[str, Any]] = {}
        self.tokens: set[str] = set()
        monkeypatch.setattr(command, "ask", self.ask)

    async def ask(self, address: Address, path: str, *, token: str, timeout_s: float) -> Any:
        self.tokens.add(token)
        if address.port not in self.nodes:
            raise UnavailableError("can't be reached: connection refused")
        return self.nodes[address.port][path]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_the_table_shows_nodes_channels_and_subscriptions(
    asked: Asked, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.nodes = {3: pages("Leader", channels=[CHANNEL]), 6: pages("Follower")}
    del asked.nodes[6]["/nats/raftz"]["event_loop"]  # an older release
    assert main(["status", "--config", file, "--only", "n1,n2"]) == 0
    assert capsys.readouterr().out == (
        "cluster test-cluster: 2 of 2 nodes answer\n"
        "\n"
        "node  role      term  leader  commit  applied  last  clients  loop p99  uptime\n"
        "n1    Leader       4  n1         120      120   121        2  3 ms      3m5s\n"
        "n2    Follower     4  n1         120      120   121        2  -         3m5s\n"
        "\n"
        "channels (seen by n1)\n"
        "channel  messages  bytes  first  last  subscriptions\n"
        "orders          5    640      3     7              1\n"
        "\n"
        "subscriptions\n"
        "channel  client  durable or queue  last sent  unacked  max in flight\n"
        "orders   ann     d:workers                 6        2              2  stalled paused\n"
    )
    assert asked.tokens == {"hunter2"}


def test_a_learner_is_shown_as_learner(asked: Asked, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A learner follows but does not vote: a cluster of two and a learner has two voters."""
    learner = pages("Follower")
    learner["/nats/raftz"]["learners"] = ["n2"]
    asked.nodes = {3: pages("Leader"), 6: learner}
    assert main(["status", "--config", file, "--only", "n1,n2"]) == 0
    assert "\nn2    Learner " in capsys.readouterr().out


def test_a_node_that_cannot_be_asked_has_the_reason(
    asked: Asked, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.nodes = {3: pages("Leader")}
    assert main(["status", "--config", file]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cluster test-cluster: 1 of 3 nodes answer"
    assert lines[4].endswith("  can't be reached: connection refused")
    assert lines[5].endswith("  no http address in the configuration")


def test_unreachable_nodes_are_shown(asked: Asked, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", file]) == 1
    assert "0 of 3 nodes answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    "second",
    [pages("Follower", leader=""), pages("Leader", leader="n2"), pages("Follower", health="no leader")],
)
def test_problems_are_status_1(asked: Asked, file: str, second: dict[str, Any]) -> None:
    asked.nodes = {3: pages("Leader"), 6: second}
    assert main(["status", "--config", file, "--only", "n1,n2"]) == 1


def test_warnings_do_not_change_the_status(
    asked: Asked, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = pages("Follower")
    warned["/nats/healthz"] = {"status": "ok", "warnings": ["durability is relaxed"]}
    asked.nodes = {3: pages("Leader"), 6: warned}
    assert main(["status", "--config", file, "--only", "n1,n2"]) == 0
    assert "\n\nn2: durability is relaxed\n\n" in capsys.readouterr().out


def test_json_has_all_answers(asked: Asked, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked.nodes = {3: pages("Leader", channels=[CHANNEL])}
    assert main(["status", "--config", file, "--json", "--only", "n1,n2"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["nodes"]["n2"] == {"error": "can't be reached: connection refused"}
    assert printed["nodes"]["n1"]["raftz"]["role"] == "Leader"
    assert printed["nodes"]["n1"]["channelsz"]["channels"] == [CHANNEL]


def test_an_unknown_node_is_refused(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", file, "--only", "n9"]) == 2
    assert "has no node n9" in capsys.readouterr().err
