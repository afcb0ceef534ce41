"""Loss of a majority, after which one directory becomes another cluster: `stanchion cluster recover`.

The steps of the command are done by the functions that the command uses, on the data of one surviving
machine: its identity becomes that of another cluster, and its log is claimed for it. All other machines are
gone. New ones with empty directories are added later, and clients are restarted with the new cluster's ID.

From then on the history of the world is the one in the log of that directory. So the checkers are replaced by
new ones with a reference model of exactly that history. What it acknowledged must stay; later acknowledged
messages may be lost; and no lost data may come back or be mixed with the new cluster's.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from node.core.machine import Machine
from node.core.records import restore
from node.raft.identity import recover_identity, save_identity
from node.raft.journal import Journal
from node.server.disk.continuity import contradiction, follow
from node.server.membership.bootstrap import pack_membership
from node.server.membership.node_identity import alone, claim_log
from node.simulator.cluster_checks import ClusterChecker
from node.simulator.disk import SimulatedDisk
from node.simulator.profiles import WARM_UP_S
from node.units import Index

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.sim_node import SimNode

CLUSTER_ID = "recovered-cluster"
TAKES_S = 0.5
"""It happens at least this long before the end of the faults, or not at all."""
SETTLED_S = 2.0
"""It happens at least this long after the warm-up: clients have connected and published by then."""


class Recovery:
    """Happens at most once in a run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._done = False

    def begin(self, rng: random.Random) -> bool:
        """Lose all machines but one. Returns False if that is not possible now."""
        since_s = self._world.now - self._world.started_s - WARM_UP_S
        left = [node for node in self._cluster.usable_nodes if node.up and not node.paused and _belongs(node)]
        if self._done or not left or not SETTLED_S <= since_s <= self._cluster.profile.faults_s - TAKES_S:
            return False
        self._done = True
        survivor = rng.choice(left)
        survivor.crash(power=rng.random() < 0.5)
        self._world.after(rng.uniform(0.0, 1.5), lambda: self._lose(survivor, rng))
        return True

    def _lose(self, survivor: SimNode, rng: random.Random) -> None:
        """Lose the other machines. What they acknowledged while the survivor was down is lost with them."""
        self._world.record(f"all machines but {survivor.name} are lost")
        for node in self._cluster.nodes:
            if node is not survivor:
                node.retire()
        self._world.after(rng.uniform(0.2, 1.0), lambda: self._recover(survivor, rng))

    def _recover(self, node: SimNode, rng: random.Random) -> None:
        node.crash()
        journal = node.storage.open_journal()
        journal.watcher = lambda *entry: None
        store, note = node.storage.machine_store.open(), node.storage.machine_store.note
        assert contradiction(journal, store, note) is None
        follow(journal, store, note)
        before = self._cluster.checker
        checker = _checker_for(before, self._cluster, node.name, journal)
        self._cluster.continue_as(CLUSTER_ID, checker)
        reference = checker.reference
        journal.watcher = lambda *entry: checker.appended(node, *entry)
        self._change_identity(node, journal, rng)
        self._world.record(f"{node.name} begins another cluster at entry {journal.last_index}")
        self._world.counts["recovered"] += 1
        self._world.counts["entries lost with the majority"] += before.reference.applied - reference.applied
        for client in self._cluster.clients:
            self._world.counts["acknowledged and lost with the majority"] += client.restart_for(reference)
        node.storage.stop(power=False)
        node.start()
        for after_s in (1.0, 2.5):
            self._world.after(after_s, lambda: self._cluster.operator.add(rng))

    @staticmethod
    def _change_identity(node: SimNode, journal: Journal, rng: random.Random) -> None:
        """Give the node a new identity, as `server.disk.recovering` does."""
        assert node.expected_membership is not None
        assert node.expected_membership.identity is not None
        disk = SimulatedDisk(rng)
        save_identity(disk, node.expected_membership.identity)
        directory = rng.randbytes(11).hex()
        members = pack_membership(journal.last_index + 1, alone(node.name, directory))
        node.expected_membership.identity = recover_identity(
            disk, CLUSTER_ID, rng.randbytes(11).hex(), directory, members
        )
        claim_log(journal, node.expected_membership.identity)


def _belongs(node: SimNode) -> bool:
    """Return True if the node has a cluster UUID: otherwise there is nothing to recover."""
    expected_membership = node.expected_membership
    return (
        expected_membership is not None
        and expected_membership.identity is not None
        and bool(expected_membership.identity.cluster_uuid)
    )


def _checker_for(before: ClusterChecker, cluster: Cluster, name: str, journal: Journal) -> ClusterChecker:
    """Return checkers whose history is the part of the previous one that this log contains."""
    checker = ClusterChecker(cluster)
    entries: dict[int, bytes] = {}
    for index, term, payload in journal.read(journal.first_readable, 1 << 30):
        entries[index] = payload[1:]
        checker.log.appended(name, index, term, payload, journal.term_at(index - 1))
    machine = Machine(restore(iter(())))
    for applied, data in sorted(before._entries.items()):
        if applied > journal.last_index or entries.get(applied, data) != data:
            break  # from here on, the log has other entries or none
        effects = machine.apply(Index(applied), data)
        checker.reference.entry(applied, data, effects, machine.state)
        checker._entries[applied], checker._effects[applied] = data, effects
        if applied in before._digests:
            checker._digests[applied] = before._digests[applied]
    checker._proposed = before._proposed
    checker._all_down_since_s = cluster.world.now
    return checker
