"""What a node says: one line an event, as text for eyes or as JSON for machines.

Each room has a logger, ``logging.getLogger("stanchion.<low_space>")``, and says what happened in a few fixed
words; what varies goes into ``extra``, so that both formats keep it apart::

    log.info("became leader", extra={"term": 4})

    2026-11-22T14:52:01.123Z INF ordering: became leader term=4
    {"time": "2026-11-22T14:52:01.123Z", "level": "info", "room": "ordering", …, "term": 4}

``nats-streaming-server`` writes lines as the Go server does, for those who search its logs::

    [4711] 2026/11/22 15:52:01.123456 [INF] STREAM: became leader term=4

A line stays a line, whatever names clients choose for themselves: control characters are escaped.
Fields that are named like secrets are masked, though nobody should pass them.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError

ROOT: Final = "stanchion"
"""The logger above every room's."""

LEVELS: Final = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_SHORT: Final = {"ERROR": "ERR", "WARNING": "WRN", "INFO": "INF", "DEBUG": "DBG", "CRITICAL": "FTL"}

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else came in by ``extra``."""

_SECRET = re.compile(r"password|token|secret|key|passphrase", re.IGNORECASE)
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


FILE_MODE: Final = 0o640
"""Of a log file that is made. One that is there keeps its mode."""

NATS_ROOMS: Final = frozenset({"clients"})
"""Rooms whose lines the Go server writes as its NATS part, without ``STREAM:``."""


def set_up(
    level: str, style: str, file: Path | None = None, *, node: str = "", with_time: bool = True
) -> None:
    """Make all loggers write to standard error or to ``file``. Replaces what was set up before.

    Args:
        level: the least grave lines that are written, one of `LEVELS`. Libraries only warn.
        style: ``text``, ``json``, or ``nats``: the Go server's.
        file: opened anew once it was moved away, as log rotation does.
        node: the node's name, which every JSON line carries.
        with_time: whether a line of style ``nats`` says when.

    Raises:
        ConfigError: the file can't be written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = _file_handler(file)
        except OSError as error:
            raise ConfigError([f"logging.file: {file} can't be written: {error.strerror}"]) from error
    formatters: dict[str, logging.Formatter] = {
        "text": TextFormatter(),
        "json": JsonFormatter(node),
        "nats": NatsFormatter(with_time=with_time),
    }
    handler.setFormatter(formatters[style])
    everything = logging.getLogger()
    for old in everything.handlers[:]:
        if isinstance(old.formatter, _Line):
            everything.removeHandler(old)
            old.close()
    everything.addHandler(handler)
    everything.setLevel(logging.WARNING)
    set_level(level)
    logging.captureWarnings(True)


def _file_handler(file: Path) -> logging.Handler:
    """A handler of a file that its owner writes and its group reads: log shippers have a group, others no
    business.

    Raises:
        OSError: it can't be opened.
    """
    from logging.handlers import WatchedFileHandler

    class LogFile(WatchedFileHandler):
        def _open(self) -> TextIOWrapper:
            def opener(path: str, flags: int) -> int:
                return os.open(path, flags, FILE_MODE)

            return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    return LogFile(file, encoding="utf-8")


def set_level(level: str, full: Mapping[str, str] | None = None) -> None:
    """Write lines from ``level`` on, and from another level on in some ``full``."""
    logging.getLogger(ROOT).setLevel(LEVELS[level])
    for low_space in NATS_ROOMS:
        chosen = (full or {}).get(low_space)
        logging.getLogger(f"{ROOT}.{low_space}").setLevel(LEVELS[chosen] if chosen else logging.NOTSET)


def reopen() -> None:
    """Open the log file anew if it was moved away, without waiting for a line to be written."""
    from logging.handlers import WatchedFileHandler

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Line) and isinstance(handler, WatchedFileHandler):
            with handler.lock or nullcontext():
                handler.reopenIfNeeded()


def _time(record: logging.LogRecord) -> str:
    at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _room(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    for name, value in vars(record).items():
        if name not in _STANDARD:
            yield name, "***" if _SECRET.search(name) else value


class _Line(logging.Formatter):
    """One of ours."""

    def _text(self, prefix: str, record: logging.LogRecord) -> str:
        """Prefix, words, fields. A traceback follows, indented."""
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record))
        line = f"{prefix}{record.getMessage()}{fields}".translate(_CONTROL)
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {part.translate(_CONTROL)}" for part in trace)
        return line


def _level(record: logging.LogRecord) -> str:
    return _SHORT.get(record.levelname, record.levelname)


class TextFormatter(_Line):
    """Time, level, room, words, fields."""

    def format(self, record: logging.LogRecord) -> str:
        return self._text(f"{_time(record)} {_level(record)} {_room(record)}: ", record)


class NatsFormatter(_Line):
    """As the Go server writes them: process, local time, level, part, words, fields."""

    def __init__(self, *, with_time: bool = True) -> None:
        super().__init__()
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        at = ""
        if self._with_time:
            second = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(record.created))
            at = f"{second}.{int(record.created % 1 * 1_000_000):06d} "
        part = "" if _room(record) in NATS_ROOMS else "STREAM: "
        return self._text(f"[{os.getpid()}] {at}[{_level(record)}] {part}", record)


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or " " in text or '"' in text else text


class JsonFormatter(_Line):
    """One object a line. What JSON can't hold is shown as text."""

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self._node = {"node": node} if node else {}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "room": _room(record),
            **self._node,
            "message": record.getMessage(),
            **dict(_fields(record)),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
