"""The arguments of ``stanchion channel`` and its output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from unit.cli.answers import Asked, row

from node.cli.main import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def foo(**values: Any) -> dict[str, Any]:
    return {
        "name": "foo", "messages": 3, "bytes": 90, "first": 5, "last": 7, "subscriptions": 1, "online": 1,
    } | values  # fmt: skip


def test_a_list(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answers = [{"channels": [foo()], "next": None}, {"channels": [], "next": None}]
    assert main(["channel", "ls"]) == main(["channel", "ls"]) == 0
    assert capsys.readouterr().out == (
        "channel  messages  bytes  first  last  subscriptions  online\n"
        "foo             3     90      5     7              1       1\n"
        "no channels\n"
    )


def test_info(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"max_msgs": 10, "max_bytes": 0, "max_age_ns": 90_500_000_000}
    times = {"first_time_ns": 0, "last_time_ns": None, "inactive_in_s": None}
    asked.answers = [foo(**times, limits=limits, subscriptions=2, subscriptions_shown=[row()])]
    assert main(["channel", "info", "foo"]) == 0
    printed = capsys.readouterr().out
    assert "first message  1970-01-01T00:00:00.000Z\nlast message   -\nmax msgs       10\n" in printed
    assert "max bytes      unlimited\nmax age        90.5s\n" in printed
    assert " 3  foo      me      d        -           7       2        1  online\n… and 1 more" in printed
    assert asked.requests == [("channel.info", {"channel": "foo"})]


@pytest.mark.parametrize(
    ("words", "start", "count"),
    [
        ([], 1, 10),
        (["--from", "5"], 5, 10),
        (["--last", "3"], -3, 3),
        (["--last", "3", "--count", "1"], -3, 1),
    ],
)
def test_peek_positions(asked: Asked, words: list[str], start: int, count: int) -> None:
    asked.answers = [{"messages": [], "next": None}]
    assert main(["channel", "peek", "foo", *words]) == 0
    fields = {"channel": "foo", "start": start, "count": count, "data_max": 4096}
    assert asked.requests == [("channel.peek", fields)]


def test_messages(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per message: truncation is marked, binary data is base64, control characters are escaped."""
    head = {"time_ns": 0, "reply": ""}
    messages = [
        {**head, "seq": 1, "size": 2, "data": "h\x1b"},
        {**head, "seq": 2, "size": 9, "data": "h"},
        {**head, "seq": 3, "size": 1, "base64": "/w=="},
    ]
    asked.answers = [{"messages": messages, "next": 4}]
    main(["channel", "peek", "foo"])
    time = "1970-01-01T00:00:00.000Z"
    assert capsys.readouterr().out.splitlines() == [
        f"1  {time}  h\\x1b",
        f"2  {time}  h … (9 bytes)",
        f"3  {time}  base64:/w==",
        "… more from sequence 4",
    ]


@pytest.mark.parametrize(
    ("words", "verb", "fields", "printed"),
    [
        (["purge", "foo"], "channel.purge", {}, "purged: 3 messages left, next sequence 8\n"),
        (["purge", "foo", "--up-to", "4"], "channel.purge", {"up_to": 4}, "purged: 3"),
        (
            ["rm", "foo"],
            "channel.rm",
            {"force": False},
            "removed the channel, 3 messages and 1 subscriptions\n",
        ),
        (["rm", "foo", "--force"], "channel.rm", {"force": True}, "removed"),
    ],
)
def test_changes(
    asked: Asked,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    verb: str,
    fields: dict[str, Any],
    printed: str,
) -> None:
    """A change is not repeated after a broken connection."""
    asked.answers = [foo()]
    assert main(["channel", *words]) == 0
    assert asked.requests == [(verb, {"channel": "foo", "timeout_s": 10.0, **fields})]
    assert asked.repeatable == [False]
    assert capsys.readouterr().out.startswith(printed)


def test_a_channel_that_was_removed_meanwhile(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.answers = [None]
    main(["channel", "purge", "foo"])
    assert capsys.readouterr().out == "purged; the channel has been removed since\n"


def test_json_prints_the_answer(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[Any] = [{"channels": [foo()], "next": None}, foo(), foo(), foo(), {"messages": []}]
    asked.answers = list(answers)
    for words in (["ls"], ["info", "foo"], ["purge", "foo"], ["rm", "foo"], ["peek", "foo"]):
        assert main(["channel", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == answers.pop(0)
