"""Views as JSON, indented by two spaces, in pieces: no page is ever encoded in one go.

A view is a dict of plain values. Where it may be long it holds `Rows` or `Fields`: what they bring is made
when it is asked for, a piece at a time, and dropped when it has been encoded. So neither the event loop nor
the memory has to do with a whole page.

The standard library's fast encoder doesn't indent. A dict without others in it is encoded by it all the same,
with line breaks and spaces as its separators.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from functools import cache
from typing import Any, Final, TypeAlias

View: TypeAlias = dict[str, Any]
Steps: TypeAlias = Generator[None, None, View]
"""A view in the making: done when it returns; others may run whenever it yields."""


class Rows:
    """A list that is made while it is shown. A ``None`` among the rows is none: others may run then."""

    __slots__ = ("rows",)

    def __init__(self, rows: Iterable[Any]) -> None:
        self.rows = rows


class Fields:
    """An object that is made while it is shown: names and values. ``None`` as in `Rows`."""

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[tuple[str, Any] | None]) -> None:
        self.fields = fields


_NESTED: Final = (dict, list, tuple, Rows, Fields)


def finished(made: View | Steps) -> View:
    """The whole view at once, with lists and dicts for `Rows` and `Fields`."""
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
    """JSON text of ``view``. A piece is short, and takes some ten microseconds; it may be empty."""
    return _pieces(view, "\n")


@cache
def _encoder(pad: str) -> json.JSONEncoder:
    return json.JSONEncoder(separators=(f",{pad}", ": "), allow_nan=False)


def _pieces(value: Any, pad: str) -> Iterator[str]:
    """``pad``: a line break and the indentation of the line on which ``value`` begins."""
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
