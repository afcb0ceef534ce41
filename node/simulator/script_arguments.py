"""The words of a script's commands, and their meaning as times, numbers and positions."""

from __future__ import annotations

from collections.abc import Sequence

from node.errors import NodeError
from node.protocol.positions import StartPosition

POSITIONS = {
    "new": StartPosition.NEW_ONLY,
    "last": StartPosition.LAST_RECEIVED,
    "ago": StartPosition.TIME_DELTA_START,
    "seq": StartPosition.SEQUENCE_START,
    "first": StartPosition.FIRST,
}


class ScriptError(NodeError):
    """The script is invalid and must be corrected. It does not mean that the server failed."""


class Words:
    """The words of a command: values after keys, flags, and the remaining words in order."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def next(self) -> str:
        """Return the next word.

        Raises:
            ScriptError: there is none.
        """
        if not self._words:
            raise ScriptError("a word is missing")
        return self._words.pop(0)

    def flag(self, word: str) -> bool:
        """Remove ``word``. Returns True if it was present."""
        found = word in self._words
        if found:
            self._words.remove(word)
        return found

    def after(self, key: str, default: str = "") -> str:
        """Remove ``key`` and the word after it. Returns that word, or ``default``."""
        values = self.all_after(key, 1)
        return values[0] if values else default

    def all_after(self, key: str, count: int) -> list[str]:
        """Remove ``key`` and the ``count`` words after it. Returns those; empty if ``key`` isn't present."""
        if key not in self._words:
            return []
        start = self._words.index(key)
        values = self._words[start + 1 : start + 1 + count]
        if len(values) < count:
            raise ScriptError(f"too few words after {key}")
        del self._words[start : start + 1 + count]
        return values

    def rest(self) -> list[str]:
        """Return and remove all remaining words."""
        words, self._words = self._words, []
        return words


def seconds(text: str) -> float:
    """Parse ``2s``, ``500ms``, ``3m``, or a number of seconds.

    Raises:
        ScriptError: it is none of them.
    """
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            text, scale = text[: -len(unit)], factor
            break
    else:
        scale = 1.0
    try:
        return float(text) * scale
    except ValueError:
        raise ScriptError(f"not a time: {text}") from None


def numbers(words: Sequence[str]) -> list[int]:
    """Parse ``1 2 5..9``.

    Raises:
        ScriptError: a word is no number or range.
    """
    found: list[int] = []
    for word in words:
        first, dots, last = word.partition("..")
        try:
            found += range(int(first), int(last if dots else first) + 1)
        except ValueError:
            raise ScriptError(f"not a number: {word}") from None
    return found


def position(words: Words) -> tuple[int, int, int]:
    """Parse ``from …``. Returns start position, sequence, and time delta in nanoseconds."""
    name, _, value = words.after("from", "new").partition(":")
    match name:
        case "seq":
            return POSITIONS[name], int(value), 0
        case "ago":
            return POSITIONS[name], 0, round(seconds(value) * 1e9)
        case "position":
            return int(value), 0, 0
        case _ if name in POSITIONS:
            return POSITIONS[name], 0, 0
    raise ScriptError(f"unknown start position {name}")
