"""The smallest attack: nothing but PINGs, as many as fit."""

from __future__ import annotations

import pytest
from e2e.attacks.plain import pings
from e2e.harness import Cluster
from e2e.hostile import endure

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_a_flood_of_pings(cluster: Cluster, unique: str, where: str) -> None:
    name = cluster.leader() if where == "leader" else cluster.follower()
    damage = endure(cluster, unique, {name: [pings]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check()
