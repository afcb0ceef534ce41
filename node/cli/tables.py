"""Values as text in columns, for eyes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from node.units import SECOND


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest word, the first row being their heads; numbers are flush right."""
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
    """One line each: a name and its value."""
    shown = {name.replace("_", " "): _word(values[name]) for name in names}
    width = max(map(len, shown))
    return [f"{name:{width}}  {value}".rstrip() for name, value in shown.items()]


def printable(text: str) -> str:
    """``text`` with whatever a terminal would obey written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def time_text(ns: int | None) -> str:
    """Unix nanoseconds as a date and time, to the millisecond."""
    if ns is None:
        return "-"
    seconds, rest = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03}Z"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)
