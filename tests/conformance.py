"""Which tests show which line of the checklist: ``python tests/conformance.py`` writes docs/conformance.md.

A test shows a line of docs/checklist.md if it names its id: in its docstring, or, if all tests of a file
are about it, in the docstring of the file or class; a story in a comment beside the commands. (A story's
first comment is an overview that also says what is shown elsewhere, so it doesn't count.)
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKLIST = ROOT / "docs" / "checklist.md"
TABLE = ROOT / "docs" / "conformance.md"

PENDING = {"AUT-09", "AUT-10", "AUT-11"}
"""Ids that no test shows yet. An id leaves this list with its first test; none may come back."""

SHOWN_MAX = 4
"""So many tests are listed for an id."""

ID = re.compile(r"\b[A-Z]{3}-\d\d\b")
RANGE = re.compile(r"\b([A-Z]{3})-(\d\d) to \1-(\d\d)\b")
LINE = re.compile(r"\| ([A-Z]{3}-\d\d) \| (.*) \|")


def ids(text: str) -> list[str]:
    """The ids that a text names, ``DUR-01 to DUR-03`` being three of them."""
    found = ID.findall(text)
    for area, first, last in RANGE.findall(text):
        found += [f"{area}-{number:02}" for number in range(int(first), int(last))]
    return sorted(set(found))


def checklist() -> dict[str, str]:
    """Each id's observation, in the order of the checklist."""
    return dict(LINE.findall(CHECKLIST.read_text()))


def tests() -> dict[str, list[str]]:
    """For each id the tests that name it, as ``file: test``, or the file."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*")):
        if path.suffix == ".txt":
            named = _of_story(path)
        elif path.suffix == ".py" and path.name.startswith("test_"):
            named = _of_module(ast.parse(path.read_text()), path.relative_to(ROOT / "tests").as_posix())
        else:
            continue
        for identifier, test in named:
            if test not in found.setdefault(identifier, []):
                found[identifier].append(test)
    return found


def _of_story(path: Path) -> Iterator[tuple[str, str]]:
    _, _, body = path.read_text().partition("\n\n")
    comments = " ".join(line[1:].strip() for line in body.splitlines() if line.startswith("#"))
    for identifier in ids(comments):
        yield identifier, f"scripts/{path.name}"


def _of_module(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    for identifier in ids(ast.get_docstring(node) or ""):
        yield identifier, name
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _of_module(child, f"{name}: {child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name.startswith("test_"):
            for identifier in ids(ast.get_docstring(child) or ""):
                yield identifier, f"{name}: {child.name}"


def table() -> str:
    """The text of docs/conformance.md."""
    lines, shown = checklist(), tests()
    pending = [identifier for identifier in lines if identifier not in shown]
    text = [
        "# Conformance",
        "",
        "Which tests show which line of the [checklist](checklist.md), and so of the protocol. Written by",
        "`python tests/conformance.py`; a test fails when it is out of date, or when a line has no test.",
        "",
        f"{len(lines) - len(pending)} of {len(lines)} lines are shown."
        + (f" Pending: {', '.join(pending)}." if pending else ""),
    ]
    area = ""
    for identifier, observation in lines.items():
        if identifier[:3] != area:
            area = identifier[:3]
            text += ["", f"## {area}", "", "| id | observation | shown by |", "|---|---|---|"]
        text.append(f"| {identifier} | {observation} | {_cell(shown.get(identifier, []))} |")
    return "\n".join(text) + "\n"


def _cell(found: list[str]) -> str:
    if not found:
        return "pending"
    cell = "<br>".join(f"`{test}`" for test in found[:SHOWN_MAX])
    return cell if len(found) <= SHOWN_MAX else f"{cell}<br>and {len(found) - SHOWN_MAX} more"


if __name__ == "__main__":
    TABLE.write_text(table())
    sys.stdout.write(f"{TABLE.relative_to(ROOT)} is written\n")
