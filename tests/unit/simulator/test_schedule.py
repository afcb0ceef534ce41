"""Schedules are drawn before the run, and each act has its own random generator."""

from __future__ import annotations

from collections import Counter

from node.simulator.profiles import PROFILES
from node.simulator.schedule import KINDS, NEED_OTHERS, draw, rates


def test_acts_happen_at_their_rates() -> None:
    wanted = rates(2.0, crash=3, slow_disk=1)
    found = Counter(act.kind for seed in range(100) for act in draw(seed, wanted, 3, 10.0))
    assert set(found) == {"crash", "slow disk"}
    assert 1800 < found.total() < 2200
    assert 2.5 < found["crash"] / found["slow disk"] < 3.5


def test_the_seed_decides() -> None:
    brutal = PROFILES["brutal"].rates
    assert draw(1, brutal, 3, 12.0) == draw(1, brutal, 3, 12.0) != draw(2, brutal, 3, 12.0)
    assert [act.number for act in draw(1, brutal, 3, 12.0)] == list(range(len(draw(1, brutal, 3, 12.0))))


def test_an_act_has_its_own_generator() -> None:
    act, other = draw(1, PROFILES["brutal"].rates, 3, 12.0)[:2]
    assert act.rng(1).random() == act.rng(1).random() != other.rng(1).random()
    assert act.rng(1).random() != act.rng(2).random()


def test_a_single_node_has_no_acts_that_need_other_nodes() -> None:
    found = {act.kind for seed in range(50) for act in draw(seed, PROFILES["brutal"].rates, 1, 20.0)}
    assert found
    assert not found & NEED_OTHERS


def test_quiet_has_no_acts() -> None:
    assert draw(1, PROFILES["quiet"].rates, 3, 100.0) == []


def test_every_kind_happens_in_some_profile() -> None:
    assert {kind for profile in PROFILES.values() for kind in profile.rates} == set(KINDS)
