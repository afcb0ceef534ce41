"""Machine version 1 decides as its release did, until it is raised (R24).

``version_1.bin`` was written by that release (commit c6901e1): six logs of random commands, drawn as
``tests/property/core/test_stories.py`` draws them, with the rolling digest after each entry, a checkpoint
taken in the middle of each log, and the digest of the state at its end. The rolling digest takes in all
deliveries, replies and drops (R30). So a change of any decision of version 1 fails here: put it behind a
``Feature``.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest

from node.core.commands import RaiseVersion
from node.core.entries import Entry, encode_entry, encode_leader_command
from node.core.machine import Machine
from node.core.records import all_records, digest, restore
from node.core.state import State
from node.core.versions import MACHINE_VERSION

LOGS: list[dict[str, Any]] = msgpack.unpackb(
    zlib.decompress((Path(__file__).parent / "version_1.bin").read_bytes())
)


@pytest.fixture(params=range(len(LOGS)))
def log(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = LOGS[request.param]
    return found


def replay(machine: Machine, log: dict[str, Any], first: int = 0) -> None:
    """Apply the entries from number ``first`` on; each must be decided as the release decided it."""
    for (index, data), rolled in zip(log["entries"][first:], log["rolled"][first:], strict=True):
        machine.apply(index, data)
        assert machine.state.rolled == rolled, f"entry {index} was decided in another way"
    assert digest(machine.state) == log["digest"]


def test_a_log_of_version_1_is_decided_as_before(log: dict[str, Any]) -> None:
    replay(Machine(State()), log)


def test_a_checkpoint_of_version_1_goes_on_as_before(log: dict[str, Any]) -> None:
    state = restore((key, value) for key, value in log["checkpoint"])
    assert state.version == 1
    assert sorted(map(list, all_records(state))) == log["checkpoint"], "written again in the same format"
    replay(Machine(state), log, log["at"])


def test_a_checkpoint_of_version_1_can_be_raised(log: dict[str, Any]) -> None:
    machine = Machine(restore((key, value) for key, value in log["checkpoint"]))
    state = machine.state
    raised = encode_leader_command(RaiseVersion(state.term, MACHINE_VERSION, "0.2.0"))
    machine.apply(state.applied + 1, encode_entry(Entry(1, state.time_ns, state.timestamp_ns, [raised], [])))  # type: ignore[arg-type]
    assert (state.version, state.release) == (MACHINE_VERSION, "0.2.0")
    assert digest(restore(sorted(all_records(state)))) == digest(state)
