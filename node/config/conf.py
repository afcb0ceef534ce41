"""The NATS configuration language (``.conf``), read into the same tree as YAML.

::

    # maps, with or without a separator, values on one line or several
    port: 4222
    streaming { cluster_id = "test"; limits { max_bytes: 1GB, channels { "foo.>": { max_msgs: 5 } } } }
    authorization { users = [ {user: ann, password: $ANN_PASSWORD} ] }  // from the environment
    include "more.conf"

A ``$NAME`` is a key given earlier, in this map or one around it, else an environment variable. A bare
word ends at white space or where the map or list does. ``1k`` is 1000, ``1KB`` and ``1KiB`` are 1024. A
key given twice counts as given last, so that a file can include another and override it.

Bounds: `FILE_SIZE_MAX` for all files together, `DEPTH_MAX` maps in maps, `INCLUDES_MAX` files in files.

Source: nats-server, ``conf/lex.go`` and ``conf/parse.go``.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Mapping as AbstractMapping
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from node.config.tree import FILE_SIZE_MAX, Items, Mapping, Scalar, Tree
from node.errors import ConfigError

DEPTH_MAX: Final = 32
INCLUDES_MAX: Final = 10

_BLANKS = re.compile(r"[ \t\r]*")
_FILLING = re.compile(r"(?:[\s,;]|\#[^\n]*|//[^\n]*)*")
_KEY = re.compile(r"[^\s=:{}\[\],;\"']+")
_WORD = re.compile(r"(?:\\.|[^\s,;\]}'\"\\])+")
_PLAIN = re.compile(r'[^"\\]*')
_BLOCK_END = re.compile(r"^\)", re.MULTILINE)
_INTEGER = re.compile(r"(-?\d{1,19})([kmgt]?(?:i?b|i)?)", re.IGNORECASE)
_DECIMAL = re.compile(r"-?\d+\.\d+")
_HEX = re.compile(r"[0-9a-fA-F]{2}")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_BOOLEANS: Final = {
    "true": "true",
    "yes": "true",
    "on": "true",
    "false": "false",
    "no": "false",
    "off": "false",
}
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_BCRYPT = re.compile(r"\$2[abxy]\$")


class Conf(NamedTuple):
    """What a file says."""

    tree: Mapping
    variables: frozenset[str]
    """Places of keys that are used as variables further down: they need no other meaning."""


def read_conf(path: str | Path, environ: AbstractMapping[str, str] | None = None) -> Conf:
    """The map that a configuration file is.

    Args:
        path: of the file; its includes are relative to its directory.
        environ: for ``$NAME``; ``os.environ`` by default.

    Raises:
        ConfigError: it can't be read, or it isn't in the language; file, line and column say where.
    """
    files = _Files(os.environ if environ is None else environ)
    tree = files.read(str(path), [])
    return Conf(tree, frozenset(files.variables))


class _Files:
    """A file and everything it includes."""

    def __init__(self, environ: AbstractMapping[str, str]) -> None:
        self.environ = environ
        self.variables: set[str] = set()
        self._bytes_left = FILE_SIZE_MAX
        self._open: list[str] = []

    def read(self, path: str, scopes: list[Mapping]) -> Mapping:
        if len(self._open) == INCLUDES_MAX:
            raise ConfigError([f"{path}: included by files that are included, {INCLUDES_MAX} deep"])
        self._open.append(path)
        text = self._text(path)
        mapping = Mapping(f"{path}:1:1")
        _Parser(self, text, path, [*scopes, mapping]).file(mapping)
        self._open.pop()
        return mapping

    def _text(self, path: str) -> str:
        try:
            with Path(path).open("rb") as file:
                data = file.read(self._bytes_left + 1)
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                raise ConfigError([f"{path}: longer than {FILE_SIZE_MAX} bytes, with what it includes"])
            return data.decode()
        except OSError as error:
            raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([f"{path}: not UTF-8 text: byte {error.start}"]) from error
        except ValueError as error:  # a name that no file can have, with a NUL in it
            raise ConfigError([f"{path!r}: can't be read: {error}"]) from error


class _Parser:
    """One text. ``scopes`` are the maps around the place that is read, outermost first."""

    def __init__(self, files: _Files, text: str, name: str, scopes: list[Mapping]) -> None:
        self._files = files
        self._text = text
        self._name = name
        self._scopes = scopes
        self._at = 0
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def file(self, mapping: Mapping) -> None:
        """Everything, into ``mapping``. Braces around it all make it JSON."""
        self._fill()
        if self._peek() == "{":
            self._at += 1
            self._entries(mapping, "}")
            self._fill()
        else:
            self._entries(mapping, "")
        if self._at < len(self._text):
            self._fail(f"expected the end of the file, not {self._peek()!r}")

    def only_value(self) -> Tree:
        """The text of a variable: one value."""
        value = self._value()
        if self._text[self._at :].strip():
            self._fail("expected one value")
        return value

    # --- maps and lists ---------------------------------------------------------------------------

    def _entries(self, mapping: Mapping, end: str) -> None:
        while True:
            self._fill()
            char = self._peek()
            if char == end:
                self._at += len(end)
                return
            if not char:
                self._fail(f"{end!r} is missing; the map begins at {mapping.place}")
            self._entry(mapping)

    def _entry(self, mapping: Mapping) -> None:
        place = self._place()
        bare = self._peek() not in ('"', "'")
        key = self._key()
        if bare and key.lower() == "include" and self._peek() in (" ", "\t"):
            self._include(mapping)
            return
        self._take(re.compile(r"\s*"))
        if self._peek() in (":", "="):
            self._at += 1
        self._take(_BLANKS)
        if self._peek() in ("", "\n"):
            self._fail(f"{key}: expected a value")
        mapping.put(key, place, self._value())

    def _key(self) -> str:
        char = self._peek()
        if char in ('"', "'"):
            return self._quoted(char)
        found = _KEY.match(self._text, self._at)
        if found is None:
            self._fail(f"expected a key, not {char!r}")
        self._at = found.end()
        return found[0]

    def _include(self, mapping: Mapping) -> None:
        self._take(_BLANKS)
        char = self._peek()
        place = self._place()
        name = self._quoted(char) if char in ('"', "'") else self._take(_WORD)
        if not name:
            self._fail("include: expected the name of a file")
        path = os.path.normpath(Path(self._name).parent / name)
        try:
            included = self._files.read(path, self._scopes)
        except ConfigError as error:
            raise ConfigError([f"{problem} (included at {place})" for problem in error.problems]) from error
        for key, value in included.values.items():
            mapping.put(key, included.key_places[key], value)

    def _list(self) -> Items:
        items = Items(self._place(), [])
        self._at += 1
        while True:
            self._fill()
            if self._peek() == "]":
                self._at += 1
                return items
            if not self._peek():
                self._fail(f"']' is missing; the list begins at {items.place}")
            items.values.append(self._value())

    # --- values -----------------------------------------------------------------------------------

    def _value(self) -> Tree:
        char = self._peek()
        place = self._place()
        if char in ("{", "["):
            if len(self._scopes) > DEPTH_MAX:
                self._fail(f"more than {DEPTH_MAX} maps and lists in one another")
            mapping = Mapping(place)
            self._scopes.append(mapping)
            if char == "{":
                self._at += 1
                self._entries(mapping, "}")
            value: Tree = mapping if char == "{" else self._list()
            self._scopes.pop()
            return value
        if char in ('"', "'"):
            return Scalar(place, "text", self._quoted(char))
        if char == "(":
            return Scalar(place, "text", self._block())
        word = self._take(_WORD)
        if not word:
            self._fail(f"expected a value, not {char!r}")
        if word.startswith("$") and not _BCRYPT.match(word):
            return self._variable(word[1:], place)
        return self._word(word, place)

    def _word(self, word: str, place: str) -> Scalar:
        if integer := _INTEGER.fullmatch(word):
            unit = integer[2].lower()
            base = 1024 if len(unit) > 1 else 1000
            if unit[:1] in _POWERS and unit not in ("i", "b", "ib"):
                return Scalar(place, "integer", str(int(integer[1]) * base ** _POWERS[unit[:1]]))
        if _DECIMAL.fullmatch(word):
            return Scalar(place, "decimal", word)
        if word.lower() in _BOOLEANS:
            return Scalar(place, "boolean", _BOOLEANS[word.lower()])
        return Scalar(place, "text", self._unescaped(word))

    def _unescaped(self, word: str) -> str:
        if "\\" not in word:
            return word
        return _Parser(self._files, f'"{word}"', self._name, [])._quoted('"')

    def _quoted(self, quote: str) -> str:
        self._at += 1
        if quote == "'":
            end = self._text.find("'", self._at)
            if end < 0:
                self._at -= 1
                self._fail("this quotation mark is never closed")
            start, self._at = self._at, end + 1
            return self._text[start:end]
        opened = self._at - 1
        parts = []
        while True:
            parts.append(self._take(_PLAIN))
            char = self._peek()
            if not char:
                self._at = opened
                self._fail("this quotation mark is never closed")
            self._at += 1
            if char == '"':
                return "".join(parts)
            parts.append(self._escape())

    def _escape(self) -> str:
        char = self._peek()
        self._at += 1
        if char == "x" and (found := _HEX.match(self._text, self._at)):
            self._at = found.end()
            return chr(int(found[0], 16))
        if char not in _ESCAPES:
            self._at -= 2
            self._fail(r"unknown escape; known: \n, \t, \r, \", \\, \xAB")
        return _ESCAPES[char]

    def _block(self) -> str:
        found = _BLOCK_END.search(self._text, self._at)
        if found is None:
            self._fail("expected ) at the beginning of a line, to end this block of text")
        start, self._at = self._at + 1, found.end()
        return self._text[start : found.start()].strip()

    def _variable(self, name: str, place: str) -> Tree:
        for scope in reversed(self._scopes):
            if name in scope.values:
                self._files.variables.add(scope.key_places[name])
                return scope.values[name]
        text = self._files.environ.get(name)
        if text is None:
            raise ConfigError(
                [f"{place}: ${name}: neither a key above this line nor an environment variable"]
            )
        if text[:1] not in ("{", "[", '"', "'"):
            return Scalar(f"{place} (environment variable {name})", "word", text)  # typed by what it is for
        # No variables within it: it could name itself.
        return _Parser(_Files({}), text, f"environment variable {name}", []).only_value()

    # --- text -------------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _fill(self) -> None:
        """Pass over white space, comments, and whatever separates entries."""
        self._take(_FILLING)

    def _place(self) -> str:
        line = bisect_right(self._lines, self._at)
        return f"{self._name}:{line}:{self._at - self._lines[line - 1] + 1}"

    def _fail(self, problem: str) -> NoReturn:
        raise ConfigError([f"{self._place()}: {problem}"])
