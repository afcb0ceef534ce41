"""docs/pitfalls.md: each fact has a test that names it, each weak point lines of the checklist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
FACTS, WEAK_POINTS = PAGE.split("## Twelve weak points")
ROW = re.compile(r"^\| (\d+) \|", re.MULTILINE)
CHECKLIST = re.compile(r"\b[A-Z]{3}-\d\d\b")


def docstrings() -> list[str]:
    """Of every test of the end-to-end test of these facts."""
    tree = ast.parse((ROOT / "tests" / "e2e" / "test_pitfalls.py").read_text(encoding="utf-8"))
    tests = (
        each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    )
    return [ast.get_docstring(test) or "" for test in tests]


def test_all_are_there() -> None:
    assert [int(number) for number in ROW.findall(FACTS)] == list(range(1, 16))
    assert [int(number) for number in ROW.findall(WEAK_POINTS)] == list(range(1, 13))


@pytest.mark.parametrize("number", range(1, 16))
def test_a_test_names_each_fact(number: int) -> None:
    assert sum(text.startswith(f"Pitfall {number}:") for text in docstrings()) == 1


@pytest.mark.parametrize("row", [line for line in WEAK_POINTS.splitlines() if ROW.match(line)])
def test_each_weak_point_has_lines_of_the_checklist_that_are_shown(row: str) -> None:
    """The last column; docs/conformance.md says by which tests."""
    conformance = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    ids = CHECKLIST.findall(row.rstrip(" |").rpartition("|")[2])
    assert ids
    for each in ids:
        (line,) = re.findall(rf"^\| {each} \|.*$", conformance, re.MULTILINE)
        assert ".py: " in line or ".txt`" in line, f"nothing shows {each}"
