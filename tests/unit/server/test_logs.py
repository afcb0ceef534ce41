"""A line an event, for eyes or for machines, and never a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config.values import Secret
from node.errors import ConfigError
from node.server.logs import set_up

log = logging.getLogger("stanchion.ordering")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    everything, ours = logging.getLogger(), logging.getLogger("stanchion")
    handlers, levels = everything.handlers[:], (everything.level, ours.level)
    yield
    for handler in everything.handlers[:]:
        if handler not in handlers:
            everything.removeHandler(handler)
            handler.close()
    everything.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)


def test_text_is_time_level_room_words_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "text")
    log.info("became leader", extra={"term": 4, "cause": "n2 is silent"})
    time, rest = capsys.readouterr().err.split(" ", 1)
    assert len(time) == len("2026-11-22T14:52:01.123Z")
    assert rest == 'INF ordering: became leader term=4 cause="n2 is silent"\n'


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "json", node="n1")
    log.warning("client %s is slow", "a\nb", extra={"pending_bytes": 7})
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "room": "ordering",
        "node": "n1",
        "message": "client a\nb is slow",
        "pending_bytes": 7,
    }


def test_a_line_stays_a_line_whatever_clients_call_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "text")
    log.info("client %s left", "evil\r\n2026 ERR all is lost\x1b[2J")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"client evil\r\n2026 ERR all is lost\x1b[2J left")


@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_are_masked(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", style)
    log.info(
        "connected %s", Secret("text", "hunter2"), extra={"auth_token": "hunter2", "user_password": "hunter2"}
    )
    printed = capsys.readouterr().err
    assert "hunter2" not in printed
    assert "***" in printed


def test_less_grave_lines_are_left_out_and_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("warning", "text")
    log.info("no")
    set_up("debug", "text")
    log.debug("yes")
    logging.getLogger("library").info("no")
    logging.getLogger("library").warning("also")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["DBG ordering: yes", "WRN library: also"]


def test_a_traceback_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "text")
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("ERR ordering: it failed")
    assert lines[-1] == "    ValueError: boom"


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "n1.log"
    set_up("info", "text", file)
    log.info("before")
    file.rename(tmp_path / "old.log")
    log.info("after")
    assert "before" in (tmp_path / "old.log").read_text()
    assert "after" in file.read_text()
    assert "before" not in file.read_text()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"logging\.file: .*n1\.log can't be written"):
        set_up("info", "text", tmp_path / "file" / "n1.log")
