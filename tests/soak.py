"""``make soak``: run the simulator in parallel with the nemesis and the attacks, with new seeds.

Run as ``python tests/soak.py SECONDS [SEED]``. Each output line names its part. A failure includes the
command that repeats it; the other part continues, and the exit status is 1 at the end. Ctrl-C ends
everything with 130.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from e2e.ports import Guard

ROOT = Path(__file__).parent.parent
STANCHION = Path(sys.executable).parent / "stanchion"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
ENDED_S = 20.0
"""Maximum time in which a part must end its own processes after an interrupt."""

ATTACKS = 20
"""The approximate number of attacks, which share a quarter of the time."""

Command = tuple[list[str], dict[str, str]]
"""The words of a command, and its environment variables."""


def parts(seconds: int, seed: int) -> dict[str, list[Command]]:
    """Return the commands of each part. Parts run in parallel, the commands of a part one after the other."""
    whole = [str(STANCHION), "simulate", "--profile", "all", "--first-seed", str(seed)]
    whole += ["--for", str(max(1, seconds * 3 // 4))]
    engine = [*PYTEST, "tests/simulator/test_raft.py", "tests/simulator/test_sessions.py"]
    engine += ["-k", "many_seeds or soak", f"--soak-seconds={max(1, seconds // 5)}"]
    nemesis = [*PYTEST, "-s", "tests/e2e/test_nemesis.py", "-k", "soak"]
    drawn = {"STANCHION_NEMESIS_SOAK": str(max(1, seconds * 3 // 4)), "STANCHION_NEMESIS_SEED": str(seed)}
    hostile = [*PYTEST, "tests/e2e", "-m", "alone", "-k", "hostile"]
    attacked = {"STANCHION_HOSTILE_SECONDS": str(max(4, seconds // 4 // ATTACKS))}
    return {
        "simulator": [(whole, {}), (engine, {})],
        "nemesis": [(nemesis, drawn), (hostile, attacked)],
    }


@dataclass(slots=True)
class Part:
    """One part. It runs in its own thread."""

    name: str
    commands: list[Command]
    guard: Guard
    failed: list[str]
    process: subprocess.Popen[str] | None = None
    is_over: bool = False

    def run(self) -> None:
        for words, environment in self.commands:
            if self.is_over:
                return
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self.guard.watch(self.process.pid)
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if not self.is_over:  # after an interrupt, output is only noise
                    say(self.name, line.rstrip())
            status = self.process.wait()
            if self.is_over:
                return
            self.guard.forget(self.process.pid)
            if status:
                self.failed.append(f"{' '.join(words)}: exit status {status}")

    def end(self) -> None:
        """Interrupt the part as Ctrl-C would."""
        self.is_over = True
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)


def say(name: str, line: str) -> None:
    if line:
        print(f"{name:>9} | {line}", flush=True)  # noqa: T201 - it is a program


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(seconds: int, seed: int) -> int:
    signal.signal(signal.SIGTERM, interrupt)
    say("soak", f"{seconds} s from seed {seed}; repeat with: make soak SECONDS={seconds} SEED={seed}")
    guard = Guard()
    failed: list[str] = []
    work = [Part(name, commands, guard, failed) for name, commands in parts(seconds, seed).items()]
    threads = [threading.Thread(target=part.run) for part in work]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # make forwards the signal that we already have
        say("soak", "interrupted")
        for part in work:
            part.end()
        until_s = time.monotonic() + ENDED_S
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return 128 + signal.SIGINT
    finally:
        guard.close()  # kill all processes that are still running
    for line in failed or ["no invariant was violated"]:
        say("soak", f"FAILED: {line}" if failed else line)
    return 1 if failed else 0


if __name__ == "__main__":
    said = [int(word) for word in sys.argv[1:] if word]
    sys.exit(main(said[0], said[1] if len(said) > 1 else int(time.time()) % 1_000_000_000))
