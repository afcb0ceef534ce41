"""The third-party client programs under ``clients/``, driven from a test in the same words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.harness import Child, Cluster, until
from e2e.ports import Guard

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("STANCHION_TEST_CLIENTS", HERE.parents[1] / ".clients"))
KINDS = ("python", "node", "c", "go")


class ProgramError(Exception):
    """The client library reported an error."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a program reported it. ``at_s`` is the monotonic clock when its line came in."""

    sub: str
    seq: int
    data: str
    redelivered: bool
    count: int | None
    ts: int
    at_s: float


def command(kind: str) -> list[str] | None:
    """How to start the program of a client, or None where the client isn't installed."""
    if kind == "python":
        python = FOLDER / "python/bin/python"
        return [str(python), str(HERE / "clients/stan_py.py")] if python.exists() else None
    if kind == "node":
        modules, node = FOLDER / "node/node_modules", shutil.which("node")
        found = node and (modules / "node-nats-streaming").exists()
        return [str(node), str(HERE / "clients/stan_node.js")] if found else None
    if kind == "go":  # its frames, see there: nothing to install
        return [sys.executable, str(HERE / "clients/stan_go.py")]
    program = FOLDER / "c/stan_c"
    return [str(program)] if program.exists() else None


class Program:
    """One process of one client.

    Args:
        kind: one of ``KINDS``.
        log: where its standard error goes.
    """

    def __init__(self, kind: str, log: Path, guard: Guard) -> None:
        started = command(kind)
        assert started is not None
        self.kind = kind
        self.messages: list[Received] = []
        self.lost: list[str] = []
        self.errors: list[str] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._ids = 0
        self._ended = False
        self._changed = threading.Condition()
        environment = {"NODE_PATH": str(FOLDER / "node/node_modules")}
        self._child = Child(
            kind, started, log, guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.process.stdout is not None
        for raw in self._child.process.stdout:
            line = json.loads(raw)
            with self._changed:
                self._take(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, line: dict[str, Any]) -> None:
        match line.pop("event", None):
            case None:
                self._answers[line["id"]] = line
            case "message":
                self.messages.append(Received(**line, at_s=time.monotonic()))
            case "lost":
                self.lost.append(line["error"])
            case _:
                self.errors.append(line["error"])

    def begin(self, do: str, **members: Any) -> int:
        """Send a request; its id, for ``finish``."""
        assert self._child.process.stdin is not None
        self._ids += 1
        line = json.dumps({"id": self._ids, "do": do, **members}) + "\n"
        self._child.process.stdin.write(line.encode())
        self._child.process.stdin.flush()
        return self._ids

    def finish(self, request: int, timeout_s: float = 20.0) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ProgramError: it failed; the text is the library's.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: request in self._answers or self._ended, timeout_s)
            assert done, f"the {self.kind} client did not answer within {timeout_s:g} s"
            assert request in self._answers, f"the {self.kind} client's program ended"
            answer = self._answers.pop(request)
        if answer.get("error"):
            raise ProgramError(answer["error"])
        return answer

    def call(self, do: str, timeout_s: float = 20.0, **members: Any) -> dict[str, Any]:
        """Ask and wait for the answer. Raises ProgramError."""
        return self.finish(self.begin(do, **members), timeout_s)

    def connect(self, cluster: Cluster, client: str, at: str, **members: Any) -> None:
        """Connect to node ``at``; the others are known and next in turn. Raises ProgramError."""
        urls = ",".join(f"nats://{address}" for address in cluster.addresses(at))
        self.call("connect", urls=urls, cluster=cluster.cluster_id, client=client, **members)

    def publish(self, channel: str, count: int, *, first: int = 1, prefix: str = "m", **members: Any) -> None:
        """Publish messages ``first`` …, every one of which has to be acked."""
        answer = self.call("publish", channel=channel, prefix=prefix, first=first, count=count, **members)
        assert not answer["failed"]
        assert sorted(answer["acked"]) == list(range(first, first + count))

    def of(self, sub: str) -> list[Received]:
        """What came in on a subscription, in order."""
        with self._changed:
            return [message for message in self.messages if message.sub == sub]

    def seqs(self, sub: str) -> list[int]:
        return [message.seq for message in self.of(sub)]

    def wait(self, sub: str, count: int, timeout_s: float = 15.0) -> list[Received]:
        """The messages of a subscription once there are ``count``."""
        with self._changed:
            self._changed.wait_for(
                lambda: sum(message.sub == sub for message in self.messages) >= count or self._ended,
                timeout_s,
            )
        found = self.of(sub)
        assert len(found) >= count, f"{self.kind}: {len(found)} of {count} on {sub}: {found[-20:]}"
        return found

    def wait_for(self, what: str, check: Callable[[], Any], timeout_s: float = 15.0) -> None:
        until(f"{self.kind}: {what}", check, timeout_s)

    def signal(self, number: int) -> None:
        self._child.signal(number)

    def kill(self) -> None:
        """kill -9: the client says no farewell."""
        self._child.end()

    def end(self) -> None:
        self._child.end()
        self._reader.join(10)
        for pipe in (self._child.process.stdin, self._child.process.stdout):
            assert pipe is not None
            pipe.close()
