"""Log lines as text and JSON, without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config.values import Secret
from node.errors import ConfigError
from node.server.logs import reopen, set_level, set_up

log = logging.getLogger("stanchion.proposer")


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


def test_a_text_line_has_time_level_component_message_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "text")
    log.info("became leader", extra={"term": 4, "cause": "n2 is unreachable"})
    time, rest = capsys.readouterr().err.split(" ", 1)
    assert len(time) == len("2026-11-22T14:52:01.123Z")
    assert rest == 'INF proposer: became leader term=4 cause="n2 is unreachable"\n'


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "json", node="n1")
    log.warning("client %s is slow", "a\nb", extra={"pending_bytes": 7})
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "component": "proposer",
        "node": "n1",
        "message": "client a\nb is slow",
        "pending_bytes": 7,
    }


def test_client_names_can_not_break_a_line(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_lower_levels_are_left_out_and_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("warning", "text")
    log.info("no")
    set_up("debug", "text")
    log.debug("yes")
    logging.getLogger("library").info("no")
    logging.getLogger("library").warning("also")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["DBG proposer: yes", "WRN library: also"]


def test_a_traceback_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "text")
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("ERR proposer: it failed")
    assert lines[-1] == "    ValueError: boom"


def test_a_file_that_was_moved_away_is_reopened(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "n1.log"
    set_up("info", "text", file)
    log.info("before")
    file.rename(tmp_path / "old.log")
    log.info("after")
    assert "before" in (tmp_path / "old.log").read_text()
    assert "after" in file.read_text()
    assert "before" not in file.read_text()


def test_a_log_file_is_readable_by_owner_and_group_only(tmp_path: Path) -> None:
    """Also a new file, after the first was moved away."""
    before = os.umask(0)
    try:
        file = tmp_path / "n1.log"
        set_up("info", "text", file)
        assert file.stat().st_mode & 0o777 == 0o640
        file.rename(tmp_path / "old.log")
        logging.getLogger("stanchion.node").info("after")
        assert file.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"logging\.file: .*n1\.log can't be written"):
        set_up("info", "text", tmp_path / "file" / "n1.log")


def test_lines_in_the_format_of_the_go_server(capsys: pytest.CaptureFixture[str]) -> None:
    """Tools search for ``STREAM:`` and the level in brackets."""
    set_up("info", "nats")
    log.info("Streaming Server is ready")
    logging.getLogger("stanchion.clients").warning("a slow one")
    ready, slow = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"\[\d+\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[INF\] STREAM: Streaming Server is ready", ready
    )
    assert slow.endswith(" [WRN] a slow one")
    set_up("info", "nats", with_time=False)
    log.error("no time")
    assert capsys.readouterr().err == f"[{os.getpid()}] [ERR] STREAM: no time\n"


def test_a_component_may_have_its_own_level(capsys: pytest.CaptureFixture[str]) -> None:
    """The Go server has one flag for debug lines of its NATS part, another for the streaming part."""
    clients = logging.getLogger("stanchion.clients")
    set_up("info", "text")
    set_level("info", {"clients": "debug"})
    log.debug("hidden")
    clients.debug("shown")
    set_level("debug", {"clients": "info"})
    log.debug("shown too")
    clients.debug("hidden")
    set_level("info")
    clients.debug("hidden")
    assert [line.rsplit(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["shown", "shown too"]


def test_a_moved_file_is_recreated_before_the_next_line(tmp_path: Path) -> None:
    """Log rotation sends SIGUSR1 and expects the file."""
    file = tmp_path / "node.log"
    set_up("info", "text", file)
    log.info("before")
    file.rename(tmp_path / "node.log.1")
    reopen()
    assert file.read_text() == ""
    log.info("after")
    assert "after" in file.read_text()
    set_up("info", "text")
    reopen()  # standard error needs none
