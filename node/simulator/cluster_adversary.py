"""Fault injection for a simulated cluster: nodes, links, disks, clocks and clients, as the schedule says.

An act names the kind of fault. The act's own random generator chooses the victim when the act is due. The
leader is chosen more often than not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from node.simulator.network import Network
from node.simulator.schedule import CLIENTS, CLOCKS, Act

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.sim_client import SimClient
    from node.simulator.sim_node import SimNode

AFTERMATH_S = 6.0
"""How long the effects of a fault may last: restart, election, grace periods, reconnecting clients."""

DEAD_MAX = 2
"""At most this many clients may die; at least one member of each queue group stays alive."""


class ClusterAdversary:
    """Executes the schedule, and knows until when the effects of its faults may last."""

    def __init__(self, cluster: Cluster, acts: Sequence[Act]) -> None:
        self.executed_acts: list[int] = []
        """Numbers of the acts executed so far."""
        self._cluster = cluster
        self._world = cluster.world
        self._acts = acts
        self._active = False
        self._until_s = float("-inf")
        self._nodes_until_s = float("-inf")
        self._ambush: tuple[float, random.Random] | None = None
        """The progress of a snapshot (0 to 1) at which a fault hits it, and the generator of the fault."""
        self._rng = random.Random()  # noqa: S311  # replaced by that of each act
        self._actions: dict[str, Callable[[], None]] = {
            "add": lambda: self._cluster.operator.add(self._rng),
            "remove": lambda: self._cluster.operator.remove(self._victim().name),
            "replace": lambda: self._cluster.operator.add(self._rng, instead_of=self._victim().name),
            "crash": lambda: self._kill(self._victim(), 3.0),
            "power": lambda: self._kill(self._victim(), 3.0, power=True),
            "majority": lambda: self._crash_many(len(self._cluster.usable_nodes) // 2 + 1),
            "all": lambda: self._crash_many(len(self._cluster.usable_nodes)),
            "blackout": self._blackout,
            "pause": lambda: self._victim().pause(self._rng.uniform(0.1, 3.0)),
            "leave": self._leave,
            "hand over": self._hand_over,
            "cut": self._cut,
            "partition": self._partition,
            "isolate": self._isolate,
            "storm": self._storm,
            "slow disk": lambda: self._slow_disks([self._victim()]),
            "slow disks": lambda: self._slow_disks(self._cluster.usable_nodes),
            "sync error": self._fail_sync,
            "write error": self._fail_write,
            "full disk": self._fill_disk,
            "rot": lambda: self._rot(lambda node: node.storage.rot_journal(self._rng)),
            "rotten store": lambda: self._rot(lambda node: node.storage.rot_store(self._rng)),
            "mid snapshot": self._ambush_snapshot,
            "lost for good": self._lose_majority,
            "set clock": self._set_clock,
            "drop": self._drop_client,
            "stall": self._stall_client,
            "close": lambda: self._client().close(),
            "unsubscribe": lambda: self._client().end_subscription(for_good=self._rng.random() < 0.3),
            "die": self._kill_client,
        }

    @property
    def faults_until_s(self) -> float:
        """When the effects of all faults so far are over. The start of the world counts as a fault."""
        return max(self._until_s, self._world.started_s + AFTERMATH_S)

    @property
    def node_faults_until_s(self) -> float:
        """When the effects of the faults of nodes, links and disks so far are over."""
        return max(self._nodes_until_s, self._world.started_s + AFTERMATH_S)

    def start(self) -> None:
        """Start executing the schedule, after the warm-up."""
        self._active = True
        for act in self._acts:
            self._world.after(act.at_s, lambda act=act: self._execute(act))  # type: ignore[misc]

    def stop(self) -> None:
        self._active = False
        if self._acts:
            self._extend_faults(AFTERMATH_S, nodes=True)

    def _extend_faults(self, seconds: float = 0.0, *, nodes: bool = False) -> None:
        self._until_s = max(self._until_s, self._world.now + AFTERMATH_S + seconds)
        if nodes:
            self._nodes_until_s = self._until_s

    def _execute(self, act: Act) -> None:
        if not self._active:
            return
        self.executed_acts.append(act.number)
        self._world.counts[act.kind] += 1
        self._world.record(f"--- act {act.number}: {act.kind}")
        self._rng = act.rng(self._world.seed)
        self._extend_faults(nodes=act.kind not in CLIENTS and act.kind not in CLOCKS)
        self._actions[act.kind]()

    # --- nodes --------------------------------------------------------------------------------------

    def _victim(self) -> SimNode:
        leaders = [node for node in self._cluster.usable_nodes if node.leads]
        if leaders and self._rng.random() < 0.6:
            return self._rng.choice(leaders)
        return self._rng.choice(self._cluster.usable_nodes)

    def _crash_many(self, count: int) -> None:
        power = self._rng.random() < 0.5 and self._cluster.profile.power
        for node in self._shuffled()[:count]:
            self._kill(node, 1.0, power=power)

    def _kill(self, node: SimNode, down_s: float, *, power: bool = False) -> None:
        node.crash(power=power)
        self._world.after(self._rng.uniform(0.05, down_s), node.start)

    def _blackout(self) -> None:
        """Slow all disks down, then cut all power while writes are under way.

        Catches a node that sends a promise before its disk has synced it.
        """
        nodes = self._cluster.usable_nodes
        restarts = [self._rng.uniform(0.05, 0.6) for _ in nodes]
        for node in nodes:
            node.storage.slowness = 50.0

        def fail() -> None:
            for node, down_s in zip(nodes, restarts, strict=True):
                node.crash(power=True)
                node.storage.quicken()
                self._world.after(down_s, node.start)

        self._world.after(self._rng.uniform(0.02, 0.5), fail)

    def _leave(self) -> None:
        node = self._victim()
        node.leave()
        self._world.after(self._rng.uniform(1.2, 3.0), node.start)

    def _hand_over(self) -> None:
        for node in self._cluster.usable_nodes:
            if node.leads and not node.paused and not node.shutdown and node.engine.transfer_leadership():
                self._world.counts["hand-overs"] += 1

    def _shuffled(self) -> list[SimNode]:
        return self._rng.sample(self._cluster.usable_nodes, len(self._cluster.usable_nodes))

    # --- links --------------------------------------------------------------------------------------

    def _networks(self) -> list[Network]:
        networks = list(self._cluster.networks.values())
        return networks if self._rng.random() < 0.6 else [self._rng.choice(networks)]

    def _cut(self) -> None:
        a, b = self._rng.sample(self._cluster.names, 2)
        for network in self._networks():
            network.cut(a, b)

    def _partition(self) -> None:
        """Block two groups of nodes from each other, in one direction or both."""
        names = [node.name for node in self._shuffled()]
        if len(names) < 2:
            return
        size = self._rng.randint(1, len(names) - 1)
        self._block([(a, b) for a in names[:size] for b in names[size:]])

    def _isolate(self) -> None:
        """Block a single node, usually the leader, from all others, in one direction or both."""
        name = self._victim().name
        pairs = [(name, other) for other in self._cluster.names if other != name]
        self._block(pairs if self._rng.random() < 0.5 else [(b, a) for a, b in pairs])

    def _block(self, pairs: list[tuple[str, str]]) -> None:
        if self._rng.random() < 0.5:
            pairs += [(b, a) for a, b in pairs]
        seconds = self._rng.uniform(0.1, 3.0)
        self._extend_faults(seconds, nodes=True)
        for network in self._networks():
            network.block(pairs, seconds)

    def _storm(self) -> None:
        seconds = self._rng.uniform(0.2, 2.0)
        self._extend_faults(seconds, nodes=True)
        self._cluster.networks["raft"].storm(self._cluster.profile.weather, seconds)

    # --- disks and clocks ---------------------------------------------------------------------------

    def _slow_disks(self, nodes: Sequence[SimNode]) -> None:
        slowness, seconds = self._rng.choice((5.0, 20.0)), self._rng.uniform(0.2, 2.0)
        self._extend_faults(seconds, nodes=True)
        for node in nodes:
            node.storage.slowness = slowness
            self._world.after(seconds, node.storage.quicken)

    def _fail_sync(self) -> None:
        self._victim().storage.fail_sync()

    def _fail_write(self) -> None:
        self._victim().storage.fail_write()

    def _fill_disk(self) -> None:
        storage, seconds = self._victim().storage, self._rng.uniform(0.2, 3.0)
        self._extend_faults(seconds, nodes=True)
        storage.fill(self._rng.randrange(10_000))
        self._world.after(seconds, storage.empty)

    def _may_rot(self, node: SimNode) -> bool:
        nodes = self._cluster.usable_nodes
        rotten = sum(other.storage.rotten for other in nodes)
        return not node.storage.rotten and rotten < (len(nodes) - 1) // 2

    def _rot(self, how: Callable[[SimNode], bool]) -> None:
        """Damage stored bytes, on a minority of nodes at most: damaged data is lost for good on its node."""
        node = self._victim()
        if self._may_rot(node) and how(node):
            self._world.record(f"a bit flips on the disk of {node.name}")
            if self._rng.random() < 0.5:
                self._kill(node, 0.5)

    def _lose_majority(self) -> None:
        if self._cluster.recovery.begin(self._rng):
            self._extend_faults(8.0, nodes=True)

    def _ambush_snapshot(self) -> None:
        """Crash a follower so that it falls behind, and arm a fault for the snapshot that it then gets."""
        self._ambush = (min(1.0, 1.3 * self._rng.random()), self._rng)
        behind = [node for node in self._cluster.usable_nodes if not node.leads]
        if behind:
            node = self._rng.choice(behind)
            node.crash()
            self._world.after(self._rng.uniform(1.0, 2.5), node.start)

    def snapshot_at(self, node: SimNode, peer: str, progress: float) -> None:
        """Inject the armed fault if the snapshot from ``peer`` to ``node`` has progressed far enough."""
        if self._ambush is None or not self._active or progress < self._ambush[0]:
            return
        (_, rng), self._ambush = self._ambush, None
        sender, storage = self._cluster.node(peer), node.storage
        self._extend_faults(3.0, nodes=True)

        def cut() -> None:
            self._cluster.networks["snapshot"].cut(node.name, peer)

        def fill() -> None:
            storage.fill(rng.randrange(600))
            self._world.after(rng.uniform(0.2, 2.0), storage.empty)

        def rot() -> None:
            if node.up and node.snapshots.receives:  # a complete snapshot is not verified again
                storage.machine_store.rot_received(rng)
                cut()

        def die() -> None:
            power = rng.random() < 0.5 and self._cluster.profile.power
            self._rng = rng
            self._kill(rng.choice((node, node, sender)), 0.6, power=power)

        action = rng.choice((cut, fill, rot, die, die))
        self._world.counts[f"snapshots hit: {action.__name__}"] += 1
        self._world.record(f"a snapshot from {peer} to {node.name} is at {progress:.0%}: {action.__name__}")
        self._world.after(rng.uniform(0.0, 0.01 if progress < 1 else 0.04), action)

    def _set_clock(self) -> None:
        seconds = self._rng.choice((-3600.0, -5.0, 5.0, 30.0, 3600.0))
        node = self._rng.choice(self._cluster.usable_nodes)
        self._world.record(f"the wall clock of {node.name} is set by {seconds:+.0f} s")
        node.clock.jump(seconds)

    # --- clients ------------------------------------------------------------------------------------

    def _client(self) -> SimClient:
        return self._rng.choice([client for client in self._cluster.clients if not client.dead])

    def _unnoticed_s(self) -> float:
        return self._rng.uniform(0.5, 6.0) if self._rng.random() < 0.3 else 0.0

    def _drop_client(self) -> None:
        unnoticed_s = self._unnoticed_s()
        self._extend_faults(unnoticed_s)
        self._client().drop(unnoticed_s=unnoticed_s)

    def _stall_client(self) -> None:
        seconds = self._rng.choice((0.5, 2.0, 7.0))
        self._extend_faults(seconds)
        self._client().stop_reading(seconds)

    def _kill_client(self) -> None:
        living = [client for client in self._cluster.clients if not client.dead]
        client = self._client()
        habits = client.habits
        alike = [(other.habits.queue, other.habits.durable) for other in living]
        last = habits.queue and alike.count((habits.queue, habits.durable)) == 1
        if not last and len(self._cluster.clients) - len(living) < DEAD_MAX:
            unnoticed_s = self._unnoticed_s()
            self._extend_faults(unnoticed_s)
            client.die(unnoticed_s=unnoticed_s)
