"""A logger for lines that others can cause: at most so many of a kind in a while.

A client or a stranger may repeat what draws a line a thousand times a second. The first lines of each kind
are written, the others are counted, and the first line of the next while says how many were left out. A
line's kind is its format string, so the number of kinds is bounded by the code, whatever the arguments are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

LINES_MAX: Final = 5
"""Lines of one kind written in each `PER_S`."""

PER_S: Final = 60.0


class _Kind:
    """One kind of line: when its present while began, and how many lines came since."""

    __slots__ = ("began_s", "count")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.count = 0


class LimitedLog:
    """Writes at most ``lines_max`` lines of each kind in ``per_s`` seconds.

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

    def log(self, level: int, text: str, *args: object) -> bool:
        """Write ``text % args``, unless too many lines of this kind were written lately.

        Args:
            level: of ``logging``.
            text: a format string of the code, never anything from outside: it is the kind.
            args: what it is filled with.

        Returns:
            Whether the line was written.
        """
        return self._write(level, text, args)

    def info(self, text: str, *args: object) -> bool:
        """`log` at level INFO."""
        return self._write(logging.INFO, text, args)

    def warning(self, text: str, *args: object) -> bool:
        """`log` at level WARNING."""
        return self._write(logging.WARNING, text, args)

    def exception(self, text: str, *args: object) -> bool:
        """`log` at level ERROR, with the traceback of the exception that is being handled."""
        return self._write(logging.ERROR, text, args, exc_info=True)

    def _write(self, level: int, text: str, args: tuple[object, ...], *, exc_info: bool = False) -> bool:
        if not self._logger.isEnabledFor(level):
            return False
        now = self._clock()
        kind = self._kinds.get(text)
        if kind is None:
            kind = self._kinds[text] = _Kind(now)
        left_out = 0
        if now - kind.began_s >= self._per_s:
            left_out = max(0, kind.count - self._lines_max)
            kind.began_s, kind.count = now, 0
        kind.count += 1
        if kind.count > self._lines_max:
            return False
        if left_out:
            text += " (%d more lines like this one were left out)"
            args += (left_out,)
        self._logger.log(level, text, *args, stacklevel=3, exc_info=exc_info)
        return True
