"""The query of a monitoring request. The streaming pages ignore invalid values, the NATS pages refuse
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from node.errors import RefusedError

LIMIT_DEFAULT: Final = 1024
LIMIT_MAX: Final = 65_536
"""Most rows of one page. Readers that want more request the next page."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


class NotFoundError(RefusedError):
    """The requested item does not exist: 404, with the text as body."""


class BadQueryError(RefusedError):
    """The query is invalid: 400, with the text as body."""


class Query:
    """Names and values of a query; the first value of each name."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = values or {}

    def text(self, name: str) -> str:
        return self._values.get(name, "")

    def forgiving_page(self) -> tuple[int, int]:
        """Return ``(limit, offset)``, with defaults for invalid values. Source: monitoring, "clientsz"."""
        limit, offset = (_integer(self.text(name)) for name in ("limit", "offset"))
        return _limit(limit or 0), max(offset or 0, 0)

    def is_one(self, name: str) -> bool:
        """Return True if the value is exactly ``1``."""
        return self.text(name) == "1"

    def integer(self, name: str, default: int) -> int:
        """Return an integer.

        Raises:
            BadQueryError: the value is not an integer.
        """
        text = self.text(name)
        value = _integer(text) if text else default
        if value is None:
            raise BadQueryError(f"Error decoding int for '{name}': parsing \"{text}\": invalid syntax")
        return value

    def page(self) -> tuple[int, int]:
        """Return ``(limit, offset)`` of a NATS page.

        Raises:
            BadQueryError: one of them is not an integer.
        """
        limit, offset = self.integer("limit", LIMIT_DEFAULT), self.integer("offset", 0)
        return _limit(limit), max(offset, 0)

    def flag(self, name: str) -> bool:
        """Return a boolean. Raises BadQueryError unless it is 1, 0, true or false, in any case, or
        missing.
        """
        text = self.text(name).lower()
        if text not in ("", "1", "0", "true", "false", "t", "f"):
            raise BadQueryError(f"Error decoding boolean for '{name}': parsing \"{text}\": invalid syntax")
        return text in ("1", "true", "t")


def _limit(wanted: int) -> int:
    return min(wanted, LIMIT_MAX) if wanted > 0 else LIMIT_DEFAULT


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None
