"""Membership changes of a simulated cluster: adds machines, removes them, and turns them off.

As a real operator would, it sends a request to some node and repeats it if there is no reply: requests are
idempotent. A machine to be added is started with an empty directory. A removed machine is taken out of
service, whether it has learned of its removal or not, and may be added again later.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from node.simulator.expected_membership import PORT

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster

PATIENCE_S = 4.0
"""Timeout of a request."""
TRIES_MAX = 5
MEMBERS_MIN = 3
"""Minimum number of members: otherwise too many runs would end with a single node."""


class Operator:
    """Requests changes, one after the other or several at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream("operator")

    def add(self, rng: random.Random, instead_of: str | None = None) -> None:
        """Add a machine that is outside, perhaps to replace a member. Do nothing if there is none."""
        spares = [node for node in self._cluster.nodes if node.outside and not node.waiting]
        if not spares:
            return
        node = rng.choice(spares)
        node.wait()
        then = None if instead_of is None else partial(self.remove, instead_of)
        self._ask("cluster.add", {"name": node.name, "peer": f"{node.name}:{PORT}", "wait": True}, then)

    def remove(self, name: str) -> None:
        """Remove a member unless too few would be left."""
        if len(self._cluster.usable_nodes) > MEMBERS_MIN:
            self._ask("cluster.remove", {"name": name}, lambda: self._retire_later(name))

    def _retire_later(self, name: str) -> None:
        node = self._cluster.node(name)
        life = node.life
        self._world.after(
            self._rng.uniform(0.0, 6.0), lambda: None if node.outside or node.life != life else node.retire()
        )

    def settle(self) -> None:
        """Turn off machines that are no members by a ready leader's log. Call it when there are no faults."""
        ready = next((node for node in self._cluster.nodes if node.ready), None)
        if ready is None or ready.expected_membership is None or ready.engine.is_changing:
            return
        names = ready.engine.membership.names
        for node in self._cluster.nodes:
            if node.name not in names and not node.outside:
                node.retire()

    def _ask(
        self, verb: str, fields: dict[str, Any], then: Callable[[], object] | None, tries: int = TRIES_MAX
    ) -> None:
        up = [node for node in self._cluster.usable_nodes if node.up and not node.paused]
        if not tries:
            return
        answered = False

        def answer(value: dict[str, Any]) -> None:
            nonlocal answered
            if answered or "progress" in value:
                return
            answered = True
            self._world.record(f"operator: {verb} {fields['name']}: {value}")
            self._world.counts[f"{verb} {'done' if 'ok' in value else 'refused'}"] += 1
            if "ok" in value and then is not None:
                then()

        def again() -> None:
            if not answered:
                self._ask(verb, fields, then, tries - 1)

        self._world.after(PATIENCE_S, again)
        if up:
            node = self._rng.choice(up)
            self._world.record(f"operator asks {node.name}: {verb} {fields['name']}")
            node.now_or_when_resumed(lambda: node.replica.asking.ask(verb, fields, answer))
