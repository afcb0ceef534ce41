"""The NATS configuration language: no text does more than be refused, and what is written is read back."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.config.conf import read_conf
from node.config.tree import Items, Mapping, Tree
from node.errors import ConfigError

WORDS = st.sampled_from(
    [
        *"{}[]()\"':=,; \n#\\\x00é$",
        "//",
        "\\x4",
        "$A",
        "$B",
        "$2a$1",
        "include ",
        "a",
        "b",
        "5",
        "1k",
        "-",
        "2.5",
        "true",
        "30s",
    ]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=10)
VALUES = st.recursive(
    st.booleans() | st.integers(-(10**18), 10**18) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def read(text: str, **environ: str) -> Mapping:
    with TemporaryDirectory() as folder:
        file = Path(folder, "x.conf")
        file.write_text(text, encoding="utf-8", newline="")
        return read_conf(file, environ).tree


@given(st.lists(WORDS, max_size=30))
@settings(deadline=None, max_examples=100)
def test_any_text_is_read_or_refused(words: list[str]) -> None:
    with suppress(ConfigError):
        read("".join(words), A="[1, {b: $A}]", B="5")


def plain(tree: Tree) -> Any:
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.values.items()}
    if isinstance(tree, Items):
        return [plain(value) for value in tree.values]
    if tree.type == "boolean":
        return tree.text == "true"
    return int(tree.text) if tree.type == "integer" else tree.text


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
@settings(deadline=None, max_examples=50)
def test_json_is_read_as_it_is(document: dict[str, Any]) -> None:
    """The language contains JSON, but for numbers with exponents and a few escapes."""
    text = json.dumps(document, ensure_ascii=False)
    assert plain(read(text)) == document
