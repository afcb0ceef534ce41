"""Kinds of values: an option's kind is declared beside its field in `model` and enforced by `load`.

The kind is part of the field's annotation: ``heartbeat_ns: Annotated[int, Duration(minimum=MILLISECOND)]``.
It parses one word; ``expected`` completes the error text "expected …".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from node.config.values import (
    DURATION_MAX_NS,
    SIZE_MAX,
    format_duration,
    parse_address,
    parse_duration,
    parse_size,
    parse_url,
)

_INTEGER = re.compile(r"[+-]?\d+(_\d+)*")


class Kind(Protocol):
    """Parser of one word of a configuration."""

    @property
    def takes(self) -> frozenset[str]:
        """The YAML types that this kind accepts (`tree.Scalar.type`)."""
        ...

    @property
    def expected(self) -> str:
        """A valid value, described for an error text after "expected"."""
        ...

    def read(self, text: str) -> object:
        """Parse ``text``.

        Raises:
            ValueError: the text is invalid; the error says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Bounded:
    minimum: int = 0
    maximum: int = 0
    """0: the maximum of the type."""
    negative: str = ""
    """The reference server's error text for a negative limit, without the number in brackets."""

    def _checked(self, value: int, show: Callable[[int], str], largest: int) -> int:
        maximum = self.maximum or largest
        if value < 0 and self.negative:
            raise ValueError(f"{self.negative} ({show(value)})")
        if not self.minimum <= value <= maximum:
            raise ValueError(
                f"expected at least {show(self.minimum)}"
                if value < self.minimum
                else f"expected at most {show(maximum)}"
            )
        return value


class Count(_Bounded):
    """A whole number."""

    __slots__ = ()

    takes = frozenset({"integer"})
    expected = "a whole number"

    def read(self, text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise ValueError(f"expected {self.expected}")
        return self._checked(int(text), str, 2**63 - 1)


class Size(_Bounded):
    """A number of bytes."""

    __slots__ = ()

    takes = frozenset({"integer", "text"})
    expected = "a size such as 64KB or 1GiB"

    def read(self, text: str) -> int:
        return self._checked(parse_size(text), str, SIZE_MAX)


class Duration(_Bounded):
    """A duration, parsed into nanoseconds. A number without a unit is refused, except 0."""

    __slots__ = ()

    takes = frozenset({"text", "integer"})
    expected = "a duration such as 300ms or 2m"

    def read(self, text: str) -> int:
        return self._checked(parse_duration(text), format_duration, DURATION_MAX_NS)


class Flag:
    """``true`` or ``false``."""

    __slots__ = ()

    takes = frozenset({"boolean"})
    expected = "true or false"

    def read(self, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("expected true or false")
        return text.lower() == "true"


@dataclass(frozen=True, slots=True)
class Text:
    """A text that ``pattern`` matches completely."""

    pattern: str = r"[^\x00-\x1f\x7f]+"
    means: str = "text"

    takes = frozenset({"text"})

    @property
    def expected(self) -> str:
        return self.means

    def read(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"expected {self.means}")
        return text


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    takes = frozenset({"text"})

    @property
    def expected(self) -> str:
        return " or ".join([", ".join(self.words[:-1]), self.words[-1]]) if self.words[1:] else self.words[0]

    def read(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(f"expected {self.expected}")
        return text


class HostPort:
    """A host and a port."""

    __slots__ = ()

    takes = frozenset({"text"})
    expected = "an address such as 127.0.0.1:4222"

    def read(self, text: str) -> object:
        return parse_address(text)


class NatsURL:
    """A NATS server's URL, possibly with credentials. Error texts do not show them."""

    __slots__ = ()

    takes = frozenset({"text"})
    expected = "a URL such as nats://127.0.0.1:4222"

    def read(self, text: str) -> object:
        return parse_url(text)


class FilePath:
    """A path, relative to the configuration file's directory. ``{node}`` is replaced by the node's name."""

    __slots__ = ()

    takes = frozenset({"text"})
    expected = "a path"

    def read(self, text: str) -> str:
        if not text or "\x00" in text:
            raise ValueError("expected a path")
        for placeholder in re.findall(r"\{[^{}]*\}", text):
            if placeholder != "{node}":
                raise ValueError(f"unknown placeholder {placeholder}; only {{node}} is allowed")
        return text


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words of the same kind."""

    of: Text | NatsURL | HostPort


@dataclass(frozen=True, slots=True)
class Range:
    """A list of two words, the smaller one first."""

    of: Duration


@dataclass(frozen=True, slots=True)
class Confidential:
    """A secret: its text, or the name of an environment variable (``…_env``) or a file (``…_file``)."""

    direct: bool = True
    """Whether the text may be in the configuration file itself."""
