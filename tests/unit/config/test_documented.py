"""Every option is in docs/configuration.md with its true default, and nothing else is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from node.config.kinds import FilePath
from node.config.model import Config
from node.config.schema import Named, Pair, Section, Several, Word, options, paths

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"
_ROW = re.compile(r"\| `(\w+)` \| (?:`(.*?)`)? ?\|")


def documented() -> dict[str, str]:
    """Every documented key's path and what its default column says."""
    found: dict[str, str] = {}
    section = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif row := _ROW.match(line):
            assert f"{section}.{row[1]}" not in found, f"{section}.{row[1]} is documented twice"
            found[f"{section}.{row[1]}"] = row[2] or ""
    return found


def test_every_option_is_documented_and_no_other() -> None:
    sections = {option.key for option in options(Config)}
    assert set(documented()) == {path for path, _ in paths(Config)} - sections


def test_documented_defaults_are_the_defaults() -> None:
    wrong = [
        f"{path}: documented as {said or 'nothing'}, but it is {default!r}"
        for path, said in documented().items()
        for default, read in [default_of(path)]
        if read is not None and said != "" and read(said) != default
    ] + [
        f"{path}: no default is documented, but it is {default!r}"
        for path, said in documented().items()
        for default, read in [default_of(path)]
        if read is not None and said == "" and default not in (None, ())
    ]
    assert wrong == []


def default_of(path: str) -> tuple[Any, Any]:
    """A scalar option's default, and what reads the documented text; ``(…, None)`` for others."""
    of: type[Any] = Config
    *way, last = path.split(".")
    for step in way:
        if step != "*":
            (shape,) = (option.shape for option in options(of) if option.key == step)
            assert isinstance(shape, Section | Named | Several)
            of = shape.of
    option = next(option for option in options(of) if last in option.keys)
    (field,) = (field for field in fields(of) if field.name == option.field)
    default = None if option.required else field.default
    match option.shape:
        case Word(kind=FilePath()):
            return None if default is None else str(default), str
        case Word(kind=kind):
            return default, kind.read
        case Pair(kind=kind):
            return default, lambda text: tuple(kind.read(part) for part in text.strip("[]").split(", "))
    return default, None
