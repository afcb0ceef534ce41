"""Real nodes are killed, stopped, cut off and left without disk space, and clients see what they may see.

Faults overlap, as `nemesis/schedule.py` draws them. 45 seconds each on three and on five nodes;
STANCHION_NEMESIS_SECONDS for longer, STANCHION_NEMESIS_SEED for the same faults again. Three nodes live in
network namespaces and on a tmpfs where we may make them, five always behind proxies and with a limit on their
files, so that both are tried; STANCHION_NEMESIS_BY, kernel or proxies, for one of them. The rules are in
`nemesis/history.py`.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import trio
from e2e.external_cluster import ExternalCluster, needs_nats_server
from e2e.harness import Cluster
from e2e.nemesis.run import cluster_in_trouble, torment
from e2e.ports import Guard, Ports

SECONDS = float(os.environ.get("STANCHION_NEMESIS_SECONDS", "45"))
SOAK_SECONDS = float(os.environ.get("STANCHION_NEMESIS_SOAK", "0"))
BY = os.environ.get("STANCHION_NEMESIS_BY", "")
SEED = int(os.environ.get("STANCHION_NEMESIS_SEED", random.randrange(1_000_000)))

SHORTEST_S = 15.0

pytestmark = pytest.mark.slow  # not alone: what it measures has bounds far above what load does to it


def _torment(
    folder: Path,
    ports: Ports,
    guard: Guard,
    size: int,
    *,
    privileged: bool,
    seed: int = SEED,
    seconds: float = SECONDS,
    cluster: type[Cluster] = Cluster,
) -> None:
    by_kernel = BY == "kernel" if BY else privileged
    made = cluster_in_trouble(folder, ports, guard, size, privileged=by_kernel, cluster=cluster)
    with made as (network, disks):
        # Not by pytest's trio plugin: it would wrap the failure into groups of exceptions.
        run = trio.run(torment, network, disks, seed, seconds)
    if run.violations:
        pytest.fail(run.told(), pytrace=False)
    print(run.summary, flush=True)  # noqa: T201 - shown with -rP, and while it soaks


def test_nemesis_on_3_nodes(tmp_path: Path, ports: Ports, guard: Guard) -> None:
    _torment(tmp_path, ports, guard, 3, privileged=True)


def test_nemesis_on_5_nodes(tmp_path: Path, ports: Ports, guard: Guard) -> None:
    _torment(tmp_path, ports, guard, 5, privileged=False)


def test_nemesis_behind_a_nats_cluster(tmp_path: Path, ports: Ports, guard: Guard) -> None:
    """``-ns`` with ``--clustered``: clients are connected to NATS servers, which nothing happens to."""
    needs_nats_server()
    _torment(tmp_path, ports, guard, 3, privileged=True, seconds=SECONDS / 2, cluster=ExternalCluster)


def test_soak(tmp_path: Path, ports: Ports, guard: Guard) -> None:
    """STANCHION_NEMESIS_SOAK seconds of it: three nodes and five in turn, each time with another seed."""
    if not SOAK_SECONDS:
        pytest.skip("takes as long as STANCHION_NEMESIS_SOAK says")
    end_s = time.monotonic() + SOAK_SECONDS
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        size = (3, 5)[number % 2]
        seconds = min(SECONDS, max(SHORTEST_S, end_s - time.monotonic()))
        kernel = number % 4 < 2
        _torment(folder, ports, guard, size, privileged=kernel, seed=SEED + number, seconds=seconds)
        shutil.rmtree(folder)
        if time.monotonic() > end_s:
            return
