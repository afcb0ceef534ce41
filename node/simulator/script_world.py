"""The world of a story: whole nodes in it, as in the simulator, and nothing left to chance that is told.

Names, elections and clocks' readings are drawn as ever. What takes time takes the shortest time that it
may, and clocks are right, so that a story tells the same whatever else changes.
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


class Steady(random.Random):
    """Chance for a story."""

    def uniform(self, a: float, b: float) -> float:
        """Delays are the shortest; what may be off by as much on either side isn't."""
        if a == -b:
            return 0.0
        return a if b - a < 0.1 else super().uniform(a, b)

    def choice(self, seq: Any) -> Any:
        """The first, which is the shortest where times are listed."""
        return seq[0]


class ScriptChecker(ClusterChecker):
    """What holds in every story: one leader a term, and all nodes decide alike.

    The rest of the checks is about clients that do as the simulator's do; a story's do as they like.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._decided: dict[int, Effects] = {}

    def proposed(self, node: SimNode, index: int, payload: bytes) -> None:
        """A leader has stamped an entry."""
        node.knows_time = True

    def applied(self, node: SimNode, payload: bytes, effects: Effects, state: State) -> None:
        """Who applies the same entry does the same."""
        if self._decided.setdefault(effects.index, effects) != effects:
            raise ViolationError(
                "state machine safety", f"{node.name} decides otherwise in entry {effects.index}"
            )

    def delivering(self, node: SimNode, connection: Connection, subject: bytes, payload: bytes) -> None:
        """A message is turned into bytes for a client; the story's `Ledger` looks at it."""


class ScriptCluster(Cluster):
    """A cluster to which things happen only as the story says."""

    def __init__(self, world: World, nodes: int) -> None:
        super().__init__(world, PROFILES["quiet"], nodes)
        self.checker = ScriptChecker(self)
        for node in self.nodes:
            node.checker = self.checker


class ScriptWorld:
    """A world with nodes ``n1``, ``n2`` …, of which ``n1`` leads when the story begins.

    Args:
        nodes: how many.
        settings: replicated settings that are not the defaults, as written in the story.
        bootstrapped: wait until the cluster is.
        seed: of what is drawn.
    """

    def __init__(
        self, nodes: int, settings: Iterable[str] = (), *, bootstrapped: bool = True, seed: int = 1
    ) -> None:
        self.world = World(seed, chance=Steady)
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
            raise ScriptError("nobody leads")
        return found

    def find_leader(self) -> SimNode | None:
        ready = [node for node in self.cluster.nodes if node.ready]
        return max(ready, key=lambda node: node.engine.term, default=None)

    def await_leader(self) -> None:
        """Let time pass until there is a ready leader.

        Raises:
            ScriptError: it takes too long.
        """
        until_s = self.world.now + LEADER_WITHIN_S
        while self.find_leader() is None:
            if self.world.now >= until_s:
                raise ScriptError(f"no leader within {LEADER_WITHIN_S:g} s")
            self.world.run(0.01)

    def let_lead(self, node: SimNode) -> None:
        """Have leadership handed to ``node``."""
        while not node.ready:
            self.leader.engine.transfer_leadership(node.name)
            self.world.run(0.5)
            self.await_leader()

    def find(self, name: str) -> list[SimNode]:
        """The nodes of a name: ``n1``, ``leader``, ``follower``, ``followers``, ``dead``, ``all``.

        Raises:
            ScriptError: no such node.
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
        """The next one that takes clients, after ``last``; None: there is none now."""
        nodes = self.cluster.nodes
        start = 0 if last is None else nodes.index(last) + 1
        for node in [*nodes[start:], *nodes[:start]]:
            if node.serves and node.replica.caught_up:
                return node
        return None

    def isolate(self, node: SimNode) -> None:
        """Let nothing through between it and the others."""
        others = [other for other in self.cluster.names if other != node.name]
        pairs = [(node.name, other) for other in others] + [(other, node.name) for other in others]
        for network in self.cluster.networks.values():
            network.block(pairs, EVER_S)

    def heal(self) -> None:
        """Let everything through again."""
        for network in self.cluster.networks.values():
            network.calm()

    # --- state --------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The leader's, or that of some node that is up."""
        leader = self.find_leader()
        if leader is not None:
            return leader.state
        return next(node.state for node in self.cluster.nodes if node.up)

    def agreement(self) -> str:
        """Whether all nodes that are up have the same state."""
        up = [node for node in self.cluster.nodes if node.up]
        digests = {digest(node.state) for node in up}
        if len(digests) == 1:
            return f"all {len(up)} nodes have the same state"
        return f"{len(digests)} different states"

    def configure(self, given: Iterable[str]) -> None:
        """Replace the replicated settings: ``name=value``, or ``channel:name=value`` for a channel's limit.

        Raises:
            ScriptError: no such setting, or it is refused.
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
        """Let time pass until ``done``.

        Raises:
            ScriptError: it takes too long.
        """
        until_s = self.world.now + most_s
        while not done():
            if self.world.now >= until_s:
                raise ScriptError(f"not done within {most_s:g} s")
            self.world.run(0.005)


def _setting(name: str, value: str, known: dict[str, Any]) -> tuple[str, Any]:
    if f"{name}_ns" in known:
        return f"{name}_ns", round(seconds(value) * 1e9)
    if name not in known:
        raise ScriptError(f"no setting {name}")
    return name, value == "yes" if isinstance(known[name], bool) else int(value)
