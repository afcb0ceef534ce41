"""Lists are requested page by page."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from unit.cli.answers import Asked

from node.cli.listing import PAGE, add_page, changing, listed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_page(parser, "NAME")
    return parser.parse_args(words)


def rows(page: Any) -> list[int]:
    return [row["n"] for row in page["rows"]]


def test_all_pages_are_requested(asked: Asked) -> None:
    asked.answers = [
        {"rows": [{"n": n} for n in range(PAGE)], "next": "x"},
        {"rows": [{"n": PAGE}], "next": None},
    ]
    everything = listed(arguments(), "thing.ls", "rows", {"colour": "red"})
    assert (rows(everything), everything["next"]) == ([*range(PAGE + 1)], None)
    assert asked.requests == [
        ("thing.ls", {"colour": "red", "limit": PAGE}),
        ("thing.ls", {"colour": "red", "limit": PAGE, "after": "x"}),
    ]


def test_the_limit_is_kept(asked: Asked) -> None:
    asked.answers = [{"rows": [{"n": 1}, {"n": 2}], "next": "b"}]
    some = listed(arguments("--limit", "2", "--after", "a"), "thing.ls", "rows", {})
    assert (rows(some), some["next"]) == ([1, 2], "b")
    assert asked.requests == [("thing.ls", {"limit": 2, "after": "a"})]


def test_a_change_has_the_timeout() -> None:
    """R8: it must not be executed later."""
    fields = changing(arguments("--timeout", "3"), channel="foo", up_to=None, force=False)
    assert fields == {"channel": "foo", "force": False, "timeout_s": 3.0}
