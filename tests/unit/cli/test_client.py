"""The arguments of ``stanchion client`` and its output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.cli.answers import Asked, row

from node.cli.main import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def me(**values: Any) -> dict[str, Any]:
    return {
        "id": "me",
        "unreachable": False,
        "unresponsive": False,
        "subscriptions": 2,
        "heartbeat_inbox": "hb",
    } | values


def test_a_list(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answers = [{"clients": [me(), me(id="you", unreachable=True, unresponsive=True)], "next": None}]
    assert main(["client", "ls"]) == 0
    assert capsys.readouterr().out == (
        "client  subscriptions  state                     heartbeat inbox\n"
        "me                  2  ok                        hb\n"
        "you                 2  unreachable unresponsive  hb\n"
    )


def test_info(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answers = [me(protocol=1, subscriptions_shown=[row()])]
    assert main(["client", "info", "me"]) == 0
    printed = capsys.readouterr().out
    assert "protocol         1\n\nid  channel  client" in printed
    assert asked.requests == [("client.info", {"client": "me"})]


def test_kick(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not repeated: another connection may have the client ID by then."""
    asked.answers = [me(), me()]
    assert main(["client", "kick", "me"]) == 0
    assert capsys.readouterr().out == "closed client me and its 2 subscriptions\n"
    assert main(["client", "kick", "me", "--json", "--timeout", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == me()
    assert asked.requests[1] == ("client.kick", {"client": "me", "timeout_s": 2.0})
    assert asked.repeatable == [False, False]
