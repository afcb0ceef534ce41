"""The project speaks the language of its field: private words that were replaced don't come back.

Each of these words has a term of the NATS Streaming documentation, the Raft papers or etcd in its place; see
CONTRIBUTING.md, Language. Words that also have a plain meaning (*ordering*, *source*) are not in the list.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TERMS = {
    "founding": "bootstrap",
    "founded": "bootstrapped",
    "founder": "initial voter",
    "founders": "initial voters",
    "refound": "recover cluster",
    "newcomer": "joining node",
    "newcomers": "joining nodes",
    "entrance": "join server",
    "foreign": "remote",
    "guest": "remote client",
    "guests": "remote clients",
    "keeper": "leader duties",
    "performer": "effect executor",
    "hungry": "sendable",
    "overdue": "redelivery due",
    "sealer": "value cipher",
    "sealing": "encryption",
    "comparing": "state digest check",
    "agreeing": "settings sync",
    "upkeep": "maintenance",
}
"""Words that must not be part of an identifier, and what to use instead."""

IN_TEXTS = TERMS.keys() - {"comparing"}
"""Those that must not be in documentation or in texts for users either."""

KEYS = {"founding", "founding_id", "founded", "foreign", "sealing", "sealing.json", "agreeing"}
"""Texts that stand alone: keys and values of formats on the wire and on the disk keep their bytes."""

QUOTED = re.compile(r"``[^`]*``|`[^`]*`|\"\w+\"|\{[\w, ]+\}")
"""Keys that a text names."""


def sources() -> list[Path]:
    return [
        path
        for folder in ("node", "tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.name.endswith("_pb2.py") and path != Path(__file__)
    ]


def words_of(name: str) -> set[str]:
    """The words that an identifier is made of, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """All texts in a module: those for users, docstrings, and keys."""
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield found.lineno, found.value


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_terms_of_the_field(path: Path) -> None:
    found = {
        f"{line}: {name}: use {TERMS[word]!r}"
        for line, name in identifiers(path)
        for word in words_of(name) & TERMS.keys()
    }
    assert not found


@pytest.mark.parametrize(
    "path", [path for path in sources() if path.is_relative_to(ROOT / "node")],
    ids=lambda path: str(path.relative_to(ROOT)),
)  # fmt: skip
def test_texts_are_in_terms_of_the_field(path: Path) -> None:
    found = {
        f"{line}: {word}: use {TERMS[word]!r}"
        for line, text in texts(path)
        if text not in KEYS
        for word in words_of(QUOTED.sub("", text)) & IN_TEXTS
    }
    assert not found


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_documentation_is_in_terms_of_the_field(path: Path) -> None:
    found = {
        f"{line}: {word}: use {TERMS[word]!r}"
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word in words_of(QUOTED.sub("", text)) & IN_TEXTS
    }
    assert not found
