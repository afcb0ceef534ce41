"""The world of a script: whole simulated nodes, with output that doesn't depend on random choices.

Names, elections and readings of clocks are drawn as usual. Delays are as short as possible and clocks are
exact, so that unrelated changes of the code don't change the output of a script.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from node.core.commands import Configure
from node.core.effects import Effects
from node.core.records import digest
from node.core.settings import LIMIT_NAMES, Settings
from node.core.state import State
from node.server.connection import Connection
from node.simulator.cluster import Cluster
from node.simulator.cluster_checks import ClusterChecker
from node.simulator.profiles import PROFILES
from node.simulator.raft_checks import ViolationError
from node.simulator.script_arguments import ScriptError, seconds
from node.simulator.sim_node import SimNode
from node.simulator.world import World

T = TypeVar("T")

LEADER_WITHIN_S = 10.0
EVER_S = 1e9


class SteadyRandom(random.Random):
    """A random generator that removes jitter."""

    def uniform(self, a: float, b: float) -> float:
        """Return the lower bound of short delays, and 0 for symmetric errors."""
        if a == -b:
            return 0.0
        return a if b - a < 0.1 else super().uniform(a, b)

    def choice(self, seq: Any) -> Any:
        """Return the first element, which is the shortest in lists of durations."""
        return seq[0]


class ScriptChecker(ClusterChecker):
    """Checks what holds in every script: one leader per term, and equal effects on all nodes.

    The other checks assume the behaviour of the simulator's own clients. A script's clients may do anything.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._decided: dict[int, Effects] = {}

    def proposed(self, node: SimNode, index: int, payload: bytes) -> None:
        """Record that the leader's process has stamped an entry."""
        node.knows_time = True

    def applied(self, node: SimNode, payload: bytes, effects: Effects, state: State) -> None:
        """Check that equal entries give equal effects."""
        if self._decided.setdefault(effects.index, effects) != effects:
            raise ViolationError(
                "state machine safety", f"{node.name} has other effects of entry {effects.index}"
            )

    def delivering(self, node: SimNode, connection: Connection, subject: bytes, payload: bytes) -> None:
        """Do nothing: the script's `Ledger` checks deliveries."""


class ScriptCluster(Cluster):
    """A cluster without faults other than those of the script."""

    def __init__(self, world: World, nodes: int) -> None:
        super().__init__(world, PROFILES["quiet"], nodes)
        self.checker = ScriptChecker(self)
        for node in self.nodes:
            node.checker = self.checker


class ScriptWorld:
    """A world with nodes ``n1``, ``n2`` …, in which ``n1`` is the leader when the script begins.

    Args:
        nodes: number of nodes.
        settings: replicated settings that differ from the defaults, as written in the script.
        bootstrapped: wait until the cluster is bootstrapped.
        seed: of the random generators.
    """

    def __init__(
        self, nodes: int, settings: Iterable[str] = (), *, bootstrapped: bool = True, seed: int = 1
    ) -> None:
        self.world = World(seed, rng_class=SteadyRandom)
        self.cluster = ScriptCluster(self.world, nodes)
        for node in self.cluster.nodes:
            node.start()
        if not bootstrapped:
            return
        self.await_leader()
        self.let_lead(self.cluster.nodes[0])
        given = list(settings)
        if given:
            self.configure(given)

    # --- nodes --------------------------------------------------------------------------------------

    @property
    def leader(self) -> SimNode:
        """The ready leader.

        Raises:
            ScriptError: there is none.
        """
        found = self.find_leader()
        if found is None:
            raise ScriptError("there is no leader")
        return found

    def find_leader(self) -> SimNode | None:
        ready = [node for node in self.cluster.nodes if node.ready]
        return max(ready, key=lambda node: node.engine.term, default=None)

    def await_leader(self) -> None:
        """Run until there is a ready leader.

        Raises:
            ScriptError: it takes too long.
        """
        until_s = self.world.now + LEADER_WITHIN_S
        while self.find_leader() is None:
            if self.world.now >= until_s:
                raise ScriptError(f"no leader within {LEADER_WITHIN_S:g} s")
            self.world.run(0.01)

    def let_lead(self, node: SimNode) -> None:
        """Transfer leadership to ``node``."""
        while not node.ready:
            self.leader.engine.transfer_leadership(node.name)
            self.world.run(0.5)
            self.await_leader()

    def find(self, name: str) -> list[SimNode]:
        """Return the nodes with a name: ``n1``, ``leader``, ``follower``, ``followers``, ``dead``, ``all``.

        Raises:
            ScriptError: there is no such node.
        """
        nodes = self.cluster.nodes
        followers = [node for node in nodes if node.up and not node.paused and not node.leads]
        match name:
            case "all":
                found = nodes
            case "leader":
                found = [self.leader]
            case "followers":
                found = followers
            case "follower":
                found = followers[:1]
            case "dead":
                return [node for node in nodes if not node.up]
            case _:
                found = [node for node in nodes if node.name == name]
        if not found:
            raise ScriptError(f"no node {name}")
        return found

    def next_node(self, last: SimNode | None) -> SimNode | None:
        """Return the next node after ``last`` that accepts clients; None if there is none now."""
        nodes = self.cluster.nodes
        start = 0 if last is None else nodes.index(last) + 1
        for node in [*nodes[start:], *nodes[:start]]:
            if node.serves and node.replica.caught_up:
                return node
        return None

    def isolate(self, node: SimNode) -> None:
        """Block all messages between ``node`` and the others."""
        others = [other for other in self.cluster.names if other != node.name]
        pairs = [(node.name, other) for other in others] + [(other, node.name) for other in others]
        for network in self.cluster.networks.values():
            network.block(pairs, EVER_S)

    def heal(self) -> None:
        """End all isolation."""
        for network in self.cluster.networks.values():
            network.calm()

    # --- state --------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state of the leader, or of any node that is up."""
        leader = self.find_leader()
        if leader is not None:
            return leader.state
        return next(node.state for node in self.cluster.nodes if node.up)

    def divergence(self) -> str:
        """Return whether all nodes that are up have the same state."""
        up = [node for node in self.cluster.nodes if node.up]
        digests = {digest(node.state) for node in up}
        if len(digests) == 1:
            return f"all {len(up)} nodes have the same state"
        return f"{len(digests)} different states"

    def configure(self, given: Iterable[str]) -> None:
        """Replace the replicated settings: ``name=value``, or ``channel:name=value`` for a channel's limit.

        Raises:
            ScriptError: the setting doesn't exist, or the request is not done in time.
        """
        values: dict[str, Any] = {}
        for word in given:
            key, _, value = word.partition("=")
            pattern, colon, name = key.rpartition(":")
            if colon:
                channels = values.setdefault("channels", {})
                limits: dict[str, int] = channels.setdefault(pattern, {})
                limits.update([_setting(name, value, dict.fromkeys(LIMIT_NAMES, 0))])
            else:
                values.update([_setting(name, value, Settings().values())])
        outcomes: list[object] = []
        replica = self.leader.replica
        replica.origin.submit(Configure(values, False), outcomes.append)
        replica.streaming.read_done()
        self.run_until(lambda: bool(outcomes))

    def run_until(self, done: Callable[[], bool], *, most_s: float = 5.0) -> None:
        """Run until ``done()`` returns True.

        Raises:
            ScriptError: it takes too long.
        """
        until_s = self.world.now + most_s
        while not done():
            if self.world.now >= until_s:
                raise ScriptError(f"not done within {most_s:g} s")
            self.world.run(0.005)


def _setting(name: str, value: str, defaults: dict[str, Any]) -> tuple[str, Any]:
    if f"{name}_ns" in defaults:
        return f"{name}_ns", round(seconds(value) * 1e9)
    if name not in defaults:
        raise ScriptError(f"unknown setting {name}")
    return name, value == "yes" if isinstance(defaults[name], bool) else int(value)
