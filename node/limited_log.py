"""A logger with a rate limit, for lines that clients or peers can cause.

A client or an unknown host may cause the same line a thousand times a second. The first lines of each kind
in a period are written, and the others are counted. The first line of the next period reports how many were
left out. The kind of a line is its format string, so the code bounds the number of kinds, whatever the
arguments are.

Lines that name their source, such as a remote address, are limited separately for each source, so that one
busy source does not hide the others. At most `SOURCES_MAX` sources of a kind are counted separately at a
time; all further ones share the limit of lines without a source. So a kind writes at most ``(SOURCES_MAX +
1) * LINES_MAX`` lines in each period, however many addresses there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

LINES_MAX: Final = 5
"""Maximum number of lines of one kind in each `PER_S`."""

PER_S: Final = 60.0

SOURCES_MAX: Final = 16
"""Maximum number of sources of one kind that are counted separately at a time."""


class _Count:
    """Start of the current period, and number of lines since, for one kind and source."""

    __slots__ = ("began_s", "lines")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.lines = 0


class _Kind:
    """One kind of line: a count for each of its sources, and one for all other lines."""

    __slots__ = ("left_out", "shared", "sources")

    def __init__(self, now_s: float) -> None:
        self.shared = _Count(now_s)
        self.sources: dict[str, _Count] = {}
        self.left_out = 0
        """Left-out lines that are not reported yet."""

    def count_of(self, source: str, now_s: float, per_s: float, lines_max: int) -> _Count:
        """Return the count that limits a line of ``source`` ("" for a line without one)."""
        if not source:
            return self.shared
        count = self.sources.get(source)
        if count is not None:
            return count
        if len(self.sources) >= SOURCES_MAX:
            for ended in [name for name, each in self.sources.items() if now_s - each.began_s >= per_s]:
                self.left_out += max(0, self.sources.pop(ended).lines - lines_max)
            if len(self.sources) >= SOURCES_MAX:
                return self.shared
        count = self.sources[source] = _Count(now_s)
        return count


class LimitedLog:
    """Writes at most ``lines_max`` lines of each kind and source in ``per_s`` seconds.

    Lines below the logger's level are not counted.

    Args:
        logger: the logger that writes the lines.
        lines_max: maximum number of lines of one kind and source in a period.
        per_s: length of a period, from its first line on.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        lines_max: int = LINES_MAX,
        per_s: float = PER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._lines_max = lines_max
        self._per_s = per_s
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def log(self, level: int, text: str, *args: object, source: str = "") -> bool:
        """Write ``text % args``, unless too many lines of this kind and source were written lately.

        Args:
            level: a level of ``logging``.
            text: a constant format string, never external input: it identifies the kind.
            args: the format arguments.
            source: lines of this source are limited separately: a host without port, because each connection
                has another port. "" shares one limit with all lines of its kind without a source.

        Returns:
            True if the line was written.
        """
        return self._write(level, text, args, source)

    def info(self, text: str, *args: object, source: str = "") -> bool:
        """`log` at level INFO."""
        return self._write(logging.INFO, text, args, source)

    def warning(self, text: str, *args: object, source: str = "") -> bool:
        """`log` at level WARNING."""
        return self._write(logging.WARNING, text, args, source)

    def exception(self, text: str, *args: object) -> bool:
        """`log` at level ERROR, with the traceback of the exception that is being handled."""
        return self._write(logging.ERROR, text, args, "", exc_info=True)

    def _write(
        self, level: int, text: str, args: tuple[object, ...], source: str, *, exc_info: bool = False
    ) -> bool:
        if not self._logger.isEnabledFor(level):
            return False
        now = self._clock()
        kind = self._kinds.get(text)
        if kind is None:
            kind = self._kinds[text] = _Kind(now)
        count = kind.count_of(source, now, self._per_s, self._lines_max)
        if now - count.began_s >= self._per_s:
            kind.left_out += max(0, count.lines - self._lines_max)
            count.began_s, count.lines = now, 0
        count.lines += 1
        if count.lines > self._lines_max:
            return False
        if kind.left_out:
            text += " (%d more lines like this one were left out)"
            args += (kind.left_out,)
            kind.left_out = 0
        self._logger.log(level, text, *args, stacklevel=3, exc_info=exc_info)
        return True
