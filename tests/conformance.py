"""The table of tests by line of the checklist: ``python tests/conformance.py`` writes docs/conformance.md.

A test covers a line of docs/checklist.md if it names its ID in its docstring. If all tests of a file or class
cover a line, the docstring of the file or class names the ID. A script names IDs in the comments beside its
commands. (The first comment of a script is an overview that also names lines covered elsewhere, so it doesn't
count.)
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
"""IDs that no test covers yet. An ID leaves this set with its first test; none may come back."""

SHOWN_MAX = 4
"""At most this many tests are listed per ID."""

ID = re.compile(r"\b[A-Z]{3}-\d\d\b")
RANGE = re.compile(r"\b([A-Z]{3})-(\d\d) to \1-(\d\d)\b")
LINE = re.compile(r"\| ([A-Z]{3}-\d\d) \| (.*) \|")


def ids(text: str) -> list[str]:
    """Return the IDs that a text names, including those of ranges like ``DUR-01 to DUR-03``."""
    found = ID.findall(text)
    for area, first, last in RANGE.findall(text):
        found += [f"{area}-{number:02}" for number in range(int(first), int(last))]
    return sorted(set(found))


def checklist() -> dict[str, str]:
    """Return the observation of each ID, in the order of the checklist."""
    return dict(LINE.findall(CHECKLIST.read_text()))


def tests() -> dict[str, list[str]]:
    """Return the tests that name each ID, as ``file: test``, or the file."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*")):
        if path.suffix == ".txt":
            named = _of_script(path)
        elif path.suffix == ".py" and path.name.startswith("test_"):
            named = _of_module(ast.parse(path.read_text()), path.relative_to(ROOT / "tests").as_posix())
        else:
            continue
        for identifier, test in named:
            if test not in found.setdefault(identifier, []):
                found[identifier].append(test)
    return found


def _of_script(path: Path) -> Iterator[tuple[str, str]]:
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
    """Return the text of docs/conformance.md."""
    lines, shown = checklist(), tests()
    pending = [identifier for identifier in lines if identifier not in shown]
    text = [
        "# Conformance",
        "",
        "This page lists the tests that show each line of the [checklist](checklist.md). It is written by",
        "`python tests/conformance.py`. A test fails if the page is out of date or if a line has no test.",
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
