"""Clusters of real processes, to be killed, paused and asked how they are.

Nothing here sleeps in the hope that something has happened: every wait asks, again and again, until
a deadline that is far off even for a busy machine.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from e2e.ports import Guard, Ports

STANCHION = Path(sys.executable).parent / "stanchion"
LOG_SHOWN_LINES = 60
READY_S = 30.0
POLL_S = 0.02

T = TypeVar("T")


def until(what: str, ask: Callable[[], T], timeout_s: float = 15.0) -> T:
    """What ``ask`` returns once it is true.

    Raises:
        AssertionError: it wasn't in time; the text says what was waited for and the last answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last answer: {answer!r}")
        time.sleep(POLL_S)  # between two questions, not instead of one


class Child:
    """One child process in a process group of its own, its output in a file."""

    def __init__(self, name: str, command: list[str], log: Path, guard: Guard, **options: Any) -> None:
        self.name = name
        self.log = log
        self._guard = guard
        # What is meant for the tests, or was meant for another node, is no setting of this one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STANCHION_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stderr=output,
                stdout=options.pop("stdout", output),
                stdin=options.pop("stdin", subprocess.DEVNULL),
                start_new_session=True,
                env=environment | options.pop("env", {}),
                **options,
            )
        guard.watch(self.process.pid)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """To the whole group; a process that has ended needs none. Whom it stops stands still on return."""
        if self.is_running:
            os.killpg(self.process.pid, number)
            if number == signal.SIGSTOP:
                until(f"{self.name} to stop", self._stands_still)

    def _stands_still(self) -> bool:
        """Whether all its threads do: on a busy machine some run on while one takes the signal."""
        states = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, states) is not None

    def wait(self, timeout_s: float) -> int:
        """Its exit code. Raises AssertionError when it doesn't end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout_s:g} s") from None
        self._guard.forget(self.process.pid)
        return code

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(10)


class Cluster:
    """Nodes of one configuration as real processes.

    Args:
        folder: where the configuration, data and logs go.
        size: how many nodes; they are called n1, n2, …
        settings: sections of the configuration; of ``cluster`` what is said beside id and nodes.
        hosts: by node, where it listens; else the loopback.
        launchers: by node, words that start its command somewhere else.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        guard: Guard,
        *,
        size: int = 3,
        settings: dict[str, Any] | None = None,
        hosts: Mapping[str, str] | None = None,
        launchers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder = folder
        self.cluster_id = "test-cluster"
        self._guard = guard
        self._hosts = hosts or {}
        self._launchers = launchers or {}
        kinds = ("client", "peer", "http") if size > 1 else ("client", "http")
        self.ports = {f"n{i + 1}": {kind: ports.take() for kind in kinds} for i in range(size)}
        self.names = list(self.ports)
        self.children: dict[str, Child] = {}
        self.options: dict[str, list[str]] = {}
        """By node: more words for its command line."""
        self._ended: set[str] = set()
        self.config = folder / "cluster.yaml"
        self.config.write_text(json.dumps(self._document(settings or {}), indent=2))  # JSON is YAML

    def _document(self, settings: dict[str, Any]) -> dict[str, Any]:
        nodes = {
            name: {kind: f"{self.host(name)}:{port}" for kind, port in ports.items()}
            for name, ports in self.ports.items()
        }
        return {
            "store": {"dir": "data/{node}"},
            "limits": {"max_channels": 0},
            **settings,
            "cluster": {"id": self.cluster_id, "nodes": nodes, **settings.get("cluster", {})},
        }

    # --- processes --------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start nodes, all by default; those that run are left alone."""
        for name in names or self.names:
            child = self.children.get(name)
            if child is None or not child.is_running:
                self._ended.discard(name)
                command = [*self._launchers.get(name, []), str(STANCHION), "node"]
                command += ["--config", str(self.config), "--name", name, *self.options.get(name, [])]
                self.children[name] = Child(name, command, self.log(name), self._guard)

    def kill(self, name: str) -> None:
        """kill -9."""
        self._ended.add(name)
        self.children[name].end()

    def expect_end(self, name: str) -> None:
        """It will end by itself, as the test means it to."""
        self._ended.add(name)

    def ask_to_stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        self._ended.add(name)
        self.children[name].signal(number)

    def pause(self, name: str) -> None:
        self.children[name].signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.children[name].signal(signal.SIGCONT)

    def end(self) -> None:
        for child in self.children.values():
            child.end()

    def heal(self) -> None:
        """Whatever a test has done to the nodes: all run again, and follow one leader."""
        for name, child in self.children.items():
            assert child.is_running or name in self._ended, f"{name} ended by itself, {child.process.poll()}"
            self.resume(name)
        self.start()
        self.wait_ready()

    # --- asking -----------------------------------------------------------------------------------

    def host(self, name: str) -> str:
        return self._hosts.get(name, "127.0.0.1")

    def url(self, name: str) -> str:
        return f"nats://{self.address(name)}"

    def address(self, name: str) -> str:
        return f"{self.host(name)}:{self.ports[name]['client']}"

    def addresses(self, first: str | None = None) -> list[str]:
        """Where clients may connect, beginning with node ``first``."""
        return [self.address(name) for name in sorted(self.names, key=lambda name: name != first)]

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    @property
    def running(self) -> list[str]:
        return [name for name in self.names if name in self.children and self.children[name].is_running]

    def get(self, name: str, path: str, timeout_s: float = 5.0) -> tuple[int, Any]:
        """A page of a node's monitoring: its status and its JSON, or 0 and why it can't be had."""
        connection = http.client.HTTPConnection(self.host(name), self.ports[name]["http"], timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()
        return response.status, json.loads(body) if body[:1] == b"{" else body.decode()

    def page(self, name: str, path: str) -> Any:
        """A page that has to be there."""
        status, body = self.get(name, path)
        assert status == 200, f"{name} answers {status} on {path}: {body}"
        return body

    def leader(self, timeout_s: float = READY_S) -> str:
        """The leader that is ready; waits until there is one."""
        return until("a ready leader", self.ready_leader, timeout_s)

    def ready_leader(self, among: Sequence[str] | None = None) -> str:
        """The leader that is ready, now, or nothing."""
        for name in among or self.running:
            status, raft = self.get(name, "/raftz", timeout_s=1.0)
            if status == 200 and raft["role"] == "Leader" and raft["is_ready"]:
                return name
        return ""

    def follower(self) -> str:
        """A node that isn't the leader."""
        leader = self.leader()
        return next(name for name in self.running if name != leader)

    def wait_ready(self, names: Iterable[str] | None = None, timeout_s: float = READY_S) -> None:
        """Wait until the nodes (by default all that run) are healthy and name the same leader."""
        waited = list(names or self.running)

        def are_ready() -> bool:
            dead = [name for name in waited if not self.children[name].is_running]
            assert not dead, f"{', '.join(dead)} ended: {self.tail(dead[0])}"
            leaders = set()
            for name in waited:
                if self.get(name, "/healthz", timeout_s=1.0)[0] != 200:
                    return False
                status, raft = self.get(name, "/raftz", timeout_s=1.0)
                leaders.add(raft["leader"] if status == 200 else "")
            return len(leaders) == 1 and "" not in leaders

        until(f"{', '.join(waited)} ready", are_ready, timeout_s)

    def channel(self, name: str, channel: str) -> dict[str, Any]:
        """What node ``name`` knows of a channel and its subscriptions."""
        body = self.page(name, f"/streaming/channelsz?channel={channel}&subs=1")
        assert isinstance(body, dict)
        return body

    def wait_same(self, channel: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """Wait until all nodes that run say the same of a channel; what they say."""
        keys = ("name", "msgs", "bytes", "first_seq", "last_seq", "subs_count")

        def seen(name: str) -> tuple[dict[str, Any], list[Any]]:
            view = self.channel(name, channel)
            subs = [
                (sub["client_id"], sub["inbox"], sub["last_sent"], sub["pending_count"], sub["is_offline"])
                for sub in view.get("subscriptions", [])
            ]
            return {key: view[key] for key in keys}, subs

        def same() -> dict[str, Any] | None:
            views = [seen(name) for name in self.running]
            return views[0][0] if all(view == views[0] for view in views) else None

        return until(f"the same channel {channel} on {', '.join(self.running)}", same, timeout_s) or {}

    def log_from_now(self, name: str) -> Callable[[], str]:
        """Return a function that returns what the node has logged since this call.

        Tests share clusters: a line that a test waits for may be there from the test before.
        """
        start = self.log(name).stat().st_size if self.log(name).exists() else 0

        def read() -> str:
            with self.log(name).open("rb") as file:
                file.seek(start)
                return file.read().decode(errors="replace")

        return read

    def tail(self, name: str) -> str:
        """The end of a node's log."""
        if not self.log(name).exists():
            return ""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-LOG_SHOWN_LINES:])
