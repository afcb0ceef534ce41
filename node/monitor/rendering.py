"""Renders views as JSON, indented by two spaces, in pieces: no page is encoded in one step.

A view is a dict of plain values. Where it may be long it contains `Rows` or `Fields`. Their items are made
when they are needed, one piece at a time, and dropped when they have been encoded. So neither the event loop
nor the memory has to handle a whole page at once.

The standard library's fast encoder doesn't indent. But it can encode a dict without nested ones, with line
breaks and spaces as its separators.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from functools import cache
from typing import Any, Final, TypeAlias

View: TypeAlias = dict[str, Any]
Steps: TypeAlias = Generator[None, None, View]
"""A view in steps: complete when it returns. Other tasks may run whenever it yields."""


class Rows:
    """A list whose rows are made while it is sent. A ``None`` is not a row: other tasks may run then."""

    __slots__ = ("rows",)

    def __init__(self, rows: Iterable[Any]) -> None:
        self.rows = rows


class Fields:
    """An object whose names and values are made while it is sent. ``None`` as in `Rows`."""

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[tuple[str, Any] | None]) -> None:
        self.fields = fields


_NESTED: Final = (dict, list, tuple, Rows, Fields)


def finished(made: View | Steps) -> View:
    """Return the whole view at once, with lists and dicts instead of `Rows` and `Fields`."""
    view: View = _resolved(made if isinstance(made, dict) else _returned(made))
    return view


def _returned(steps: Steps) -> View:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            view: View = done.value
            return view


def _resolved(value: Any) -> Any:
    if isinstance(value, Rows):
        value = [row for row in value.rows if row is not None]
    elif isinstance(value, Fields):
        value = dict(field for field in value.fields if field is not None)
    if isinstance(value, dict):
        return {name: _resolved(each) for name, each in value.items()}
    return [_resolved(each) for each in value] if isinstance(value, list) else value


def pieces(view: View) -> Iterator[str]:
    """Yield the JSON text of ``view``. A piece is short and costs some ten microseconds; it may be empty."""
    return _pieces(view, "\n")


@cache
def _encoder(pad: str) -> json.JSONEncoder:
    return json.JSONEncoder(separators=(f",{pad}", ": "), allow_nan=False)


def _pieces(value: Any, pad: str) -> Iterator[str]:
    """Yield the pieces of ``value``. ``pad``: a line break and the indentation of the line where it
    begins.
    """
    if isinstance(value, dict):
        if any(isinstance(each, _NESTED) for each in value.values()):
            yield from _object(value.items(), pad)
        elif value:
            inner = pad + "  "
            yield f"{{{inner}{_encoder(inner).encode(value)[1:-1]}{pad}}}"
        else:
            yield "{}"
    elif isinstance(value, Fields):
        yield from _object(value.fields, pad)
    elif isinstance(value, Rows):
        yield from _array(value.rows, pad)
    elif isinstance(value, list | tuple):
        yield from _array(value, pad, breaks=False)
    else:
        yield _encoder("").encode(value)


def _object(fields: Iterable[tuple[str, Any] | None], pad: str) -> Iterator[str]:
    inner, before = pad + "  ", "{"
    for field in fields:
        if field is None:
            yield ""
            continue
        name, value = field
        yield f"{before}{inner}{_encoder('').encode(name)}: "
        yield from _pieces(value, inner)
        before = ","
    yield "{}" if before == "{" else f"{pad}}}"


def _array(rows: Iterable[Any], pad: str, *, breaks: bool = True) -> Iterator[str]:
    inner, before = pad + "  ", "["
    for row in rows:
        if row is None and breaks:
            yield ""
            continue
        yield f"{before}{inner}"
        yield from _pieces(row, inner)
        before = ","
    yield "[]" if before == "[" else f"{pad}]"
