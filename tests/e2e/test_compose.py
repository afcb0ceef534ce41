"""docker-compose.yml without Docker: it is well-formed, its parts fit, and its commands make a cluster.

The commands of the file are run as they stand, as plain processes, in the order that it demands.
Only what a container would provide is replaced: paths, and the containers' names and ports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e.harness import STANCHION, Child, until
from e2e.ports import Guard, Ports

from node.config.load import load

TOP = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((TOP / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = {name: service for name, service in SERVICES.items() if service["command"][0] == "node"}
CONFIG = TOP / "cluster-configs" / "docker.yaml"
CONFIG_INSIDE = "/etc/stanchion/cluster.yaml"


def test_it_is_a_compose_file() -> None:
    schema = json.loads((Path(__file__).parent / "compose_schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(COMPOSE, schema, cls=jsonschema.Draft202012Validator)


def test_what_it_names_is_there() -> None:
    for name, service in SERVICES.items():
        for other in service.get("depends_on", {}):
            assert other in SERVICES, f"{name} depends on {other}"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            there = (TOP / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
            assert there, f"{name} mounts {source}"


def test_its_services_are_the_nodes_of_its_configuration() -> None:
    config = load(CONFIG, environ={})
    assert list(NODES) == list(config.cluster.nodes)
    for name, service in NODES.items():
        assert service["command"] == ["node", "--config", CONFIG_INSIDE, "--name", name]
        assert service["healthcheck"]["test"][-2:] == ["--only", name]
        assert f"./cluster-configs/docker.yaml:{CONFIG_INSIDE}:ro" in service["volumes"]
        node = config.cluster.nodes[name]
        assert node.advertise is not None
        assert node.http is not None
        published = {port.rpartition(":")[2]: port.rpartition(":")[0] for port in service["ports"]}
        assert published[str(node.client.port)] == str(node.advertise)
        assert str(node.http.port) in published


def test_volumes_are_where_the_configuration_looks() -> None:
    for name, service in NODES.items():
        config = load(CONFIG, environ={}).for_node(name)
        mounted = [volume.split(":")[1] for volume in service["volumes"]]
        security = config.cluster.peer_security
        for path in (config.store.dir, security.ca, security.cert, security.key):
            assert any(path is not None and path.is_relative_to(place) for place in mounted), path
    certs = SERVICES["certs"]
    assert certs["volumes"] == [f"certs:{certs['command'][2]}"]
    assert certs["command"][certs["command"].index("--nodes") + 1] == ",".join(NODES)


def test_the_image_is_built_from_what_is_there() -> None:
    dockerfile = (TOP / "Dockerfile").read_text(encoding="utf-8")
    ignored = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in dockerfile.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (TOP / source).exists(), source
                assert f"!{source}" in ignored, source
    assert 'ENTRYPOINT ["stanchion"]' in dockerfile


class Containers:
    """What stands in for the containers: one directory, and a port on the loopback for each of theirs."""

    def __init__(self, directory: Path, ports: Ports) -> None:
        self.directory = directory
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("STANCHION_")}
        self._inside = {CONFIG_INSIDE: str(CONFIG), "/certs": f"{directory}/certs"}
        self._overrides = [f"store.dir={directory}/data/{{node}}"]
        for key, file in (("ca", "ca.pem"), ("cert", "{node}.pem"), ("key", "{node}.key")):
            self._overrides.append(f"cluster.peer_security.{key}={directory}/certs/{file}")
        for name in NODES:
            for key in ("client", "advertise", "peer", "http"):
                self._overrides.append(f"cluster.nodes.{name}.{key}=127.0.0.1:{ports.take()}")

    def command(self, words: list[str]) -> list[str]:
        """The command line for ``words``, those behind ``stanchion``."""
        command = [str(STANCHION), *(self._inside.get(word, word) for word in words)]
        if "--config" in words:
            for override in self._overrides:
                command += ["--set", override]
        return command

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(words), env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def is_healthy(self, service: dict[str, Any]) -> bool:
        """Ask as the service's healthcheck does."""
        kind, program, *words = service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "stanchion")
        return self.run(words).returncode == 0


@pytest.mark.slow
def test_its_commands_make_a_cluster(tmp_path: Path, ports: Ports, guard: Guard) -> None:
    containers = Containers(tmp_path, ports)
    for _ in range(2):  # compose runs it at every start: the second time it has nothing to do
        made = containers.run(SERVICES["certs"]["command"])
        assert made.returncode == 0, made.stderr
    with ExitStack() as ending:
        nodes: list[Child] = []
        for name, service in NODES.items():
            command, log = containers.command(service["command"]), tmp_path / f"{name}.log"
            nodes.append(Child(name, command, log, guard, env=containers.environ))
            ending.callback(nodes[-1].end)
        for name, service in NODES.items():
            until(f"{name} is healthy", partial(containers.is_healthy, service), timeout_s=60)
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.wait(30) for node in nodes] == [0, 0, 0]
