"""Who breaks a simulated cluster: nodes, links, disks, clocks and clients, at random times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from node.simulator.network import Network

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.sim_client import SimClient
    from node.simulator.sim_node import SimNode

AFTERMATH_S = 6.0
"""How long a fault's consequences may last: a restart, an election, graces, clients that come back."""

DEAD_MAX = 2
"""So many clients may die, and of each queue group one must be left."""


class ClusterAdversary:
    """Breaks something, waits a random time, breaks the next thing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._profile = cluster.profile
        self._active = False
        self._until_s = float("-inf")
        self._nodes_until_s = float("-inf")

    @property
    def troubled_until_s(self) -> float:
        """When the consequences of all faults so far are over; the world begins with one."""
        return max(self._until_s, self._world.started_s + AFTERMATH_S)

    @property
    def nodes_troubled_until_s(self) -> float:
        """The same of nodes and links alone."""
        return max(self._nodes_until_s, self._world.started_s + AFTERMATH_S)

    def start(self) -> None:
        self._active = True
        self._schedule()

    def stop(self) -> None:
        self._active = False
        self._trouble(AFTERMATH_S)

    def _trouble(self, seconds: float = 0.0) -> None:
        self._until_s = max(self._until_s, self._world.now + AFTERMATH_S + seconds)
        if self._profile.nodes or self._profile.partitions:
            self._nodes_until_s = self._until_s

    def _schedule(self) -> None:
        if self._profile.every_s:
            self._world.after(self._world.rng.expovariate(1 / self._profile.every_s), self._strike)

    def _strike(self) -> None:
        if not self._active:
            return
        self._trouble()
        strikes: list[Callable[[], None]] = []
        profile = self._profile
        if profile.nodes:
            strikes += [self._crash, self._crash, self._crash_many, self._pause, self._leave, self._hand_over]
        if profile.partitions and len(self._cluster.nodes) > 1:
            strikes += [self._cut, self._cut, self._partition, self._partition]
        if profile.clients:
            strikes += [self._drop_client, self._slow_client, self._close_client, self._end_subscription]
            strikes += [self._kill_client] if self._world.chance(0.3) else []
        if profile.clocks:
            strikes.append(self._set_clock)
        if profile.disks:
            strikes.append(self._slow_disks)
        self._world.rng.choice(strikes)()
        self._schedule()

    # --- nodes --------------------------------------------------------------------------------------

    def _victim(self) -> SimNode:
        leaders = [node for node in self._cluster.nodes if node.leads]
        if leaders and self._world.chance(0.6):
            return self._world.rng.choice(leaders)
        return self._world.rng.choice(self._cluster.nodes)

    def _crash(self) -> None:
        self._kill(self._victim(), 3.0)

    def _crash_many(self) -> None:
        """A majority, or all."""
        nodes = list(self._cluster.nodes)
        self._world.rng.shuffle(nodes)
        count = self._world.rng.choice((len(nodes) // 2 + 1, len(nodes)))
        for node in nodes[:count]:
            self._kill(node, 1.0)

    def _kill(self, node: SimNode, down_s: float) -> None:
        node.crash(power=self._profile.power and self._world.chance(0.6))
        self._start_later(node, down_s)

    def _start_later(self, node: SimNode, down_s: float) -> None:
        self._world.after(self._world.rng.uniform(0.05, down_s), node.start)

    def _leave(self) -> None:
        node = self._victim()
        node.leave()
        self._world.after(self._world.rng.uniform(1.2, 3.0), node.start)

    def _pause(self) -> None:
        self._victim().pause(self._world.rng.uniform(0.1, 3.0))

    def _hand_over(self) -> None:
        for node in self._cluster.nodes:
            if node.leads and not node.paused and not node.leaving and node.engine.transfer_leadership():
                self._world.counts["hand-overs"] += 1

    # --- links, disks, clocks -----------------------------------------------------------------------

    def _network(self) -> list[Network]:
        networks = list(self._cluster.networks.values())
        return networks if self._world.chance(0.6) else [self._world.rng.choice(networks)]

    def _cut(self) -> None:
        a, b = self._world.rng.sample(self._cluster.names, 2)
        for network in self._network():
            network.cut(a, b)

    def _partition(self) -> None:
        names = list(self._cluster.names)
        self._world.rng.shuffle(names)
        size = self._world.rng.randint(1, len(names) - 1)
        pairs = [(a, b) for a in names[:size] for b in names[size:]]
        if self._world.chance(0.5):
            pairs += [(b, a) for a, b in pairs]
        seconds = self._world.rng.uniform(0.1, 3.0)
        self._world.counts["partitions"] += 1
        self._trouble(seconds)
        for network in self._network():
            network.block(pairs, seconds)

    def _slow_disks(self) -> None:
        self._cluster.disk_slowness = self._world.rng.choice((5.0, 20.0))
        self._world.after(self._world.rng.uniform(0.2, 2.0), self._heal_disks)

    def _heal_disks(self) -> None:
        self._cluster.disk_slowness = 1.0

    def _set_clock(self) -> None:
        seconds = self._world.rng.choice((-3600.0, -5.0, 5.0, 30.0, 3600.0))
        node = self._world.rng.choice(self._cluster.nodes)
        self._world.note(f"the wall clock of {node.name} is set by {seconds:+.0f} s")
        node.clock.jump(seconds)

    # --- clients ------------------------------------------------------------------------------------

    def _client(self) -> SimClient:
        return self._world.rng.choice([client for client in self._cluster.clients if not client.dead])

    def _unnoticed_s(self) -> float:
        return self._world.rng.uniform(0.5, 6.0) if self._world.chance(0.3) else 0.0

    def _drop_client(self) -> None:
        unnoticed_s = self._unnoticed_s()
        self._trouble(unnoticed_s)
        self._client().drop(unnoticed_s=unnoticed_s)

    def _slow_client(self) -> None:
        seconds = self._world.rng.choice((0.5, 2.0, 7.0))
        self._trouble(seconds)
        self._client().stop_reading(seconds)

    def _close_client(self) -> None:
        self._client().close()

    def _end_subscription(self) -> None:
        self._client().end_subscription(for_good=self._world.chance(0.3))

    def _kill_client(self) -> None:
        living = [client for client in self._cluster.clients if not client.dead]
        client = self._client()
        habits = client.habits
        alike = [(other.habits.queue, other.habits.durable) for other in living]
        last = habits.queue and alike.count((habits.queue, habits.durable)) == 1
        if not last and len(self._cluster.clients) - len(living) < DEAD_MAX:
            unnoticed_s = self._unnoticed_s()
            self._trouble(unnoticed_s)
            client.die(unnoticed_s=unnoticed_s)
