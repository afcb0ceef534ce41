"""The arguments of ``stanchion sub`` and its output."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from node.cli import sub as command
from node.cli.main import main
from node.client import Message
from node.protocol.positions import StartPosition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first", {"start": StartPosition.FIRST}),
        ("last", {"start": StartPosition.LAST_RECEIVED}),
        ("new", {"start": StartPosition.NEW_ONLY}),
        ("seq:7", {"start": StartPosition.SEQUENCE_START, "start_seq": 7}),
        ("since:10m", {"start": StartPosition.TIME_DELTA_START, "start_delta_s": 600.0}),
    ],
)
def test_start_positions(text: str, expected: dict[str, Any]) -> None:
    assert command.start(text) == expected


@pytest.mark.parametrize("text", ["", "seq", "seq:", "seq:0", "seq:-1", "since:", "since:10", "oldest"])
def test_other_start_positions_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        command.start(text)


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("2m", 120), ("5", 5)])
def test_an_ack_wait_is_in_whole_seconds(text: str, expected: int) -> None:
    assert command.seconds(text) == expected


@pytest.mark.parametrize("text", ["500ms", "0", "-1s", "soon", "1.5s"])
def test_other_ack_waits_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        command.seconds(text)


@pytest.mark.parametrize("text", ["0", "-3", "many"])
def test_max_in_flight_is_above_zero(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "c", "--max-in-flight", text]) == 2
    assert "max-in-flight" in capsys.readouterr().err


def message(data: bytes, count: int = 0) -> Message:
    return Message(None, 12, "c", data, 0, count > 0, count, 0.0)  # type: ignore[arg-type]


def test_a_message_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    command.show(message(b"hello"))
    command.show(message(b"hello", 3))
    command.show(message(b"\xff"))
    assert capsys.readouterr().out == "12: hello\n12 redelivered 3: hello\n12: b'\\xff'\n"


def test_an_invalid_channel_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "a b"]) == 2
    assert "not a valid channel name" in capsys.readouterr().err
