"""A configuration as a tree of values that know where they stand.

A file, an environment variable and a ``--set`` flag all become the same tree, so that an override
is a branch put in place of another, and every later complaint can name its own place. Values stay
text with the type that YAML saw; `load` decides what they should be.

Only composing is asked of PyYAML: no object is ever constructed from a tag. Anchors and aliases
are refused, because a file of a few lines can use them to describe a tree of billions of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import yaml

FILE_SIZE_MAX = 1024 * 1024
"""Bytes. A thousand times what a large cluster needs."""

DEPTH_MAX = 32
"""Lists and mappings within one another: four times what is needed. PyYAML's time grows with the square."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One word: ``type`` is text, integer, decimal, boolean or null, as YAML 1.1 resolves it."""

    place: str
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    place: str
    values: list[Tree]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys to values; ``key_places`` says where each key itself stands."""

    place: str
    values: dict[str, Tree] = field(default_factory=dict)
    key_places: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, place: str, value: Tree) -> None:
        self.values[key] = value
        self.key_places[key] = place


class _Mark(Protocol):
    """Where the parser was, counted from 0."""

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
    """What a text held, and every mistake in its form."""

    tree: Tree | None
    problems: list[str]


def parse(text: str, name: str, *, positions: bool = True) -> Parsed:
    """The tree in a YAML ``text``.

    Args:
        text: one YAML document; an empty one gives no tree and no problem.
        name: the file, variable or flag it comes from, as complaints shall name it.
        positions: whether complaints name line and column too; a variable has just its name.
    """
    import yaml  # only when there is YAML to read: the reference's command has other files

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
    """What a small text could make a large tree of, or a slow one. Ends where it is nested too deeply."""
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
        problems.append(f"{place}: expected a key, a single word")
    elif key.value in mapping.values:
        problems.append(
            f"{place}: {key.value} is given twice; the first is at {mapping.key_places[key.value]}"
        )
    else:
        mapping.put(key.value, place, value)


def describe(tree: Tree) -> str:
    """What kind of thing ``tree`` is, for "expected a duration, not a mapping". Never its content."""
    if isinstance(tree, Mapping):
        return "a mapping"
    if isinstance(tree, Items):
        return "a list"
    return {"null": "nothing", "integer": "an integer"}.get(tree.type, f"a {tree.type}").replace(
        "a text", "text"
    )
