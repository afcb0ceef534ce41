"""Floods of what isn't delivered, and very many subscriptions, beside clients who want to publish."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.attacks import floods
from e2e.external_cluster import NATS_SERVER, needs_nats_server
from e2e.harness import Cluster
from e2e.hostile import ACK_P99_MAX_S, SECONDS, Attack, Yardstick, endure
from e2e.ports import Ports

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
        floods.bogus_acks,
    ],
    ids=lambda attack: attack.__name__,
)
def test_a_flood_at_the_leader(cluster: Cluster, unique: str, attack: Attack) -> None:
    """One read was one step of up to 380 ms, and nobody at the node got an answer for 12 s and more."""
    damage = endure(cluster, unique, {cluster.leader(): [attack]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check()


@pytest.mark.parametrize(
    "attack", [floods.unheard, floods.subscriptions, floods.bogus_acks], ids=lambda attack: attack.__name__
)
def test_a_flood_at_a_follower(cluster: Cluster, unique: str, attack: Attack) -> None:
    """What a follower passes on, interest and acknowledgements, reaches the leader."""
    damage = endure(cluster, unique, {cluster.follower(): [attack]})
    print(damage)  # noqa: T201 - shown when it fails
    damage.check()


NATS_SERVER_TIMES = 10
"""A publish here is written to two disks and passes three nodes; a message of nats-server passes one."""


def test_the_yardstick(cluster: Cluster, unique: str, ports: Ports, tmp_path: Path) -> None:
    """Debian's nats-server under the same attack, in the same run: what a client costs others there."""
    needs_nats_server()
    assert NATS_SERVER is not None
    with Yardstick(NATS_SERVER, ports.take(), tmp_path) as yardstick:
        reference_s = yardstick.p99_s([floods.subscriptions], SECONDS / 2)
    damage = endure(cluster, unique, {cluster.leader(): [floods.subscriptions]}, seconds=SECONDS / 2)
    print(f"nats-server: p99 {reference_s * 1e3:.1f} ms; {damage}")  # noqa: T201 - shown when it fails
    damage.check(p99_max_s=max(ACK_P99_MAX_S, NATS_SERVER_TIMES * reference_s))
