"""Floods of what isn't delivered, and very many subscriptions, beside clients who want to publish."""

from __future__ import annotations

import pytest
from e2e.attacks import floods
from e2e.harness import Cluster
from e2e.hostile import Attack, endure

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize(
    "attack",
    [
        floods.unheard,
        floods.always_new,
        floods.invalid_subscriptions,
        floods.connects,
        floods.everything_and_back,
        floods.pings_of_many,
        floods.subscriptions,
        floods.queue_group,
        floods.patterns,
    ],
    ids=lambda attack: attack.__name__,
)
def test_a_flood_at_the_leader(cluster: Cluster, unique: str, attack: Attack) -> None:
    """One read was one step of up to 380 ms, and nobody at the node got an answer for 12 s and more."""
    damage = endure(cluster, unique, {cluster.leader(): [attack]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check()
