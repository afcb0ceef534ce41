"""A cluster of whole nodes with its clients and an adversary, in a simulated world."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from node.simulator.cluster_adversary import ClusterAdversary
from node.simulator.cluster_checks import LEADER_WITHIN_S, ClusterChecker
from node.simulator.network import Network
from node.simulator.sim_client import Habits, SimClient
from node.simulator.sim_node import SimNode
from node.simulator.world import World

WARM_UP_S = 3.0
HEALED_MAX_S = 40.0
"""So long after everything has healed, all must be delivered and acknowledged."""

HABITS = (
    Habits(publishes_every_s=0.06, subscribes=False),
    Habits(publishes_every_s=0.1, durable="d", ack_wait_s=1),
    Habits(ack_wait_s=2, max_in_flight=4),
    Habits(durable="slow", ack_wait_s=5, max_in_flight=64, acks=0.5),
    Habits(queue="q", ack_wait_s=2, acks=0.7),
    Habits(queue="q", ack_wait_s=1),
    Habits(queue="q", durable="dq", ack_wait_s=3),
    Habits(queue="q", durable="dq", ack_wait_s=1, acks=0.8),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How much breaks."""

    every_s: float = 1.0
    """Mean time between two faults; 0: none."""
    nodes: bool = True
    """Nodes crash, pause, leave and hand leadership over."""
    power: bool = False
    """Crashes take what wasn't synced; sometimes everybody's power fails at once."""
    partitions: bool = False
    """Links break, and directions are blocked."""
    clients: bool = False
    """Clients lose connections, stop reading, close, unsubscribe and die."""
    clocks: bool = False
    """Wall clocks are set."""
    disks: bool = False
    """Disks are slow for a while."""
    trouble_s: float = 12.0


PROFILES = {
    "quiet": Profile(every_s=0.0, trouble_s=6.0),
    "kills": Profile(clients=True),
    "partitions": Profile(every_s=0.7, partitions=True),
    "clients": Profile(every_s=0.3, nodes=False, clients=True),
    "brutal": Profile(every_s=0.5, power=True, partitions=True, clients=True, clocks=True, disks=True),
}
"""By name. ``clients`` leaves the nodes alone."""


class Cluster:
    """Nodes, clients, networks, adversary."""

    def __init__(self, world: World, profile: Profile, nodes: int) -> None:
        self.world = world
        self.profile = profile
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.checker = ClusterChecker(self)
        self.disk_slowness = 1.0
        self.nodes = [SimNode(self, name) for name in self.names]
        self.networks = {
            kind: Network(world, [node.port(kind) for node in self.nodes]) for kind in ("raft", "route")
        }
        self.clients = [SimClient(self, f"c{number}", habits) for number, habits in enumerate(HABITS)]
        self.adversary = ClusterAdversary(self)

    def node(self, name: str) -> SimNode:
        return self.nodes[self.names.index(name)]

    def client(self, name: str) -> SimClient:
        return self.clients[int(name[1:])]

    @property
    def network_is_fine(self) -> bool:
        return all(network.is_fine for network in self.networks.values())

    def troubled_since(self, at_s: float) -> bool:
        """Whether anything was broken at ``at_s`` or later: then whatever happens may happen late."""
        return self.adversary.troubled_until_s >= at_s

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for client in self.clients:
            self.world.after(self.world.rng.uniform(1.0, 2.0), client.connect)

    def heal(self) -> None:
        """Nothing fails any more, and what did comes back; nobody publishes, everybody acknowledges."""
        self.adversary.stop()
        self.world.note("heal")
        self.disk_slowness = 1.0
        for network in self.networks.values():
            network.calm()
        for node in self.nodes:
            node.resume()
            node.start()
        for client in self.clients:
            client.read_on()
            client.quiet = True


def run_cluster(
    seed: int, profile: Profile, *, nodes: int | None = None, trace: list[str] | None = None
) -> Counter[str]:
    """Run one seed.

    Args:
        seed: decides everything.
        profile: how much breaks.
        nodes: how many there are; None: 1, 3 or 5, by the seed.
        trace: is filled with what happened, line by line, also if a promise is broken.

    Returns:
        What happened how often.

    Raises:
        ViolationError: a promise is broken.
    """
    world = World(seed, trace=trace is not None)
    if trace is not None:
        world.trace = trace
    drawn = world.rng.choice((1, 3, 3, 3, 5))
    cluster = Cluster(world, profile, nodes or drawn)
    checker = cluster.checker
    began_s = world.now
    cluster.start()
    world.after(WARM_UP_S, cluster.adversary.start)
    world.run(WARM_UP_S + profile.trouble_s)
    cluster.heal()
    world.run(LEADER_WITHIN_S)
    checker.expect_leader()
    healed_s = LEADER_WITHIN_S
    while not checker.converged and healed_s < HEALED_MAX_S:
        world.run(0.5)
        healed_s += 0.5
    checker.finish()
    counts = world.counts
    counts["virtual milliseconds"] = round((world.now - began_s) * 1000)
    counts["entries"] = checker.account.applied
    counts["cold starts"] = checker.account.cold_starts
    counts["published"] = sum(len(client.published) for client in cluster.clients)
    counts["stored"] = sum(len(client.stored) for client in cluster.clients)
    counts["delivered"] = sum(client.deliveries for client in cluster.clients)
    return counts


def longer(profile: Profile, trouble_s: float) -> Profile:
    """The same, for so long."""
    return replace(profile, trouble_s=trouble_s)
