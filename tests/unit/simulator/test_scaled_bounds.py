"""Scaled bounds replace larger bounds of production, which are restored afterwards."""

from __future__ import annotations

from importlib import import_module

import pytest

from node.protocol import peer
from node.server import origin, proposer
from node.simulator.raft_checks import ViolationError
from node.simulator.scaled_bounds import BOUNDS, MESSAGE_BYTES_MAX, scaled


@pytest.mark.parametrize("home", BOUNDS)
def test_the_bounds_of_production_exist_and_are_larger(home: str) -> None:
    for name, bound in BOUNDS[home].items():
        assert getattr(import_module(home), name) > bound, name


def test_scaled_bounds_apply_in_every_importing_module_during_the_run_only() -> None:
    def now() -> tuple[int, int, int]:
        return proposer.ENTRY_SIZE_MAX, origin.BATCH_COMMANDS_MAX, peer.FRAME_BYTES_MAX

    before, entries = now(), BOUNDS["node.core.entries"]
    with scaled():
        frame = BOUNDS["node.protocol.peer"]["FRAME_BYTES_MAX"]
        assert now() == (entries["ENTRY_SIZE_MAX"], entries["BATCH_COMMANDS_MAX"], frame)
    assert now() == before


def test_bounds_are_restored_when_a_run_fails() -> None:
    def fail() -> None:
        with scaled():
            raise ViolationError("an invariant", "violated")

    before = proposer.ENTRY_SIZE_MAX
    with pytest.raises(ViolationError):
        fail()
    assert before == proposer.ENTRY_SIZE_MAX


def test_scaled_bounds_keep_the_relations_of_production() -> None:
    entries = BOUNDS["node.core.entries"]
    assert MESSAGE_BYTES_MAX < entries["BATCH_SIZE_MAX"] < entries["ENTRY_SIZE_MAX"]
    assert entries["ENTRY_SIZE_MAX"] < BOUNDS["node.protocol.peer"]["FRAME_BYTES_MAX"]
