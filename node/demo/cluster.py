"""Three real node processes: starts, kills and pauses them, and follows their logs.

The configuration is that of ``cluster-configs/three-node.yaml`` (an installed package has a copy of it beside
this module) with other, free ports. Each node writes its log into a pipe. So a change of role is seen at
once, on the demo's clock; the log is also copied to a file.
"""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import trio

from node.config.load import load
from node.errors import UnavailableError

PORTS: Final = (10_000, 15_000)
"""The range of ports: below those that the kernel gives to outgoing connections."""

ADDRESS: Final = re.compile(r"127\.0\.0\.1:(\d+)")
ROLE: Final = re.compile(r"role (\w+) term (\d+) leader (\S+): (.*)")
READY: Final = re.compile(r"ready to lead term (\d+)")
LOG_TAIL_LINES: Final = 5
STOP_S: Final = 8.0
PAGE_SIZE_MAX: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class Node:
    """A node and its current process."""

    name: str
    client: str
    """``host:port`` for clients."""
    http: tuple[str, int]
    process: trio.Process | None = None
    is_paused: bool = False
    role: str = "down"
    term: int = 0
    log: list[str] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Cluster:
    """The nodes of the demo.

    Args:
        folder: directory of configuration, data and logs.
        nursery: runs the tasks that read the nodes' logs.
    """

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.config = folder / "three-node.yaml"
        self._ports = Claims()
        self.config.write_text(with_free_ports(packaged_config(), self._ports))
        self._store = f"store.dir={folder}/data/{{node}}"
        config = load(self.config, overrides=[self._store])
        self.id = config.cluster.id
        self.nodes = {}
        for name, each in config.cluster.nodes.items():
            assert each.http is not None
            self.nodes[name] = Node(name, str(each.client), (each.http.host, each.http.port))
        self._nursery = nursery
        self.on_role: Callable[[Node, str, int, str], None] = _nothing
        """Called when a node has a new role: node, role, term, cause."""
        self.on_ready: Callable[[Node, int], None] = _nothing
        """Called when a leader is ready: node, term."""
        self._leader: tuple[int, str] = (0, "")
        self._changed = trio.Event()

    @property
    def leader(self) -> Node | None:
        """The last leader that was ready, as long as its process runs."""
        node = self.nodes.get(self._leader[1])
        return node if node is not None and node.is_up and not node.is_paused else None

    @property
    def term(self) -> int:
        """The term of the last leader that was ready."""
        return self._leader[0]

    # --- processes --------------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        """Start a node's process."""
        node = self.nodes[name]
        assert not node.is_up
        command = [sys.executable, "-m", "node.cli.entry", "node", "--config", str(self.config)]
        command += ["--name", name, "--set", self._store, "--set", "logging.format=json"]
        # Its own process group: the terminal's Ctrl-C reaches only the demo, which stops its nodes in order.
        node.process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
        )
        node.is_paused = False
        node.role = "starting"
        self._nursery.start_soon(self._read_log, node, node.process)

    def kill(self, name: str) -> None:
        """``kill -9``."""
        process = self.nodes[name].process
        assert process is not None
        process.send_signal(signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        node = self.nodes[name]
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        node.is_paused = True

    def resume(self, name: str) -> None:
        """SIGCONT."""
        node = self.nodes[name]
        assert node.process is not None
        node.is_paused = False
        node.process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Send SIGTERM to all running nodes, and kill those that have not ended in time."""
        running = [node.process for node in self.nodes.values() if node.process is not None and node.is_up]
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        with trio.move_on_after(STOP_S):
            for process in running:
                await process.wait()
        self.kill_all()

    def kill_all(self) -> None:
        """Kill all nodes: no child process outlives the demo."""
        for node in self.nodes.values():
            if node.process is not None:
                node.process.kill()

    async def _read_log(self, node: Node, process: trio.Process) -> None:
        assert process.stderr is not None
        left = b""
        with (self.folder / f"{node.name}.log").open("ab") as file:
            async for data in process.stderr:
                file.write(data)
                file.flush()
                *lines, left = (left + data).split(b"\n")
                for line in lines:
                    self._logged(node, line)
        await process.wait()
        if node.process is process:
            node.role = "down"
            self._notify()

    def _logged(self, node: Node, line: bytes) -> None:
        text = said(line)
        node.log = [*node.log[1 - LOG_TAIL_LINES :], text]
        if found := ROLE.fullmatch(text):
            node.role, node.term = found[1], int(found[2])
            self.on_role(node, found[1], int(found[2]), found[4])
        elif found := READY.fullmatch(text):
            self._leader = max(self._leader, (int(found[1]), node.name))
            self.on_ready(node, int(found[1]))
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def leader_after(self, term: int) -> Node:
        """Wait for a leader that is ready in a later term than ``term``. The caller bounds the time."""
        while True:
            leader = self.leader
            if leader is not None and self.term > term:
                return leader
            await self._changed.wait()

    # --- asking -----------------------------------------------------------------------------------

    async def page(self, name: str, path: str, timeout_s: float = 1.0) -> Any:
        """Return a monitoring page of a node.

        Raises:
            UnavailableError: the page could not be read in time.
        """
        host, port = self.nodes[name].http
        try:
            with trio.fail_after(timeout_s):
                return json.loads(await _get(host, port, path))
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
            raise UnavailableError(f"{name}: can't read {path}: {error}") from error

    async def wait_healthy(self, name: str) -> None:
        """Wait until a node is healthy. The caller bounds the time.

        Raises:
            UnavailableError: its process has ended.
        """
        while True:
            if not self.nodes[name].is_up:
                raise UnavailableError(
                    f"{name} exited; its last log lines: {'; '.join(self.nodes[name].log)}"
                )
            try:
                if (await self.page(name, "/healthz"))["status"] == "ok":
                    return
            except UnavailableError:
                pass  # not healthy yet
            await trio.sleep(0.05)


def _nothing(*_: object) -> None:
    """Do nothing: the default callback."""


def said(line: bytes) -> str:
    """Return the message of a JSON log line; another line unchanged."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line.decode(errors="replace")


async def _get(host: str, port: int, path: str) -> bytes:
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(request)
        answer = bytearray()
        async for data in stream:
            answer += data
            if len(answer) > PAGE_SIZE_MAX:
                raise ValueError(f"the page is longer than {PAGE_SIZE_MAX} bytes")
    _, _, body = bytes(answer).partition(b"\r\n\r\n")
    return body


# --- configuration --------------------------------------------------------------------------------


def packaged_config() -> str:
    """Return the text of ``cluster-configs/three-node.yaml``."""
    return files("node.demo").joinpath("three-node.yaml").read_text(encoding="utf-8")


class Claims:
    """Ports that no other demo on this machine uses while this object lives.

    A free port may belong to a killed node of another demo, which will restart it. So each port is claimed by
    an abstract socket named after it. On systems other than Linux there are no claims.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, port: int) -> bool:
        """Claim a port if it is free and not claimed. Returns whether it is."""
        if not _is_free(port):
            return False
        if sys.platform == "linux":
            hold = socket.socket(socket.AF_UNIX)
            try:
                hold.bind(f"\0stanchion-demo-port-{port}")
            except OSError:  # claimed by another demo
                hold.close()
                return False
            self._held.append(hold)
        return True

    def release(self) -> None:
        """Release all claims."""
        while self._held:
            self._held.pop().close()


def with_free_ports(config: str, claims: Claims) -> str:
    """Return the configuration with other ports: free, chosen at random, and claimed.

    Its own ports are never used: two demos that start at the same time would both find them free, and a node
    of one demo would wait for a node of the other.
    """
    ports = list(dict.fromkeys(int(port) for port in ADDRESS.findall(config)))
    others: dict[int, int] = {}
    rng = random.SystemRandom()  # not seeded: two demos with one seed need different ports
    while len(others) < len(ports):
        port = rng.randrange(*PORTS)
        if port not in others.values() and port not in ports and claims.take(port):
            others[ports[len(others)]] = port
    return ADDRESS.sub(lambda found: f"127.0.0.1:{others[int(found[1])]}", config)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
