"""Who changes the members of a simulated cluster: adds machines, removes them, and turns them off.

As an operator would, it asks some node and asks again if there is no answer, for what it asks for may be
asked twice. A machine that is to be added is started with an empty directory; one that was removed is
taken out of service, whether it has learnt of it or not, and may be added again later.
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
"""For an answer."""
TRIES_MAX = 5
MEMBERS_MIN = 3
"""So many stay, or too many runs would end with a node alone."""


class Operator:
    """Asks for changes, one after the other or several at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream("operator")

    def add(self, rng: random.Random, instead_of: str | None = None) -> None:
        """Add some machine that is outside, perhaps in the place of another; nothing if there is none."""
        spares = [node for node in self._cluster.nodes if node.outside and not node.waiting]
        if not spares:
            return
        node = rng.choice(spares)
        node.wait()
        then = None if instead_of is None else partial(self.remove, instead_of)
        self._ask("cluster.add", {"name": node.name, "peer": f"{node.name}:{PORT}", "wait": True}, then)

    def remove(self, name: str) -> None:
        """Remove a member, unless too few would be left."""
        if len(self._cluster.sound) > MEMBERS_MIN:
            self._ask("cluster.remove", {"name": name}, lambda: self._retire_later(name))

    def _retire_later(self, name: str) -> None:
        node = self._cluster.node(name)
        life = node.life
        self._world.after(
            self._rng.uniform(0.0, 6.0), lambda: None if node.outside or node.life != life else node.retire()
        )

    def settle(self) -> None:
        """Turn off whoever is no member any more, as the cluster has it. To be called when all is well."""
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
        up = [node for node in self._cluster.sound if node.up and not node.paused]
        if not tries:
            return
        answered = False

        def answer(value: dict[str, Any]) -> None:
            nonlocal answered
            if answered or "progress" in value:
                return
            answered = True
            self._world.note(f"operator: {verb} {fields['name']}: {value}")
            self._world.counts[f"{verb} {'done' if 'ok' in value else 'refused'}"] += 1
            if "ok" in value and then is not None:
                then()

        def again() -> None:
            if not answered:
                self._ask(verb, fields, then, tries - 1)

        self._world.after(PATIENCE_S, again)
        if up:
            node = self._rng.choice(up)
            self._world.note(f"operator asks {node.name}: {verb} {fields['name']}")
            node.now_or_when_resumed(lambda: node.replica.asking.ask(verb, fields, answer))
