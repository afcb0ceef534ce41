"""Whoever finds a rule's name in the code can look it up in ``docs/``, and links there lead somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

RULE = re.compile(r"\b(?:[RDESTLI][0-9]{1,2}|PS-[0-9]{1,2}|[A-Z]{3}-[0-9]{2}|CONN-[A-Z])\b")
"""R4, D15, E11, S1, PS-1, NET-05, CONN-A."""
NOT_A_RULE = re.compile(r"CRC-32|# noqa.*|R\d×\d")
DEFINED = re.compile(r"^(?:- \*\*|\| )(" + RULE.pattern + r")(?= |\*)", re.MULTILINE)

COMMENT_OR_DOCSTRING = re.compile(r'"""(?:.|\n)*?"""|#.*')


@cache
def defined(page: str) -> frozenset[str]:
    return frozenset(DEFINED.findall((DOCS / page).read_text(encoding="utf-8")))


def files() -> list[Path]:
    here = Path(__file__)
    found = [path for folder in ("node", "tests") for path in (ROOT / folder).rglob("*.py")]
    found += [*(ROOT / "tests").rglob("*.txt")]
    return sorted(path for path in found if path != here and not path.name.endswith(("_pb2.py", "_pb2.pyi")))


def prose(path: Path) -> str:
    """The comments and docstrings of a module; the whole of another file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    return "\n".join(COMMENT_OR_DOCSTRING.findall(text))


def named(path: Path) -> set[str]:
    return set(RULE.findall(NOT_A_RULE.sub("", prose(path))))


def page_for(rule: str) -> str:
    if rule.startswith("PS-"):
        return "raft-engine.md"
    return "checklist.md" if re.fullmatch(r"[A-Z]{3}-\d\d", rule) else "rules.md"


def test_no_page_has_a_conflict_that_was_not_resolved() -> None:
    pages = [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    marked = re.compile(r"^(?:<{7} |={7}$|>{7} )", re.MULTILINE)
    assert [page.name for page in pages if marked.search(page.read_text(encoding="utf-8"))] == []


def test_every_rule_that_is_named_is_defined() -> None:
    """The project needs nothing outside itself."""
    missing = [
        f"{path.relative_to(ROOT)}: {rule}"
        for path in files()
        for rule in sorted(named(path))
        if rule not in defined(page_for(rule))
    ]
    assert missing == []


def test_the_rules_that_are_looked_for_are_found() -> None:
    """A check that finds nothing proves nothing."""
    found = {rule for path in files() for rule in named(path)}
    assert {"R4", "D15", "E11", "S1", "PS-1", "NET-05", "CONN-B"} <= found
    assert len(found) > 200


@pytest.mark.parametrize("page", ["rules.md", "checklist.md", "raft-engine.md"])
def test_no_rule_is_defined_twice(page: str) -> None:
    ids = DEFINED.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))


def test_the_series_have_no_gaps() -> None:
    """R1 to R30 and so on: a number that is missing was forgotten, for none is ever taken away."""
    for page, letter, last in (
        ("rules.md", "R", 30), ("rules.md", "D", 47), ("rules.md", "E", 15), ("rules.md", "T", 6),
        ("rules.md", "S", 9), ("rules.md", "L", 6), ("rules.md", "I", 5),
        ("raft-engine.md", "PS-", 47),
    ):  # fmt: skip
        assert {f"{letter}{number}" for number in range(1, last + 1)} <= defined(page), (page, letter)


def pages() -> list[Path]:
    return sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "tests").rglob("*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of this project, and to a heading that is there."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_relative_to(ROOT), target
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert heading in slugs, target


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """A path of this project in backquotes is one that is there."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:node|tests|docs|cluster-configs|bench)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name


def test_no_text_holds_the_two_sides_of_a_conflict() -> None:
    """A page of the documentation said both what was so and what had been."""
    texts = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    marked = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)
    assert [path.name for path in texts if marked.search(path.read_text(encoding="utf-8"))] == []
