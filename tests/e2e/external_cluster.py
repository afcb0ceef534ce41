"""A cluster behind somebody else's NATS servers, where its clients connect: what `Cluster` is to tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from e2e.harness import Child, Cluster, until
from e2e.ports import Guard, Ports
from e2e.wire import Wire

NATS_SERVER = os.environ.get("STANCHION_NATS_SERVER") or shutil.which(
    "nats-server", path=f"{os.environ['PATH']}:/usr/sbin"
)


def needs_nats_server() -> None:
    """Skip the test where Debian's ``nats-server`` isn't installed; fail it where everything has to be."""
    if NATS_SERVER is None:
        text = "nats-server is not installed"
        pytest.fail(text) if os.environ.get("STANCHION_REQUIRE_CLIENTS") else pytest.skip(text)


class ExternalCluster(Cluster):
    """Nodes attached to as many servers of one NATS cluster; each node begins with another of them.

    ``addresses`` are those of the NATS servers: the first is the one that node ``n1`` begins with.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        guard: Guard,
        *,
        size: int = 3,
        settings: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self._nats_ports = {f"n{i + 1}": (ports.take(), ports.take()) for i in range(size)}
        urls = [f"nats://127.0.0.1:{client}" for client, _ in self._nats_ports.values()]
        settings = dict(settings or {})
        settings["streaming"] = {**settings.get("streaming", {}), "nats_server": {"urls": urls}}
        super().__init__(folder, ports, guard, size=size, settings=settings, **more)
        for at, name in enumerate(self.names):
            own_first = urls[at:] + urls[:at]
            self.options[name] = ["--set", f"streaming.nats_server.urls=[{', '.join(own_first)}]"]
        self.servers: dict[str, Child] = {}

    def start(self, *names: str) -> None:
        self.start_servers()
        super().start(*names)

    def start_servers(self) -> None:
        """Start the NATS servers that don't run."""
        routes = ",".join(f"nats://127.0.0.1:{route}" for _, route in self._nats_ports.values())
        for name, (client, route) in self._nats_ports.items():
            if name in self.servers and self.servers[name].is_running:
                continue
            command = [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(client), "--cluster_name", "nats"]
            command += ["--cluster", f"nats://127.0.0.1:{route}", "--routes", routes]
            self.servers[name] = Child(f"nats {name}", command, self.folder / f"nats-{name}.log", self._guard)
        for client, _ in self._nats_ports.values():
            until("the NATS servers", lambda client=client: _listens(client))  # type: ignore[misc]

    def address(self, name: str) -> str:
        """Where clients of node ``name`` connect: the NATS server that it begins with."""
        return f"127.0.0.1:{self._nats_ports[name][0]}"

    def end(self) -> None:
        super().end()
        for server in self.servers.values():
            server.end()


def _listens(port: int) -> bool:
    try:
        Wire(port).socket.close()
    except ConnectionRefusedError:
        return False
    return True
