"""A cluster of whole nodes with its clients and an adversary, in a simulated world."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from node.simulator.cluster_checks import ClusterChecker
from node.simulator.network import CALM, Network, Weather
from node.simulator.sim_client import Habits, SimClient
from node.simulator.sim_node import SimNode
from node.simulator.world import World


@dataclass(frozen=True, slots=True)
class Profile:
    """How much breaks."""

    every_s: float = 1.0
    """Mean time between two faults; 0: none."""
    power: bool = False
    """Crashes take what wasn't synced; sometimes everybody's power fails at once."""
    weather: Weather = CALM
    trouble_s: float = 12.0
    healed_s: float = 25.0


QUIET = Profile(every_s=0.0, trouble_s=4.0, healed_s=8.0)
KILLS = Profile()
BRUTAL = Profile(every_s=0.5, power=True)
PROFILES = {"quiet": QUIET, "kills": KILLS, "brutal": BRUTAL}

HABITS = (
    Habits(publishes_every_s=0.03, subscribes=False),
    Habits(publishes_every_s=0.05, durable="d", ack_wait_s=1),
    Habits(ack_wait_s=2, max_in_flight=4),
    Habits(durable="slow", ack_wait_s=5, max_in_flight=64, acks=0.5),
    Habits(queue="q", ack_wait_s=2, acks=0.7),
    Habits(queue="q", ack_wait_s=1),
    Habits(queue="q", durable="dq", ack_wait_s=3),
    Habits(queue="q", durable="dq", ack_wait_s=1, acks=0.8),
)


AFTERMATH_S = 4.0
"""No fault lasts longer."""


class Cluster:
    """Nodes, clients, network, adversary."""

    def __init__(self, world: World, profile: Profile, nodes: int) -> None:
        self.world = world
        self.profile = profile
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.checker = ClusterChecker(self)
        self.nodes = [SimNode(self, name) for name in self.names]
        self.network = Network(world, self.nodes, profile.weather)
        self.clients = [SimClient(self, f"c{number}", habits) for number, habits in enumerate(HABITS)]
        self._trouble_s = float("-inf")
        self._active = False

    def troubled_since(self, at_s: float) -> bool:
        """Whether anything was broken at ``at_s`` or later: then a first delivery may have been late."""
        return self._trouble_s >= at_s - AFTERMATH_S

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for client in self.clients:
            self.world.after(self.world.rng.uniform(1.0, 2.0), client.connect)

    # --- the adversary ----------------------------------------------------------------------------

    def break_things(self) -> None:
        self._active = True
        self._next_fault()

    def _next_fault(self) -> None:
        if self.profile.every_s:
            self.world.after(self.world.rng.expovariate(1 / self.profile.every_s), self._strike)

    def _strike(self) -> None:
        if not self._active:
            return
        self._trouble_s = self.world.now
        strikes = [self._crash, self._crash, self._crash_all, self._pause, self._drop_client]
        if len(self.nodes) > 1:
            strikes += [self._cut, self._partition, self._hand_over]
        self.world.rng.choice(strikes)()
        self._next_fault()

    def _victim(self) -> SimNode:
        leaders = [node for node in self.nodes if node.leads]
        if leaders and self.world.chance(0.6):
            return self.world.rng.choice(leaders)
        return self.world.rng.choice(self.nodes)

    def _crash(self) -> None:
        node = self._victim()
        self._kill(node, power=self.profile.power and self.world.chance(0.6))
        self.world.after(self.world.rng.uniform(0.05, 3.0), node.start)

    def _crash_all(self) -> None:
        if self.world.chance(0.7):
            return
        for node in self.nodes:
            self._kill(node, power=self.profile.power)
            self.world.after(self.world.rng.uniform(0.05, 1.0), node.start)

    def _kill(self, node: SimNode, *, power: bool) -> None:
        node.crash(power=power)

    def _pause(self) -> None:
        self._victim().pause(self.world.rng.uniform(0.1, 3.0))

    def _drop_client(self) -> None:
        self.world.rng.choice(self.clients).drop()

    def _cut(self) -> None:
        self.network.cut(*self.world.rng.sample(self.names, 2))

    def _partition(self) -> None:
        names = list(self.names)
        self.world.rng.shuffle(names)
        size = self.world.rng.randint(1, len(names) - 1)
        pairs = [(a, b) for a in names[:size] for b in names[size:]]
        if self.world.chance(0.7):
            pairs += [(b, a) for a, b in pairs]
        self.world.counts["partitions"] += 1
        self.network.block(pairs, self.world.rng.uniform(0.1, 3.0))

    def _hand_over(self) -> None:
        for node in self.nodes:
            if node.leads and not node.paused and node.engine.transfer_leadership():
                self.world.counts["hand-overs"] += 1

    def heal(self) -> None:
        """Nothing fails any more, and what did comes back; nobody publishes, everybody acknowledges."""
        self._active = False
        self._trouble_s = self.world.now
        self.world.note("heal")
        self.network.calm()
        for node in self.nodes:
            node.resume()
            node.start()
        for client in self.clients:
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
    cluster = Cluster(world, profile, nodes or world.rng.choice((1, 3, 3, 3, 5)))
    cluster.start()
    world.after(3.0, cluster.break_things)
    world.run(3.0 + profile.trouble_s)
    cluster.heal()
    world.run(profile.healed_s)
    cluster.checker.finish()
    world.counts["published"] = sum(len(client.published) for client in cluster.clients)
    world.counts["stored"] = sum(len(client.stored) for client in cluster.clients)
    world.counts["received"] = sum(len(client.seen.received) for client in cluster.clients)
    return world.counts
