"""Read the Go server's options from the command line and from files, and check their types.

A value of a wrong type, an unknown flag and an unknown key are mistakes, reported by name. `reference` gives
the options their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as AbstractMapping
from typing import Final, NamedTuple

from node.config.conf import read_conf
from node.config.reference_flags import (
    BOOL,
    DURATION,
    INT,
    LIST,
    MAP,
    SECONDS,
    SECTION_KEYS,
    SIZE,
    TEXT,
    Option,
    by_flag,
    by_key,
)
from node.config.tree import Items, Mapping, Scalar, Tree, describe
from node.config.values import parse_duration, parse_size
from node.errors import ConfigError

BOOLEANS: Final = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
"""Boolean words of Go, in lower case."""


class Given(NamedTuple):
    """An option in the command line or a file."""

    option: Option
    name: str
    """The name that was used: ``-mc`` or ``max_channels``."""
    place: str
    """The place: ``flag -mc`` or ``stan.conf:3:5: max_channels``."""
    value: Tree
    by_flag: bool


class Input:
    """Finds options on the command line and in files, and checks the types of their values."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def flags(self, argv: Sequence[str]) -> list[Given]:
        """Parse flags, in order. They have one dash or two; ``-flag=value`` or ``-flag value``."""
        known = by_flag()
        found = []
        words = iter(argv)
        for word in words:
            name, equals, text = word.lstrip("-").partition("=")
            if not word.startswith("-") or not name or word.startswith("---"):
                self.problems.append(f"unexpected argument {word!r}: flags start with one dash or two")
                continue
            option = known.get(name)
            if option is None:
                self.problems.append(f"unknown flag -{name}{hint(name, known)}")
                continue
            place = f"flag -{name}"
            if not equals:
                value = "true" if option.kind == BOOL else next(words, None)
                if value is None:
                    self.problems.append(f"{place}: expected {option.kind} as its value")
                    continue
                text = value
            given = self._checked(option, f"-{name}", place, Scalar(place, "word", text), by_flag=True)
            found += [given] if given is not None else []
        return found

    def files(self, config: str, streaming: str, environ: AbstractMapping[str, str]) -> list[Given]:
        """Read the keys of the NATS file and of the streaming file, which may be the same file."""
        try:
            nats = read_conf(config, environ)
            stan = nats if streaming == config else read_conf(streaming, environ)
        except ConfigError as error:
            self.problems += error.problems
            return []
        variables = nats.variables | stan.variables
        inner = next((key for key in stan.tree.values if key.lower() == "streaming"), None)
        own = stan.tree if inner is None else stan.tree.values[inner]
        shared = own is nats.tree
        found = []
        if isinstance(own, Mapping):
            if inner is not None and stan is not nats:
                self._refuse_unknown(stan.tree, {"streaming"}, variables)
            others = {"authorization", *by_key("nats")} if shared else set[str]()
            found += self._section(own, "streaming", others, variables, shared=shared)
        else:
            self.problems.append(f"{own.place}: streaming: expected a map, not {describe(own)}")
        if shared:
            return found + self._section(nats.tree, "nats", None, variables, shared=True)
        return found + self._section(nats.tree, "nats", {"streaming"} if stan is nats else set(), variables)

    def _section(
        self,
        tree: Mapping,
        section: str,
        others: set[str] | None,
        variables: Iterable[str],
        *,
        shared: bool = False,
    ) -> list[Given]:
        """Read the options of one map.

        Args:
            tree: the map.
            section: its section.
            others: valid keys of other parts; None: another call refuses unknown keys.
            variables: places of keys that are used as variables.
            shared: the streaming part and the NATS part read the same map.
        """
        known = by_key(section)
        below = _below(section)
        if others is not None:
            self._refuse_unknown(tree, {*known, *below, *others}, variables)
        found: list[Given] = []
        for key, value in tree.values.items():
            name = key.lower()
            place = f"{tree.key_places[key]}: {key}"
            if name in below and (name not in known or isinstance(value, Mapping)):
                if not isinstance(value, Mapping):
                    self.problems.append(f"{place}: expected a map, not {describe(value)}")
                    continue
                inner = below[name]
                beside = _beside(inner) if shared else set[str]()
                found += self._section(value, inner, beside, variables)
            elif name == "tls" and shared and isinstance(value, Mapping) and _is_streaming_tls(value):
                continue
            elif name in known:
                given = self._checked(known[name], key, place, value, by_flag=False)
                found += [given] if given is not None else []
        return found

    def _refuse_unknown(self, tree: Mapping, known: set[str], variables: Iterable[str]) -> None:
        for key in tree.values:
            if key.lower() not in known and tree.key_places[key] not in variables:
                self.problems.append(f"{tree.key_places[key]}: unknown key {key}{hint(key.lower(), known)}")

    def _checked(self, option: Option, name: str, place: str, value: Tree, *, by_flag: bool) -> Given | None:
        problem = wrong(option, value)
        if problem:
            self.problems.append(f"{place}: {problem}")
            return None
        return Given(option, name, place, value, by_flag)


def _beside(section: str) -> set[str] | None:
    """Return the other part's keys in a map that both parts read; None if that part checks the map itself."""
    if section == "streaming.cluster":
        return set(by_key("cluster"))
    return None if section in ("cluster", "streaming.tls") else set()


def _is_streaming_tls(value: Mapping) -> bool:
    known = by_key("streaming.tls")
    return all(key.lower() in known for key in value.values)


def _below(section: str) -> dict[str, str]:
    """Return the maps within a section, by key."""
    if section == "streaming":
        return SECTION_KEYS
    if section == "nats":
        return {"authorization": "authorization", "cluster": "cluster"}
    return {}


def wrong(option: Option, value: Tree) -> str:
    """Return what is wrong with the type of a value; empty if nothing is."""
    kind = option.kind
    expected = f"expected {kind}, not "
    if isinstance(value, Mapping):
        return "" if kind == MAP else expected + "a map"
    if isinstance(value, Items):
        return "" if kind == LIST else expected + "a list"
    if kind == MAP:
        return expected + describe(value)
    if value.type == "word":
        return "" if _fits(kind, value.text) else f"{expected}{value.text!r}"
    allowed = {
        BOOL: {"boolean"},
        INT: {"integer"},
        SIZE: {"integer"},
        DURATION: {"text"},
        SECONDS: {"integer", "decimal", "text"},
        TEXT: {"text"},
        LIST: {"text"},
    }[kind]
    if option.to in ("(monitor)", "(listen)", "(peer)") or (option.refused and kind == TEXT):
        allowed = {"text", "integer"}
    if value.type not in allowed:
        return expected + describe(value)
    if kind in (DURATION, SECONDS) and value.type == "text" and not _fits(DURATION, value.text):
        return f"{expected}{value.text!r}"
    return ""


def _fits(kind: str, text: str) -> bool:
    if kind == BOOL:
        return text.lower() in BOOLEANS
    if kind == INT:
        return re.fullmatch(r"[+-]?\d{1,19}", text) is not None
    parse: dict[str, Callable[[str], object]] = {SIZE: parse_size, DURATION: parse_duration}
    if kind == SECONDS:
        kind = DURATION
        text = text if re.search(r"[a-z]", text) else f"{text}s"
    if kind not in parse:
        return True
    try:
        parse[kind](text)
    except ValueError:
        return False
    return True


def hint(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` with the most similar word, or nothing."""
    from node.config.overrides import hint as of_all_options  # slow: it imports the model

    return of_all_options(word, known)


def is_on(value: Tree) -> bool:
    """Return whether a value enables something: false, 0 and an empty value do not."""
    if isinstance(value, Mapping | Items):
        return bool(value.values)
    if value.text.lower() in BOOLEANS:
        return BOOLEANS[value.text.lower()]
    return value.text not in ("", "0s")
