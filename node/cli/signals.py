"""``nats-streaming-server -sl word[=pid]``: a signal to a server that runs, found by its name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from node.errors import ConfigError, NodeError

SIGNALS: Final = {
    "quit": signal.SIGINT,
    "stop": signal.SIGKILL,
    "reopen": signal.SIGUSR1,
    "reload": signal.SIGHUP,
    "ldm": signal.SIGUSR2,
}
NAME: Final = "nats-streaming-server"


def send(text: str, processes: Path = Path("/proc")) -> None:
    """Send what ``word`` or ``word=pid`` says.

    Raises:
        ConfigError: no such word, or no number where the process should be.
        NodeError: there is no such process, or it can't be told apart, or it isn't ours to signal.
    """
    word, equals, pid = text.partition("=")
    number = SIGNALS.get(word)
    if number is None:
        raise ConfigError([f"-signal: unknown signal {word!r}; known: {', '.join(SIGNALS)}"])
    if equals and not pid.isdecimal():
        raise ConfigError([f"-signal: expected the number of a process after {word}=, not {pid!r}"])
    target = int(pid) if equals else _only(running(processes))
    try:
        os.kill(target, number)
    except OSError as error:
        raise NodeError(f"process {target} can't be signalled: {error.strerror}") from error


def _only(found: list[int]) -> int:
    if not found:
        raise NodeError(f"no {NAME} is running")
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise NodeError(f"several {NAME} processes are running: {listed}; say which: -sl word=PID")
    return found[0]


def running(processes: Path) -> list[int]:
    """The processes that run this command, but for this one."""
    found = []
    for entry in processes.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended, or is nobody's business
        if any(os.path.basename(word) == NAME.encode() for word in words[:2]):  # noqa: PTH119  # bytes
            found.append(int(entry.name))
    return sorted(found)
