"""Parser of the NATS configuration language (``.conf``); builds the same tree as YAML.

::

    # maps, with or without a separator, values on one line or several
    port: 4222
    streaming { cluster_id = "test"; limits { max_bytes: 1GB, channels { "foo.>": { max_msgs: 5 } } } }
    authorization { users = [ {user: ann, password: $ANN_PASSWORD} ] }  // from the environment
    include "more.conf"

``$NAME`` is the value of an earlier key, in this map or an enclosing one, else of an environment variable.
An unquoted word ends at white space or at the end of its map or list. ``1k`` is 1000, ``1KB`` and ``1KiB``
are 1024. If a key is given twice, the last one counts: a file can include another and override it.

Bounds: `FILE_SIZE_MAX` bytes in all files together, `DEPTH_MAX` nested maps, `INCLUDES_MAX` nested includes.

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
    """The content of a file."""

    tree: Mapping
    variables: frozenset[str]
    """Places of keys that are used as variables: they may have names that are no options."""


def read_conf(path: str | Path, environ: AbstractMapping[str, str] | None = None) -> Conf:
    """Parse a configuration file into a map.

    Args:
        path: path of the file; includes are relative to its directory.
        environ: values of ``$NAME``; ``os.environ`` by default.

    Raises:
        ConfigError: the file can't be read or has a syntax error; the text has file, line and column.
    """
    files = _Files(os.environ if environ is None else environ)
    tree = files.read(str(path), [])
    return Conf(tree, frozenset(files.variables))


class _Files:
    """A file and all files it includes."""

    def __init__(self, environ: AbstractMapping[str, str]) -> None:
        self.environ = environ
        self.variables: set[str] = set()
        self._bytes_left = FILE_SIZE_MAX
        self._open: list[str] = []

    def read(self, path: str, scopes: list[Mapping]) -> Mapping:
        if len(self._open) == INCLUDES_MAX:
            raise ConfigError([f"{path}: more than {INCLUDES_MAX} nested includes"])
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
                raise ConfigError([f"{path}: longer than {FILE_SIZE_MAX} bytes, including its includes"])
            return data.decode()
        except OSError as error:
            raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([f"{path}: not UTF-8 text: byte {error.start}"]) from error
        except ValueError as error:  # an impossible file name: it contains NUL
            raise ConfigError([f"{path!r}: can't be read: {error}"]) from error


class _Parser:
    """Parser of one text. ``scopes`` are the maps around the current position, outermost first."""

    def __init__(self, files: _Files, text: str, name: str, scopes: list[Mapping]) -> None:
        self._files = files
        self._text = text
        self._name = name
        self._scopes = scopes
        self._at = 0
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def file(self, mapping: Mapping) -> None:
        """Parse the whole file into ``mapping``. It may have braces around it, as JSON has."""
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
        """Parse the text of a variable: one value."""
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
                self._fail(f"{end!r} is missing; the map starts at {mapping.place}")
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
            self._fail("include: expected a file name")
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
                self._fail(f"']' is missing; the list starts at {items.place}")
            items.values.append(self._value())

    # --- values -----------------------------------------------------------------------------------

    def _value(self) -> Tree:
        char = self._peek()
        place = self._place()
        if char in ("{", "["):
            if len(self._scopes) > DEPTH_MAX:
                self._fail(f"more than {DEPTH_MAX} nested maps and lists")
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
                self._fail("missing closing quotation mark")
            start, self._at = self._at, end + 1
            return self._text[start:end]
        opened = self._at - 1
        parts = []
        while True:
            parts.append(self._take(_PLAIN))
            char = self._peek()
            if not char:
                self._at = opened
                self._fail("missing closing quotation mark")
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
            self._fail(r"unknown escape; expected \n, \t, \r, \", \\ or \xAB")
        return _ESCAPES[char]

    def _block(self) -> str:
        found = _BLOCK_END.search(self._text, self._at)
        if found is None:
            self._fail("expected ) at the start of a line, the end of this text block")
        start, self._at = self._at + 1, found.end()
        return self._text[start : found.start()].strip()

    def _variable(self, name: str, place: str) -> Tree:
        for scope in reversed(self._scopes):
            if name in scope.values:
                self._files.variables.add(scope.key_places[name])
                return scope.values[name]
        text = self._files.environ.get(name)
        if text is None:
            raise ConfigError([f"{place}: ${name} is neither an earlier key nor an environment variable"])
        if text[:1] not in ("{", "[", '"', "'"):
            # The option decides the type of the text.
            return Scalar(f"{place} (environment variable {name})", "word", text)
        # No variables inside: the variable could refer to itself.
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
        """Skip white space, comments and separators."""
        self._take(_FILLING)

    def _place(self) -> str:
        line = bisect_right(self._lines, self._at)
        return f"{self._name}:{line}:{self._at - self._lines[line - 1] + 1}"

    def _fail(self, problem: str) -> NoReturn:
        raise ConfigError([f"{self._place()}: {problem}"])
