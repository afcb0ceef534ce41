"""Scaled bounds are reached: entries in flight, split backlogs, full frames and windows, paused clients.

A hostile client takes part.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from node.simulator.bound_counts import MET, TRUNCATED, TRUNCATED_MANY
from node.simulator.cluster_run import Case, Run
from node.simulator.profiles import PROFILES, changed

RUNS = 8
NEARLY_EVERY = RUNS - 1
SECONDS = 15.0


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("profile", PROFILES)
def test_bounds_are_met_in_nearly_every_run(profile: str) -> None:
    met: Counter[str] = Counter()
    for seed in range(RUNS):
        counts = Run(Case(seed, changed(PROFILES[profile], SECONDS), 3)).run()
        met.update(name for name in MET if counts[name])
    assert {name: met[name] for name in MET if met[name] < NEARLY_EVERY} == {}


def test_logs_lose_several_entries_at_once() -> None:
    """The log of a former leader loses more than the one entry that it appended before it was cut off."""
    total: Counter[str] = Counter()
    for seed in range(20):
        total += Run(Case(seed, PROFILES["partitions"], 3)).run()
        if total[TRUNCATED_MANY]:
            return
    pytest.fail(f"of {total[TRUNCATED]} cuts {total[TRUNCATED_MANY]} removed more than one entry")


def test_a_hostile_client_does_all_that_it_can() -> None:
    total: Counter[str] = Counter()
    for seed in range(8):
        total += Run(Case(seed, PROFILES["quiet"], 3)).run()
    actions = (
        "pings",
        "unrouted",
        "invalid",
        "connects",
        "acks",
        "groups",
        "registers",
        "subscribes",
        "publishes",
    )
    for action in (*actions, "oversize", "garbage"):
        assert total[f"hostile: {action}"], action
    assert total["hostile client cut off"]
