"""Agreement of nodes beside the log: the machine version (R24), equal states (R30), a wrong clock (R13)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from node.core import state_digest
from node.core.machine import Machine
from node.core.versions import UnsupportedVersionError
from node.errors import CorruptionError
from node.simulator.cluster import Cluster
from node.simulator.cluster_checks import ClusterChecker
from node.simulator.cluster_run import Case, Run
from node.simulator.profiles import PROFILES
from node.simulator.sim_node import SimNode

SEED = 3


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def started() -> Cluster:
    """Start three nodes and their clients, without faults."""
    run = Run(Case(SEED, PROFILES["quiet"], nodes=3))
    run.cluster.start()
    return run.cluster


def until(cluster: Cluster, condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Let time pass until a condition holds."""
    passed_s = 0.0
    while not condition():
        assert passed_s < within_s
        cluster.world.run(0.1)
        passed_s += 0.1


def leader(cluster: Cluster) -> SimNode | None:
    return next((node for node in cluster.nodes if node.ready), None)


def crash(cluster: Cluster, number: int) -> None:
    """Kill a node, and extend the time in which the checkers accept late events."""
    cluster.adversary._extend_faults(60.0, nodes=True)
    cluster.nodes[number].crash()


def versions(cluster: Cluster) -> set[int]:
    return {node.state.version for node in cluster.nodes if node.up}


def test_the_version_is_raised_when_the_last_node_supports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """R24: in a rolling upgrade nothing changes while any node, leader or not, runs the older release."""
    monkeypatch.setattr(Machine, "version", 1)
    cluster = started()
    until(cluster, lambda: leader(cluster) is not None)
    for node in cluster.nodes:
        node.replica.machine.version = 1  # a process keeps the version that it was started with
    monkeypatch.setattr(Machine, "version", 2)
    for number, node in enumerate(cluster.nodes[:2]):
        crash(cluster, number)
        cluster.world.run(2.0)
        node.start()
        cluster.world.run(3.0)
        assert versions(cluster) == {1}, "one node still runs the older release"
    crash(cluster, 2)
    cluster.world.run(3.0)
    assert versions(cluster) == {1}, "the crashed node has not announced the new version"
    cluster.nodes[2].start()
    until(cluster, lambda: versions(cluster) == {2})


def test_a_new_cluster_starts_with_the_version_that_all_nodes_support() -> None:
    """R24: the first entry raises the version unless a member is missing or runs an older release."""
    cluster = started()
    until(cluster, lambda: any(node.state.cluster_uuid for node in cluster.nodes))
    assert {node.state.version for node in cluster.nodes if node.state.cluster_uuid} == {2}
    mixed = started()
    mixed.nodes[2].replica.machine.version = 1
    until(mixed, lambda: leader(mixed) is not None)
    mixed.world.run(5.0)
    assert versions(mixed) == {1}


def test_a_downgraded_node_stops_before_it_applies_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """R24: the older release doesn't touch a newer state, in its store or in its log."""
    cluster = started()
    until(cluster, lambda: versions(cluster) == {2})
    crash(cluster, 0)
    cluster.world.run(3.0)
    monkeypatch.setattr(Machine, "version", 1)
    monkeypatch.setattr("node.core.versions.MACHINE_VERSION", 1)
    with pytest.raises(UnsupportedVersionError, match="needs machine version 2"):  # noqa: PT012
        cluster.nodes[0].start()
        cluster.world.run(1.0)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_node_whose_state_differs_stops(monkeypatch: pytest.MonkeyPatch, victim: int) -> None:
    """R30: the diverged node, leader or not, stops within two milestones, and no other node stops."""
    monkeypatch.setattr(state_digest, "MILESTONE", 32)
    monkeypatch.setattr(state_digest, "LOOKED_AT_WITHIN", 8)
    monkeypatch.setattr(ClusterChecker, "_same_state", lambda self, node, index, state: None)
    cluster = started()
    until(cluster, lambda: all(node.replica.divergence.agreed for node in cluster.nodes))
    node = cluster.nodes[victim]
    for channel in node.state.channels.values():
        block = channel.log.block(0)
        assert block is not None
        block.sizes[0] ^= 1
    with pytest.raises(CorruptionError, match=f"cluster replace {node.name} NEW"):
        cluster.world.run(10.0)


def test_expiry_is_paused_while_the_leaders_clock_is_wrong() -> None:
    """R13: on every node, and no longer."""
    cluster = started()
    until(cluster, lambda: leader(cluster) is not None)
    node = leader(cluster)
    assert node is not None
    node.clock.jump(3600)
    until(cluster, lambda: all(each.state.expiry_paused for each in cluster.nodes))
    node.clock.jump(-3600)
    until(cluster, lambda: not any(each.state.expiry_paused for each in cluster.nodes))
