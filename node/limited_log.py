"""A logger for lines that others can cause: at most so many of a kind in a while.

A client or a stranger may repeat what draws a line a thousand times a second. The first lines of each kind
are written, the others are counted, and the first line of the next while says how many were left out. A
line's kind is its format string, so the number of kinds is bounded by the code, whatever the arguments are.

Lines of one kind that name their source, the address of a stranger for example, are limited for each source
apart, so that one stranger who repeats himself does not hide another one. At most `SOURCES_MAX` sources of a
kind are counted apart at a time; all further ones share the limit of the lines without a source. So a kind
writes at most ``(SOURCES_MAX + 1) * LINES_MAX`` lines in each while, however many addresses there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

LINES_MAX: Final = 5
"""Lines of one kind written in each `PER_S`."""

PER_S: Final = 60.0

SOURCES_MAX: Final = 16
"""Sources of one kind of line that are counted apart at a time."""


class _Count:
    """Lines of one kind and source: when the present while began, and how many lines came since."""

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
        """Lines of forgotten sources that were left out, and not reported yet."""

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

    Lines that are not written to the log at their level are not counted.

    Args:
        logger: where lines go.
        lines_max: lines of one kind in a while.
        per_s: how long a while is, from its first line on.
        clock: seconds that only elapse.
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
            level: of ``logging``.
            text: a format string of the code, never anything from outside: it is the kind.
            args: what it is filled with.
            source: whose lines are limited apart from those of others: a host, without a port, which
                changes with each connection. "" limits the line with all others of its kind that have none.

        Returns:
            Whether the line was written.
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
