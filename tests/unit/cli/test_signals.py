"""``-sl``: the process and the signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from node.cli.signals import running, send
from node.errors import ConfigError, NodeError


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


def processes(folder: Path, **commands: str) -> Path:
    for pid, words in commands.items():
        (folder / pid.removeprefix("p")).mkdir()
        (folder / pid.removeprefix("p") / "cmdline").write_bytes(words.replace(" ", "\0").encode() + b"\0")
    (folder / "self").mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("quit", signal.SIGINT),
        ("stop", signal.SIGKILL),
        ("reopen", signal.SIGUSR1),
        ("reload", signal.SIGHUP),
        ("ldm", signal.SIGUSR2),
    ],
)
def test_a_word_and_a_process(word: str, number: int, sent: list[tuple[int, int]]) -> None:
    """CFG-06."""
    send(f"{word}=4711")
    assert sent == [(4711, number)]


def test_the_only_one_is_found_by_its_name(tmp_path: Path, sent: list[tuple[int, int]]) -> None:
    folder = processes(
        tmp_path,
        p70="/usr/bin/python3 /opt/bin/nats-streaming-server -p 4222",
        p71="vi nats-streaming-server.conf",
        p72="/bin/grep -r nats-streaming-server",
        p73="nats-server",
    )
    (folder / "74").mkdir()  # it ended while we looked
    send("reload", folder)
    assert sent == [(70, signal.SIGHUP)]


def test_several_are_listed(tmp_path: Path, sent: list[tuple[int, int]]) -> None:
    folder = processes(tmp_path, p9="nats-streaming-server", p70="python nats-streaming-server -p 1")
    assert running(folder) == [9, 70]
    with pytest.raises(NodeError, match=r"several .* are running: 9, 70; choose one"):
        send("quit", folder)
    assert sent == []


def test_no_process_is_an_error(tmp_path: Path) -> None:
    folder = processes(tmp_path, **{f"p{os.getpid()}": "nats-streaming-server -sl quit"})
    with pytest.raises(NodeError, match="no nats-streaming-server is running"):
        send("quit", folder)


def test_invalid_signals_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown signal 'leap'"):
        send("leap=5")
    with pytest.raises(ConfigError, match="expected a process ID"):
        send("quit=all")
    with pytest.raises(NodeError, match="can't be signalled"):
        send("reload=999999999")
