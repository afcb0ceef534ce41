"""Format values as text tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from node.units import SECOND


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows as aligned columns. The first row is the header; columns of numbers are right-aligned."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [
        set(column[1:]) != {"-"} and all(word.isdigit() or word == "-" for word in column[1:])
        for column in columns
    ]
    return [
        "  ".join(
            word.rjust(width) if right else word.ljust(width)
            for word, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]


def described(values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Format the values with these names as lines of name and value."""
    shown = {name.replace("_", " "): _word(values[name]) for name in names}
    width = max(map(len, shown))
    return [f"{name:{width}}  {value}".rstrip() for name, value in shown.items()]


def printable(text: str) -> str:
    """Escape the characters of ``text`` that could control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def time_text(ns: int | None) -> str:
    """Format Unix nanoseconds as date and time with milliseconds."""
    if ns is None:
        return "-"
    seconds, rest = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03}Z"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)
