"""``nats-streaming-server -sl word[=pid]``: send a signal to a running server, found by its name."""

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
    """Send the signal named by ``word`` or ``word=pid``.

    Raises:
        ConfigError: the word is unknown, or the process ID is not a number.
        NodeError: no process or several processes match, or the process can't be signalled.
    """
    word, equals, pid = text.partition("=")
    number = SIGNALS.get(word)
    if number is None:
        raise ConfigError([f"-signal: unknown signal {word!r}; expected one of {', '.join(SIGNALS)}"])
    if equals and not pid.isdecimal():
        raise ConfigError([f"-signal: expected a process ID after {word}=, not {pid!r}"])
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
        raise NodeError(f"several {NAME} processes are running: {listed}; choose one with -sl word=PID")
    return found[0]


def running(processes: Path) -> list[int]:
    """Return the IDs of all processes that run this command, except this process."""
    found = []
    for entry in processes.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended, or belongs to another user
        if any(os.path.basename(word) == NAME.encode() for word in words[:2]):  # noqa: PTH119  # bytes
            found.append(int(entry.name))
    return sorted(found)
