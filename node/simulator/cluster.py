"""A cluster of whole nodes with clients and an adversary, in a simulated world."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from dataclasses import replace

from node.simulator.cluster_adversary import ClusterAdversary
from node.simulator.cluster_checks import ClusterChecker
from node.simulator.expected_membership import CLUSTER_ID
from node.simulator.network import Network
from node.simulator.profiles import Profile
from node.simulator.recovery import Recovery
from node.simulator.schedule import Act
from node.simulator.sim_client import Habits, SimClient
from node.simulator.sim_hostile import HostileClient
from node.simulator.sim_node import SimNode
from node.simulator.sim_operator import Operator
from node.simulator.world import World

HABITS = (
    Habits(publishes_every_s=0.06, subscribes=False),
    Habits(publishes_every_s=0.1, durable="d"),
    Habits(max_in_flight=4),
    Habits(durable="slow", max_in_flight=64, acks=0.5),
    Habits(queue="q", acks=0.7),
    Habits(queue="q"),
    Habits(queue="q", durable="dq"),
    Habits(queue="q", durable="dq", acks=0.8),
)
"""The behaviour of each client. Its AckWait and the channel it reads are drawn."""

CHANNELS = ("foo", "bar", "orders.eu", "orders.us")
CHANNELS_MAX = (1, 1, 2, 3, 4)
"""The number of channels is drawn from these."""

BUSY_EVERY_S = (1.0, 2.5)
BUSY_S = (0.02, 0.15)
LATE_S = (0.2, 0.24)
"""Interval and duration of long steps that keep a process busy. ``LATE_S`` delays a leader's heartbeats."""

ACK_WAIT_S = (1, 1, 2, 3, 5)


class Cluster:
    """Nodes, clients, networks and the adversary of one run.

    Args:
        world: the simulated world.
        profile: which faults happen, and how often.
        nodes: number of initial voters.
        acts: the scheduled faults.
        clients: numbers of the clients that take part; None: all.
        scaled: steps take time, and clients send in bursts; for a run with `scaled_bounds`.
    """

    def __init__(
        self,
        world: World,
        profile: Profile,
        nodes: int,
        acts: Sequence[Act] = (),
        clients: Container[int] | None = None,
        *,
        scaled: bool = False,
    ) -> None:
        self.world = world
        self.scaled = scaled
        self._healed = False
        self.profile = profile
        self.cluster_id = CLUSTER_ID
        """The cluster ID that clients send."""
        self.names = [f"n{number}" for number in range(1, nodes + profile.spares + 1)]
        self.checker = ClusterChecker(self)
        initial_voters = self.names[:nodes] if profile.spares else None
        self.nodes = [SimNode(self, name, initial_voters) for name in self.names]
        self.networks = {
            kind: Network(
                world,
                [node.port(kind) for node in self.nodes],
                rng=world.stream(f"{kind} links"),
                name=f"{kind} link",
                admit=lambda a, b, kind=kind: self._admit(kind, a, b),  # type: ignore[misc]
            )
            for kind in ("raft", "route", "snapshot")
        }
        habits = _habits(world)
        self.clients = [
            SimClient(self, f"c{number}", habits[number])
            for number in range(len(habits))
            if clients is None or number in clients
        ]
        self.hostile = HostileClient(self)
        self._clients = {client.name: client for client in self.clients}
        self.operator = Operator(self)
        self.recovery = Recovery(self)
        self.adversary = ClusterAdversary(self, acts)

    def node(self, name: str) -> SimNode:
        return self.nodes[self.names.index(name)]

    def client(self, name: str) -> SimClient | None:
        """Return the client with this name; None if it belongs to the hostile client."""
        return self._clients.get(name)

    @property
    def usable_nodes(self) -> list[SimNode]:
        """The nodes that belong to the cluster and have not lost their data."""
        return [node for node in self.nodes if not node.broken and not node.outside]

    def _admit(self, kind: str, a: str, b: str) -> bool:
        """Return True if a link may come up: one side wants it, and each accepts the other's hello."""
        one, other = self.node(a).expected_membership, self.node(b).expected_membership
        if one is None or other is None:
            return True
        if not (one.wants(b) or other.wants(a)) or self.node(a).paused or self.node(b).paused:
            return False
        taken = [one.takes(other, kind), other.takes(one, kind)]
        return all(taken) and self.node(a).up and self.node(b).up

    @property
    def network_is_fine(self) -> bool:
        return all(network.is_fine for network in self.networks.values())

    def had_faults_since(self, at_s: float) -> bool:
        """Return True if a fault had effects at ``at_s`` or later, so that any event may be late."""
        return self.adversary.faults_until_s >= at_s

    def start(self) -> None:
        for node in self.nodes:
            if not node.outside:
                node.start()
        rng = self.world.stream("start")
        for client in self.clients:
            self.world.after(rng.uniform(1.0, 2.0), client.connect)
        if self.scaled:
            self._keep_busy(self.world.stream("busy"))
            self.hostile.start()

    def _keep_busy(self, rng: random.Random) -> None:
        """Keep a process busy now and then, for less time than would cost a leader its leadership."""
        self.world.after(rng.uniform(*BUSY_EVERY_S), lambda: self._keep_busy(rng))
        leader = next((node for node in self.nodes if node.ready), None)
        if not self._healed and leader is not None:
            late = rng.random() < 0.6
            (leader if late else rng.choice(self.nodes)).busy(rng.uniform(*(LATE_S if late else BUSY_S)))

    def continue_as(self, cluster_id: str, checker: ClusterChecker) -> None:
        """Continue as another cluster with an empty history."""
        self.cluster_id, self.checker = cluster_id, checker
        for node in self.nodes:
            node.checker = checker

    def close(self) -> None:
        """Close the files when the run is over."""
        for node in self.nodes:
            node.storage.machine_store.close()

    def heal(self) -> None:
        """End all faults and restart the nodes. Clients stop publishing and acknowledge everything."""
        self.adversary.stop()
        self._healed = True
        self.hostile.stop()
        self.world.record("heal")
        for network in self.networks.values():
            network.calm()
        for node in self.nodes:
            node.storage.mend()
            node.resume()
            if not node.outside:
                node.start()
        for client in self.clients:
            client.read_on()
            client.quiet = True


def _habits(world: World) -> list[Habits]:
    """Draw the behaviour of each client. Members of a queue group read one channel; publishers use all."""
    waits, reads = world.stream("habits"), world.stream("channels")
    channels = CHANNELS[: reads.choice(CHANNELS_MAX)]
    shared: dict[tuple[str, str], str] = {}
    found: list[Habits] = []
    for habits in HABITS:
        channel = reads.choice(channels)
        if habits.queue:
            channel = shared.setdefault((habits.queue, habits.durable), channel)
        wait_s = waits.choice(ACK_WAIT_S)
        found.append(replace(habits, ack_wait_s=wait_s, channel=channel, publishes_to=channels))
    return found
