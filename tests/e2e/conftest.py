"""Fixtures of the end-to-end tests: real nodes, real clients, nothing left over.

`cluster` is one three-node cluster for all tests that ask for it, healed before each; a test that
needs settings of its own or spoils a disk makes one with `make_cluster`. Three processes run the tests (but
for those marked ``alone``), each with a cluster of its own; ports are never given out twice.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.harness import Cluster
from e2e.ports import Guard, Ports
from e2e.programs import KINDS, Program, command

MakeCluster = Callable[..., Cluster]
MakeProgram = Callable[[str], Program]

REASON_LINES = 25

_CLUSTERS = pytest.StashKey[list[Cluster]]()


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The peer secret of the nodes under test is not that of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture(scope="session")
def guard() -> Iterator[Guard]:
    guard = Guard()
    yield guard
    guard.close()


@pytest.fixture(scope="session")
def shared_cluster(ports: Ports, guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), ports, guard)
    yield cluster
    cluster.end()


@pytest.fixture
def cluster(shared_cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """Three nodes, all running and ready. Use names of your own: they aren't emptied."""
    request.node.stash.setdefault(_CLUSTERS, []).append(shared_cluster)
    shared_cluster.heal()
    return shared_cluster


@pytest.fixture
def make_cluster(
    ports: Ports, guard: Guard, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeCluster]:
    """Make a cluster for this test alone: ``make_cluster(size=3, settings={…})``, not yet started."""
    made = request.node.stash.setdefault(_CLUSTERS, [])
    mine: list[Cluster] = []

    def make(size: int = 3, settings: dict[str, Any] | None = None, **more: Any) -> Cluster:
        folder = tmp_path / f"cluster{len(mine) + 1}"
        folder.mkdir()
        cluster = Cluster(folder, ports, guard, size=size, settings=settings, **more)
        mine.append(cluster)
        made.append(cluster)
        return cluster

    yield make
    for cluster in mine:
        cluster.end()


@pytest.fixture
def single(make_cluster: MakeCluster) -> Cluster:
    """One node, ready."""
    cluster = make_cluster(size=1)
    cluster.start()
    cluster.wait_ready()
    return cluster


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the clients nobody here wrote."""
    kind: str = request.param
    if command(kind) is None:
        text = f"the {kind} client is not installed: make clients"
        if os.environ.get("STANCHION_REQUIRE_CLIENTS"):
            pytest.fail(text)
        pytest.skip(text)
    return kind


@pytest.fixture
def program(guard: Guard, tmp_path: Path) -> Iterator[MakeProgram]:
    """Start a client's program: ``program(kind)``."""
    started: list[Program] = []

    def start(kind: str) -> Program:
        started.append(Program(kind, tmp_path / f"client{len(started) + 1}.log", guard))
        return started[-1]

    yield start
    for one in started:
        one.end()


_unique = itertools.count(1)


@pytest.fixture
def unique() -> str:
    """Part of a name that no other test uses."""
    return f"t{next(_unique)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the end of the nodes' logs with a failure, and behind them once more the end of its text."""
    report: pytest.TestReport = yield  # type: ignore[assignment, misc]
    if report.failed:
        for cluster in item.stash.get(_CLUSTERS, []):
            for name in cluster.children:
                report.sections.append((f"log of {name}", cluster.tail(name)))
        for log in sorted(item.funcargs.get("tmp_path", Path("/nonexistent")).glob("*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-4000:]))
        if report.sections:  # what remains of a log that was cut off is its end
            again = "\n".join(report.longreprtext.splitlines()[-REASON_LINES:])
            report.sections.append((f"why {item.name} failed", again))
    return report  # type: ignore[return-value]
