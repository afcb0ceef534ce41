"""Read a configuration file, environment variables and flags into a `Config`.

All mistakes are reported at once. Each error text has the place (file, line and column, or the variable or
flag), the mistake and the expected value. Unknown keys, duplicate keys and options without an effect are
mistakes. Error texts never contain a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as AbstractMapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from node.config import checks
from node.config.kinds import FilePath, Kind
from node.config.model import NOT_YET, Config
from node.config.overrides import apply_environment, apply_flags, hint
from node.config.schema import Hidden, Named, Option, Pair, Section, Several, Word, WordList, options
from node.config.tree import FILE_SIZE_MAX, Items, Mapping, Scalar, Tree, describe, parse
from node.config.values import Address, Secret
from node.errors import ConfigError

T = TypeVar("T")

_BLANKS: dict[str, object] = {
    "client": Address("", 0),
    "user": "",
    "password": Secret("text", ""),
    "key": Secret("text", ""),
}
"""Placeholders of required options that are missing or invalid, until everything has been read."""


def load(
    path: str | Path,
    *,
    node: str | None = None,
    overrides: Iterable[str] = (),
    environ: AbstractMapping[str, str] | None = None,
) -> Config:
    """Return the configuration in the file at ``path``.

    Args:
        path: a YAML file; relative paths in it start at its directory.
        node: the node that reads it: ``{node}`` is replaced, and the node's secrets and certificates must
            exist. None: read it for the whole cluster, on any machine.
        overrides: ``section.key=value``; they take precedence over the environment.
        environ: the environment, ``os.environ`` by default.

    Raises:
        ConfigError: with all mistakes.
    """
    path = Path(path)
    parsed = parse(_read(path), str(path))
    if parsed.tree is None and parsed.problems:
        raise ConfigError(parsed.problems)
    tree = parsed.tree or Mapping(f"{path}:1:1")
    if not isinstance(tree, Mapping):
        raise ConfigError([f"{tree.place}: expected a mapping of sections, not {describe(tree)}"])
    overriding = apply_environment(tree, os.environ if environ is None else environ)
    overriding += apply_flags(tree, overrides)
    reader = _Reader(path.absolute().parent, parsed.problems)
    config = reader.section(tree, Config, ())
    findings = checks.check(config)
    if node is not None:
        config = config.for_node(node)
        findings += checks.check_node(config, node)
    for finding in findings:
        reader.report(finding, f"{path}:1:1")
    if overriding or reader.problems:
        raise ConfigError(overriding + sorted(reader.problems, key=_in_order))
    return config


def read_tree(
    tree: Mapping, directory: Path, *, node: str, start: str, complete: Callable[[Config], Config]
) -> Config:
    """Return the configuration of one node from a prepared tree.

    Args:
        tree: the configuration.
        directory: the base of relative paths.
        node: the node's name.
        start: the place shown in errors about missing options.
        complete: adds values that the tree can't hold, before the checks.

    Raises:
        ConfigError: with all mistakes.
    """
    reader = _Reader(directory, [])
    config = complete(reader.section(tree, Config, ())).for_node(node)
    for finding in (*checks.check(config, is_shared=False), *checks.check_node(config, node)):
        reader.report(finding, start)
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
        if len(data) > FILE_SIZE_MAX:
            raise ConfigError([f"{path}: longer than {FILE_SIZE_MAX} bytes"])
        return data.decode()
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text: byte {error.start}"]) from error


def _in_order(problem: str) -> tuple[int, int]:
    """Return line and column of a problem, to sort problems by their place in the file."""
    found = re.match(r".*?:(\d+):(\d+): ", problem)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@dataclass(slots=True)
class _Reader:
    """Converts a tree into dataclasses; records the places of options and all mistakes."""

    directory: Path
    problems: list[str]
    places: dict[checks.Path, str] = field(default_factory=dict)
    bad: set[checks.Path] = field(default_factory=set)

    def fail(self, path: checks.Path, place: str, text: str) -> None:
        self.bad.add(path)
        self.problems.append(f"{place}: {text}")

    def report(self, finding: checks.Finding, start: str) -> None:
        """Add a finding of a check, unless one of its options already has an error."""
        if any(path[: len(bad)] == bad for path in finding.paths for bad in self.bad):
            return
        path = finding.paths[0]
        at = next((self.places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.places), start)
        self.problems.append(f"{at}: {finding.text}")

    def section(self, tree: Tree, of: type[T], path: checks.Path) -> T:
        """Build ``of`` from a mapping. Missing options get their defaults."""
        if isinstance(tree, Scalar) and tree.type == "null":
            tree = Mapping(tree.place)  # a section whose lines are all commented out
        values: dict[str, object] = {}
        if isinstance(tree, Mapping):
            self._refuse_unknown(tree, of, path)
            for option in options(of):
                values.update(self._option(tree, option, path))
        else:
            keys = ", ".join(option.keys[0] for option in options(of))
            self.fail(path, tree.place, f"{_name(path)}: expected a mapping of {keys}, not {describe(tree)}")
            values.update({o.field: _BLANKS[o.field] for o in options(of) if o.required})
        return of(**values)

    def _refuse_unknown(self, tree: Mapping, of: type[Any], path: checks.Path) -> None:
        valid = [key for option in options(of) for key in option.keys]
        for key, place in tree.key_places.items():
            if key in valid or key not in tree.values:
                continue
            name = _name((*path, key))
            reason = NOT_YET.get(_generic((*path, key)))
            if reason is not None:
                text = f"{name}: this release does not support {reason}; remove the key"
            else:
                where = f" in {_name(path)}" if path else ""
                valid_keys = hint(key, valid) or f"; expected one of {', '.join(valid)}"
                text = f"unknown key {key}{where}{valid_keys}"
            self.fail((*path, key), place, text)

    def _option(self, tree: Mapping, option: Option, path: checks.Path) -> dict[str, object]:
        """Return ``{field: value}``, or an empty dict if the default applies."""
        path = (*path, option.key)
        given = [key for key in option.keys if key in tree.values]
        for key in given:
            self.places[path] = tree.values[key].place
        if not given:
            if option.required:
                self.fail(path, tree.place, f"{_name(path)}: missing")
                return {option.field: _BLANKS[option.field]}
            return {}
        if len(given) > 1:
            self.fail(path, tree.key_places[given[1]], f"{_name(path)}: use only one of {', '.join(given)}")
        value = self._value(tree.values[given[0]], option, given[0], path)
        if value is not None:
            return {option.field: value}
        return {option.field: _BLANKS[option.field]} if option.required else {}

    def _value(self, tree: Tree, option: Option, key: str, path: checks.Path) -> object | None:
        match option.shape:
            case Word(kind=kind):
                return self._word(tree, kind, path)
            case Pair(kind=kind):
                return self._pair(tree, kind, path)
            case WordList(kind=kind):
                return self._words(tree, kind, path)
            case Hidden():
                return self._secret(tree, key, option.key, path)
            case Section(of=of):
                section: object = self.section(tree, of, path)
                return section
            case Named(of=of):
                return self._named(tree, of, path)
            case Several(of=of):
                return self._several(tree, of, path)

    def _word(self, tree: Tree, kind: Kind, path: checks.Path) -> object | None:
        name = _name(path)
        if not isinstance(tree, Scalar) or (tree.type != "word" and tree.type not in kind.takes):
            quoted = (
                " (in quotes)"
                if isinstance(tree, Scalar) and tree.type != "null" and "text" in kind.takes
                else ""
            )
            self.fail(path, tree.place, f"{name}: expected {kind.expected}{quoted}, not {describe(tree)}")
            return None
        try:
            value = kind.read(tree.text)
        except ValueError as error:
            self.fail(
                path,
                tree.place,
                f"{name}: {error}, not {tree.text!r}" if _lacks_value(error) else f"{name}: {error}",
            )
            return None
        return self._path(str(value)) if isinstance(kind, FilePath) else value

    def _path(self, text: str) -> Path:
        return Path(os.path.normpath(self.directory / text))

    def _pair(self, tree: Tree, kind: Kind, path: checks.Path) -> object | None:
        if not isinstance(tree, Items) or len(tree.values) != 2:
            found = f"a list of {len(tree.values)}" if isinstance(tree, Items) else describe(tree)
            self.fail(
                path, tree.place, f"{_name(path)}: expected a list of two, [minimum, maximum], not {found}"
            )
            return None
        minimum, maximum = (self._word(value, kind, path) for value in tree.values)
        return None if minimum is None or maximum is None else (minimum, maximum)

    def _words(self, tree: Tree, kind: Kind, path: checks.Path) -> object | None:
        if not isinstance(tree, Items):
            self.fail(path, tree.place, f"{_name(path)}: expected a list, not {describe(tree)}")
            return None
        words = []
        for number, child in enumerate(tree.values):
            self.places[*path, str(number)] = child.place
            words.append(self._word(child, kind, (*path, str(number))))
        return tuple(word for word in words if word is not None)

    def _secret(self, tree: Tree, key: str, stem: str, path: checks.Path) -> Secret | None:
        if not isinstance(tree, Scalar) or tree.type not in ("text", "word") or not tree.text:
            # Never show the content: a secret that looks like a number is a secret.
            self.fail(
                path,
                tree.place,
                f"{_name((*path[:-1], key))}: expected text (in quotes), not {describe(tree)}",
            )
            return None
        if key == stem:
            return Secret("text", tree.text)
        if key.endswith("_env"):
            return Secret("environment", tree.text)
        return Secret("file", str(self._path(tree.text)))

    def _named(self, tree: Tree, of: type[Any], path: checks.Path) -> object | None:
        if isinstance(tree, Scalar) and tree.type == "null":
            return None
        if not isinstance(tree, Mapping):
            self.fail(path, tree.place, f"{_name(path)}: expected a mapping, not {describe(tree)}")
            return None
        found = {}
        for name, child in tree.values.items():
            self.places[*path, name] = tree.key_places[name]
            found[name] = self.section(child, of, (*path, name))
        return MappingProxyType(found)

    def _several(self, tree: Tree, of: type[Any], path: checks.Path) -> object | None:
        if not isinstance(tree, Items):
            self.fail(path, tree.place, f"{_name(path)}: expected a list, not {describe(tree)}")
            return None
        found = []
        for number, child in enumerate(tree.values):
            self.places[*path, str(number)] = child.place
            found.append(self.section(child, of, (*path, str(number))))
        return tuple(found)


def _lacks_value(error: ValueError) -> bool:
    """Return whether the error text says only what was expected, without the value."""
    return str(error).startswith("expected ") and ", not " not in str(error)


def _name(path: checks.Path) -> str:
    return ".".join(f'"{step}"' if "." in step else step for step in path) or "the file"


def _generic(path: checks.Path) -> str:
    """Return the path as `model.NOT_YET` has it: without the names of entries in mappings and lists."""
    if path[:2] in (("cluster", "nodes"), ("limits", "channels"), ("clients", "users")):
        return ".".join((*path[:2], *path[3:]))
    return ".".join(path)
