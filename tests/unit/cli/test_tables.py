"""Values as text in columns."""

from __future__ import annotations

from node.cli.tables import aligned, described, printable, time_text


def test_numbers_are_right_aligned() -> None:
    assert aligned([("name", "n", "m", ""), ("a", "10", "-", "x"), ("bcdef", "-", "-", "")]) == [
        "name    n  m",
        "a      10  -  x",
        "bcdef   -  -",
    ]
    assert aligned([("queue", "n"), ("-", "1")]) == ["queue  n", "-      1"]


def test_a_line_for_each_value() -> None:
    values = {"a_name": None, "b": True, "c": "", "d": 0.5}
    assert described(values, values) == ["a name  -", "b       yes", "c       -", "d       0.5"]


def test_times_are_utc() -> None:
    assert time_text(1_700_000_000_123_999_999) == "2023-11-14T22:13:20.123Z"
    assert time_text(None) == "-"


def test_control_characters_are_escaped() -> None:
    assert printable("ä\x1b[2J\n\x9b") == "ä\\x1b[2J\\n\\x9b"
