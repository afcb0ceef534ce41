"""A configuration as a tree of values with their places.

Files, environment variables and ``--set`` flags all become such trees. An override replaces a branch, and
every error can name the place of its value. A value keeps its text and its YAML type; `load` converts it.

Only PyYAML's composer is used: no object is constructed from a tag. Anchors and aliases are refused, because
a few lines of them can describe a tree of billions of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import yaml

FILE_SIZE_MAX = 1024 * 1024
"""Bytes. 1,000 times the size of a large cluster's file."""

DEPTH_MAX = 32
"""Nested lists and mappings: four times what is needed. PyYAML's time grows with the square of the depth."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One word. ``type`` is text, integer, decimal, boolean or null, by the rules of YAML 1.1."""

    place: str
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    place: str
    values: list[Tree]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values; ``key_places`` has the place of each key."""

    place: str
    values: dict[str, Tree] = field(default_factory=dict)
    key_places: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, place: str, value: Tree) -> None:
        self.values[key] = value
        self.key_places[key] = place


class _Mark(Protocol):
    """A position of the parser, counted from 0."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


Tree: TypeAlias = Scalar | Items | Mapping

_TYPES = {
    "tag:yaml.org,2002:str": "text",
    "tag:yaml.org,2002:int": "integer",
    "tag:yaml.org,2002:float": "decimal",
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:timestamp": "text",
    "tag:yaml.org,2002:merge": "text",
    "tag:yaml.org,2002:value": "text",
}


@dataclass(slots=True)
class Parsed:
    """The result of parsing a text: its tree and its syntax errors."""

    tree: Tree | None
    problems: list[str]


def parse(text: str, name: str, *, positions: bool = True) -> Parsed:
    """Parse a YAML text into a tree.

    Args:
        text: one YAML document; if it is empty, there is no tree and no problem.
        name: the file, variable or flag, for error texts.
        positions: whether error texts have line and column; a variable has only its name.
    """
    import yaml  # only if there is YAML: the Go server's files are not

    problems: list[str] = []

    def place(mark: _Mark | None) -> str:
        if not positions or mark is None:
            return name
        return f"{name}:{mark.line + 1}:{mark.column + 1}"

    try:
        refused = [f"{place(mark)}: {what}" for mark, what in _refused(text)]
        if refused:
            return Parsed(None, refused)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        what = " ".join(part for part in (error.context, error.problem) if part)
        return Parsed(None, [f"{place(error.problem_mark or error.context_mark)}: not YAML: {what}"])
    except yaml.reader.ReaderError as error:
        return Parsed(None, [f"{name}: not YAML: {error.reason} at character {error.position}"])
    except RecursionError:
        return Parsed(None, [f"{name}: nested too deeply"])
    if node is None:
        return Parsed(None, problems)

    def convert(node: yaml.Node) -> Tree:
        here = place(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            mapping = Mapping(here)
            for key, value in node.value:
                _put(mapping, key, place(key.start_mark), convert(value), problems)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return Items(here, [convert(value) for value in node.value])
        kind = _TYPES.get(node.tag)
        if kind is None:
            problems.append(f"{here}: the tag {node.tag} is not supported")
        return Scalar(here, kind or "text", node.value)

    return Parsed(convert(node), problems)


def _refused(text: str) -> Iterator[tuple[_Mark | None, str]]:
    """Yield constructs that are refused because they can make a huge or slow tree. Ends at `DEPTH_MAX`."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            yield event.start_mark, "aliases (*name) are not supported"
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                yield event.start_mark, f"nested too deeply: more than {DEPTH_MAX} lists and mappings"
                return
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _put(mapping: Mapping, key: yaml.Node, place: str, value: Tree, problems: list[str]) -> None:
    import yaml

    if not isinstance(key, yaml.ScalarNode):
        problems.append(f"{place}: expected a key that is a single word")
    elif key.value in mapping.values:
        problems.append(f"{place}: {key.value} is given twice; first at {mapping.key_places[key.value]}")
    else:
        mapping.put(key.value, place, value)


def describe(tree: Tree) -> str:
    """Describe the type of ``tree`` for error texts such as "expected a duration, not a mapping".

    The text never contains the value.
    """
    if isinstance(tree, Mapping):
        return "a mapping"
    if isinstance(tree, Items):
        return "a list"
    return {"null": "nothing", "integer": "an integer"}.get(tree.type, f"a {tree.type}").replace(
        "a text", "text"
    )
