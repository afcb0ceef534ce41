"""The options of the model's dataclasses as a table, for `load` and for the test of the documentation."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

from node.config.kinds import Confidential, Kind, Range, Words


class Word(NamedTuple):
    """One scalar."""

    kind: Kind


class Pair(NamedTuple):
    """A list of two scalars, the smaller one first."""

    kind: Kind


class WordList(NamedTuple):
    """A list of scalars."""

    kind: Kind


class Hidden(NamedTuple):
    """A secret: one of ``key`` (if ``direct``), ``key_env`` and ``key_file``."""

    direct: bool


class Section(NamedTuple):
    """A mapping with the fields of ``of`` as its keys."""

    of: type[Any]


class Named(NamedTuple):
    """A mapping of names to mappings with the fields of ``of``."""

    of: type[Any]


class Several(NamedTuple):
    """A list of mappings with the fields of ``of``."""

    of: type[Any]


Shape: TypeAlias = Word | Pair | WordList | Hidden | Section | Named | Several


class Option(NamedTuple):
    """One option: its key in the file, its field and the shape of its value."""

    key: str
    field: str
    shape: Shape
    required: bool

    @property
    def keys(self) -> list[str]:
        """All keys that give this option."""
        match self.shape:
            case Hidden(direct=direct):
                return ([self.key] if direct else []) + [f"{self.key}_env", f"{self.key}_file"]
            case _:
                return [self.key]


def options(of: type[Any]) -> tuple[Option, ...]:
    """Return the options of a section, in the order of its fields."""
    hints = get_type_hints(of, include_extras=True)
    return tuple(
        Option(
            key=field.name.removesuffix("_ns"),
            field=field.name,
            shape=_shape(hints[field.name]),
            required=field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(of)
    )


def _shape(hint: Any) -> Shape:
    if get_origin(hint) is Annotated:
        match get_args(hint)[1]:
            case Range(of=kind):
                return Pair(kind)
            case Words(of=kind):
                return WordList(kind)
            case Confidential(direct=direct):
                return Hidden(direct)
            case kind:
                return Word(kind)
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Mapping:
        return Named(get_args(hint)[1])
    if get_origin(hint) is tuple:
        return Several(get_args(hint)[0])
    assert isinstance(hint, type), hint
    assert dataclasses.is_dataclass(hint), f"no kind is annotated: {hint}"
    return Section(hint)


def paths(of: type[Any], prefix: str = "") -> Iterator[tuple[str, Shape]]:
    """Yield all keys, as paths like ``cluster.nodes.*.client``, with their shapes."""
    for option in options(of):
        for key in option.keys:
            yield prefix + key, option.shape
        match option.shape:
            case Section(of=section):
                yield from paths(section, f"{prefix}{option.key}.")
            case Named(of=section) | Several(of=section):
                yield from paths(section, f"{prefix}{option.key}.*.")
