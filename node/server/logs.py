"""Logging: one line for each event, as text or JSON.

Each component has a logger, ``logging.getLogger("stanchion.<component>")``. Messages are short and fixed;
values go into ``extra``, so that both formats keep them separate::

    log.info("became leader", extra={"term": 4})

    2026-11-22T14:52:01.123Z INF proposer: became leader term=4
    {"time": "2026-11-22T14:52:01.123Z", "level": "info", "component": "proposer", …, "term": 4}

``nats-streaming-server`` writes lines in the format of the Go server, for existing log searches::

    [4711] 2026/11/22 15:52:01.123456 [INF] STREAM: became leader term=4

Control characters are escaped, so that names chosen by clients can't break a line. Fields that are named like
secrets are masked, although no caller should pass them.
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
"""The parent of all component loggers."""

LEVELS: Final = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_SHORT: Final = {"ERROR": "ERR", "WARNING": "WRN", "INFO": "INF", "DEBUG": "DBG", "CRITICAL": "FTL"}

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; any other attribute comes from ``extra``."""

_SECRET = re.compile(r"password|token|secret|key|passphrase", re.IGNORECASE)
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


FILE_MODE: Final = 0o640
"""Mode of a new log file. An existing file keeps its mode."""

NATS_COMPONENTS: Final = frozenset({"clients"})
"""Components whose lines the Go server writes as its NATS part, without ``STREAM:``."""


def set_up(
    level: str, style: str, file: Path | None = None, *, node: str = "", with_time: bool = True
) -> None:
    """Make all loggers write to standard error or to ``file``. Replaces an earlier setup.

    Args:
        level: the lowest level that is written, one of `LEVELS`. Libraries log warnings and errors only.
        style: ``text``, ``json``, or ``nats`` for the format of the Go server.
        file: the log file; it is reopened when log rotation has moved it away.
        node: the node's name, added to every JSON line.
        with_time: lines of style ``nats`` contain the time.

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
    """Return a handler for a file that its owner can write and its group, for log shippers, can read.

    Raises:
        OSError: the file can't be opened.
    """
    from logging.handlers import WatchedFileHandler

    class LogFile(WatchedFileHandler):
        def _open(self) -> TextIOWrapper:
            def opener(path: str, flags: int) -> int:
                return os.open(path, flags, FILE_MODE)

            return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    return LogFile(file, encoding="utf-8")


def set_level(level: str, components: Mapping[str, str] | None = None) -> None:
    """Set the lowest level that is written; ``components`` contains the levels of some `NATS_COMPONENTS`."""
    logging.getLogger(ROOT).setLevel(LEVELS[level])
    for component in NATS_COMPONENTS:
        chosen = (components or {}).get(component)
        logging.getLogger(f"{ROOT}.{component}").setLevel(LEVELS[chosen] if chosen else logging.NOTSET)


def reopen() -> None:
    """Reopen the log file if it was moved away, without waiting for the next line."""
    from logging.handlers import WatchedFileHandler

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Line) and isinstance(handler, WatchedFileHandler):
            with handler.lock or nullcontext():
                handler.reopenIfNeeded()


def _time(record: logging.LogRecord) -> str:
    at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    for name, value in vars(record).items():
        if name not in _STANDARD:
            yield name, "***" if _SECRET.search(name) else value


class _Line(logging.Formatter):
    """Base class of the formatters of this module."""

    def _text(self, prefix: str, record: logging.LogRecord) -> str:
        """Return prefix, message and fields as one line. A traceback follows, indented."""
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record))
        line = f"{prefix}{record.getMessage()}{fields}".translate(_CONTROL)
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {part.translate(_CONTROL)}" for part in trace)
        return line


def _level(record: logging.LogRecord) -> str:
    return _SHORT.get(record.levelname, record.levelname)


class TextFormatter(_Line):
    """Writes time, level, component, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        return self._text(f"{_time(record)} {_level(record)} {_component(record)}: ", record)


class NatsFormatter(_Line):
    """Writes lines in the format of the Go server: process, local time, level, part, message, fields."""

    def __init__(self, *, with_time: bool = True) -> None:
        super().__init__()
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        at = ""
        if self._with_time:
            second = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(record.created))
            at = f"{second}.{int(record.created % 1 * 1_000_000):06d} "
        part = "" if _component(record) in NATS_COMPONENTS else "STREAM: "
        return self._text(f"[{os.getpid()}] {at}[{_level(record)}] {part}", record)


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or " " in text or '"' in text else text


class JsonFormatter(_Line):
    """Writes one JSON object for each line. Values that JSON doesn't support are written as text."""

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self._node = {"node": node} if node else {}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "component": _component(record),
            **self._node,
            "message": record.getMessage(),
            **dict(_fields(record)),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
