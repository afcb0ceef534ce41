"""What an option may hold: stated beside its field in `model`, enforced by `load`.

A kind hangs on a field's annotation: ``heartbeat_ns: Annotated[int, Duration(minimum=MILLISECOND)]``.
It reads one word, and its ``expected`` completes the sentence "expected …" for whoever mistyped it.
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
    """Reads one word of a configuration."""

    @property
    def takes(self) -> frozenset[str]:
        """The YAML types whose text makes sense to it (`tree.Scalar.type`)."""
        ...

    @property
    def expected(self) -> str:
        """What it wants, to follow "expected"."""
        ...

    def read(self, text: str) -> object:
        """The value in ``text``.

        Raises:
            ValueError: not such a value; the text says what is wrong with it.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Bounded:
    minimum: int = 0
    maximum: int = 0
    """0: as much as the type holds."""
    negative: str = ""
    """The reference server's own words for a negative limit, without the number in brackets."""

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
    """A time, read into nanoseconds. A bare number has no unit and is refused, 0 excepted."""

    __slots__ = ()

    takes = frozenset({"text", "integer"})
    expected = "a duration such as 300ms or 2m"

    def read(self, text: str) -> int:
        return self._checked(parse_duration(text), format_duration, DURATION_MAX_NS)


class Flag:
    """Yes or no."""

    __slots__ = ()

    takes = frozenset({"boolean"})
    expected = "true or false"

    def read(self, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("expected true or false")
        return text.lower() == "true"


@dataclass(frozen=True, slots=True)
class Text:
    """Any text that ``pattern`` matches as a whole."""

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
    """One of a few words."""

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
    """An address with its port."""

    __slots__ = ()

    takes = frozenset({"text"})
    expected = "an address such as 127.0.0.1:4222"

    def read(self, text: str) -> object:
        return parse_address(text)


class NatsURL:
    """A NATS server's address, perhaps with credentials: what is wrong with it is said without showing it."""

    __slots__ = ()

    takes = frozenset({"text"})
    expected = "a URL such as nats://127.0.0.1:4222"

    def read(self, text: str) -> object:
        return parse_url(text)


class FilePath:
    """A path; a relative one starts at the configuration file's directory. ``{node}`` is the node's name."""

    __slots__ = ()

    takes = frozenset({"text"})
    expected = "a path"

    def read(self, text: str) -> str:
        if not text or "\x00" in text:
            raise ValueError("expected a path")
        for placeholder in re.findall(r"\{[^{}]*\}", text):
            if placeholder != "{node}":
                raise ValueError(f"unknown placeholder {placeholder}; only {{node}} is known")
        return text


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words of one kind."""

    of: Text | NatsURL | HostPort


@dataclass(frozen=True, slots=True)
class Range:
    """Two words in a list, the smaller first."""

    of: Duration


@dataclass(frozen=True, slots=True)
class Confidential:
    """A secret: given as itself, or by the name of a variable (``…_env``) or a file (``…_file``)."""

    direct: bool = True
    """Whether it may stand in the file itself."""
