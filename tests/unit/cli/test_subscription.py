"""The arguments of ``stanchion subscription`` and its output."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest
from unit.cli.answers import Asked, row

from node.cli import subscription as command
from node.cli.main import SUBSCRIPTION_ACTIONS, main
from node.units import SECOND


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first", {"to": "first"}),
        ("last", {"to": "last"}),
        ("new", {"to": "end"}),
        ("seq:7", {"to": "sequence", "value": 7}),
        ("since:10m", {"to": "ago", "value": 600 * SECOND}),
        ("time:1970-01-02T00:00:00.5Z", {"to": "time", "value": 86_400 * SECOND + SECOND // 2}),
        ("time:1970-01-01T02:00+02:00", {"to": "time", "value": 0}),
    ],
)
def test_seek_targets(text: str, expected: dict[str, Any]) -> None:
    assert command.place(text) == expected


@pytest.mark.parametrize(
    "text", ["", "seq", "seq:-1", "seq:x", "since:", "since:x", "time:", "time:1970-01-01", "end", "7"]
)
def test_invalid_seek_targets_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        command.place(text)


def test_sub_with_an_action_first_is_subscription(asked: Asked) -> None:
    """The dispatcher and the command have the same actions."""
    assert tuple(command.ACTIONS) == SUBSCRIPTION_ACTIONS
    for name in ("sub", "subscription"):
        asked.answers = [{"subscriptions": [], "next": None}]
        assert main([name, "ls"]) == 0
    assert [verb for verb, _ in asked.requests] == ["subscription.ls"] * 2


@pytest.mark.parametrize("words", [["--", "ls"], ["--count", "1", "ls"]])
def test_a_channel_with_the_name_of_an_action(
    words: list[str], monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    from node.cli import sub

    channels: list[str] = []

    def run(args: argparse.Namespace) -> int:
        channels.append(args.channel)
        return 0

    monkeypatch.setattr(sub, "run", run)
    assert main(["sub", *words]) == 0
    assert channels == ["ls"]
    assert not asked.requests


def test_a_list(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    marked = row(id=12, durable="", queue="q", online=False, paused=True, stalled=True)
    asked.answers = [{"subscriptions": [row(), marked], "next": None}]
    assert main(["sub", "ls", "--channel", "foo", "--paused"]) == 0
    assert capsys.readouterr().out == (
        "id  channel  client  durable  queue  cursor  behind  unacked  state\n"
        " 3  foo      me      d        -           7       2        1  online\n"
        "12  foo      me      -        q           7       2        1  offline stalled paused\n"
    )
    assert asked.requests == [("subscription.ls", {"limit": 500, "channel": "foo", "paused": True})]


def test_info(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    full = row(queue="q", unacked=2, members=[3, 4], orphans=0, ack_wait_s=30.0)
    asked.answers = [{**full, "unacked_shown": [{"seq": 6, "sent": 1, "due_in_s": 2.5}]}]
    assert main(["sub", "info", "--durable", "d", "--queue", "q"]) == 0
    printed = capsys.readouterr().out
    assert asked.requests == [("subscription.info", {"durable": "d", "queue": "q"})]
    assert "members: 3 4\n" in printed
    assert printed.endswith("unacknowledged  sent  due in s\n             6     1  2.5\n… and 1 more\n")


@pytest.mark.parametrize(
    ("words", "verb", "fields", "repeats"),
    [
        (["rm", "3"], "rm", {"id": 3, "group": False, "force": False}, False),
        (
            ["rm", "--queue", "q", "--group", "--force"],
            "rm",
            {"queue": "q", "group": True, "force": True},
            False,
        ),
        (["seek", "3", "--to", "seq:5"], "seek", {"id": 3, "to": "sequence", "value": 5}, False),
        (["pause", "--durable", "d", "--client", "me"], "pause", {"durable": "d", "client": "me"}, True),
        (["resume", "--channel", "foo"], "resume", {"channel": "foo"}, True),
    ],
)
def test_changes(asked: Asked, words: list[str], verb: str, fields: dict[str, Any], repeats: bool) -> None:
    """Only requests that may be executed twice are repeated after a broken connection."""
    asked.answers = [row()]
    assert main(["sub", *words]) == 0
    assert asked.requests == [(f"subscription.{verb}", {"timeout_s": 10.0, **fields})]
    assert asked.repeatable == [repeats]


def test_changes_are_printed(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answers = [row(), row(), row(paused=True), None]
    for words in (["rm", "3"], ["seek", "3", "--to", "last"], ["pause", "3"], ["resume", "3"]):
        main(["sub", *words])
    assert capsys.readouterr().out.splitlines() == [
        "removed: subscription 3 to foo of me durable d (online)",
        "subscription 3 to foo of me durable d (online): cursor 7, 2 messages behind",
        "subscription 3 to foo of me durable d (paused)",
        "done; the subscription has ended since",
    ]


def test_json_prints_the_answer(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["info", "3"], ["rm", "3"], ["seek", "3", "--to", "new"], ["pause", "3"], ["resume", "3"]):
        asked.answers = [row()]
        assert main(["sub", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == row()


def test_seek_needs_a_target(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "seek", "3"]) == 2
    assert main(["sub", "seek", "3", "--to", "nowhere"]) == 2
    assert "expected first, last, new" in capsys.readouterr().err
