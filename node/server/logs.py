"""What a node says: one line an event, as text for eyes or as JSON for machines.

Each room has a logger, ``logging.getLogger("stanchion.<room>")``, and says what happened in a few fixed
words; what varies goes into ``extra``, so that both formats keep it apart::

    log.info("became leader", extra={"term": 4})

    2026-11-22T14:52:01.123Z INF ordering: became leader term=4
    {"time": "2026-11-22T14:52:01.123Z", "level": "info", "room": "ordering", …, "term": 4}

A line stays a line, whatever names clients choose for themselves: control characters are escaped.
Fields that are named like secrets are masked, though nobody should pass them.
"""

from __future__ import annotations

import datetime
import json
import logging
import logging.handlers
import re
import sys
from collections.abc import Iterator
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


def set_up(level: str, style: str, file: Path | None = None, *, node: str = "") -> None:
    """Make all loggers write to standard error or to ``file``. Replaces what was set up before.

    Args:
        level: the least grave lines that are written, one of `LEVELS`. Libraries only warn.
        style: ``text`` or ``json``.
        file: opened anew once it was moved away, as log rotation does.
        node: the node's name, which every JSON line carries.

    Raises:
        ConfigError: the file can't be written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.WatchedFileHandler(file, encoding="utf-8")
        except OSError as error:
            raise ConfigError([f"logging.file: {file} can't be written: {error.strerror}"]) from error
    handler.setFormatter(JsonFormatter(node) if style == "json" else TextFormatter())
    everything = logging.getLogger()
    for old in everything.handlers[:]:
        if isinstance(old.formatter, JsonFormatter | TextFormatter):
            everything.removeHandler(old)
            old.close()
    everything.addHandler(handler)
    everything.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(LEVELS[level])
    logging.captureWarnings(True)


def _time(record: logging.LogRecord) -> str:
    at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _room(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    for name, value in vars(record).items():
        if name not in _STANDARD:
            yield name, "***" if _SECRET.search(name) else value


class TextFormatter(logging.Formatter):
    """Time, level, room, words, fields. A traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record))
        level = _SHORT.get(record.levelname, record.levelname)
        line = f"{_time(record)} {level} {_room(record)}: {record.getMessage()}{fields}".translate(_CONTROL)
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {part.translate(_CONTROL)}" for part in trace)
        return line


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or " " in text or '"' in text else text


class JsonFormatter(logging.Formatter):
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
