"""The network between nodes, to be cut: each direction between two nodes by itself.

What a cut direction swallows isn't lost for good: TCP sends it again when the direction is whole, unless
an end has given up meanwhile. `Namespaces` is the kernel's own network, a namespace a node, and needs
root; `Relays` are proxies that stop reading, and need nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Protocol

from e2e.harness import STANCHION, Cluster
from e2e.ports import Guard, Ports

READ_BYTES = 64 * 1024
BRIDGE = "stb"


class Network(Protocol):
    """What a cluster's nodes reach one another by."""

    kind: str
    cluster: Cluster

    def cut(self, source: str, target: str) -> None:
        """Nothing goes from one node to the other until ``mend``; what goes the other way still does."""

    def mend(self, source: str, target: str) -> None:
        """What was cut goes again."""

    def close(self) -> None: ...


class Relays:
    """A proxy for each node that dials and each that is dialled.

    Args:
        folder, ports, guard, size, settings: the cluster's, which is made here.
        cluster: what makes it.
    """

    kind = "relays"

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        guard: Guard,
        *,
        size: int,
        settings: dict[str, Any],
        cluster: type[Cluster] = Cluster,
    ) -> None:
        self.cluster = cluster(folder, ports, guard, size=size, settings=settings)
        self._lines: dict[tuple[str, str], Line] = {}
        for dialing in self.cluster.names:
            for target in self.cluster.names:
                if dialing != target:
                    line = Line(ports.take(), self.cluster.ports[target]["peer"])
                    self._lines[dialing, target] = line
                    override = f"cluster.nodes.{target}.peer=127.0.0.1:{line.port}"
                    self.cluster.options.setdefault(dialing, []).extend(["--set", override])

    def cut(self, source: str, target: str) -> None:
        self._lines[source, target].forth.clear()
        self._lines[target, source].back.clear()

    def mend(self, source: str, target: str) -> None:
        self._lines[source, target].forth.set()
        self._lines[target, source].back.set()

    def close(self) -> None:
        for line in self._lines.values():
            line.forth.set()
            line.back.set()
        for line in self._lines.values():
            line.close()


class Line:
    """Forwards connections to ``port`` to ``target``, each way while its event is set."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.forth, self.back = threading.Event(), threading.Event()
        self.forth.set()
        self.back.set()
        self._target = target
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    near, _ = self._listener.accept()
                except OSError:  # it was shut
                    return
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.socket() as far:
            self._open |= {near, far}
            try:
                self.forth.wait()  # a connection takes both ways
                self.back.wait()
                far.connect(("127.0.0.1", self._target))
                back = threading.Thread(target=self._forward, args=(far, near, self.back), daemon=True)
                back.start()
                self._forward(near, far, self.forth)
                back.join()
            finally:
                self._open -= {near, far}

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, is_whole: threading.Event) -> None:
        try:
            while data := source.recv(READ_BYTES):
                is_whole.wait()
                target.sendall(data)
        except OSError:
            pass
        finally:
            is_whole.wait()  # nor does the end of a connection pass
            _shut(source)
            _shut(target)

    def close(self) -> None:
        _shut(self._listener)
        for end in list(self._open):
            _shut(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed or never connected
        end.shutdown(socket.SHUT_RDWR)


class Namespaces:
    """A network namespace for each node, on one bridge; peers prove who they are, as they must.

    A direction is cut by a route at its source that leads nowhere. Made of what `ip` can do.
    """

    kind = "namespaces"

    def __init__(
        self, folder: Path, ports: Ports, guard: Guard, *, size: int, settings: dict[str, Any]
    ) -> None:
        names = [f"n{number + 1}" for number in range(size)]
        _remove_leftovers()
        self._bridge = f"{BRIDGE}{os.getpid()}"
        self._subnet = _free_subnet()
        self._hosts = {name: f"{self._subnet}.{10 + at}" for at, name in enumerate(names)}
        _ip("link", "add", self._bridge, "type", "bridge")
        try:
            self._build()
            self.cluster = self._make_cluster(folder, ports, guard, size, settings)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def can_be_had() -> bool:
        """Whether we may make namespaces here."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        name = f"{BRIDGE}{os.getpid()}try"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        if made.returncode == 0:
            _ip("netns", "delete", name)
        return made.returncode == 0

    def _build(self) -> None:
        _ip("address", "add", f"{self._subnet}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for name, host in self._hosts.items():
            inside, cable = self._namespace(name), f"{self._bridge}{name}"
            _ip("netns", "add", inside)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", inside, "address", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")
            _ip("-n", inside, "link", "set", "lo", "up")

    def _make_cluster(
        self, folder: Path, ports: Ports, guard: Guard, size: int, settings: dict[str, Any]
    ) -> Cluster:
        hosts = ",".join(self._hosts.values())
        certs = folder / "certs"
        made = [
            str(STANCHION),
            "certs",
            "init",
            str(certs),
            "--nodes",
            ",".join(self._hosts),
            "--hosts",
            hosts,
        ]
        subprocess.run(made, check=True, capture_output=True)
        security = {"mode": "mtls", "ca": str(certs / "ca.pem")}
        for what, ending in (("cert", "pem"), ("key", "key")):
            security[what] = f"{certs}/{{node}}.{ending}"
        return Cluster(
            folder,
            ports,
            guard,
            size=size,
            settings=settings | {"monitoring": {"open": True}, "cluster": {"peer_security": security}},
            hosts=self._hosts,
            launchers={name: ["ip", "netns", "exec", self._namespace(name)] for name in self._hosts},
        )

    def _namespace(self, name: str) -> str:
        return f"{self._bridge}-{name}"

    def cut(self, source: str, target: str) -> None:
        self._route("add", source, target)

    def mend(self, source: str, target: str) -> None:
        self._route("delete", source, target)

    def _route(self, what: str, source: str, target: str) -> None:
        _ip("-n", self._namespace(source), "route", what, "blackhole", f"{self._hosts[target]}/32")

    def close(self) -> None:
        for name in self._hosts:
            subprocess.run(["ip", "netns", "delete", self._namespace(name)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def _free_subnet() -> str:
    used = _ip("-o", "-4", "address", "show")
    while True:
        subnet = f"10.{random.randrange(64, 255)}.{random.randrange(256)}"
        if f" {subnet}." not in used:
            return subnet


def _remove_leftovers() -> None:
    """What a run has left behind that was itself killed."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(BRIDGE).partition("-")[0]
        if name.startswith(BRIDGE) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _ip("netns", "delete", name)
            subprocess.run(["ip", "link", "delete", f"{BRIDGE}{owner}"], capture_output=True, check=False)
