"""The engine under an adversary, one seed a test: what Raft promises holds, whatever breaks.

A failing seed replays exactly: ``run_raft(seed, MIXES[mix], trace=lines)`` tells the story.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.errors import CorruptionError
from node.raft import engine
from node.raft.frames import Append
from node.raft.inbound import Accept, Refuse, Verdict
from node.raft.ports import JournalView
from node.simulator.adversary import Faults
from node.simulator.network import ROUGH
from node.simulator.raft_checks import ViolationError
from node.simulator.raft_run import RaftRun, run_raft

MIXES = {
    "kills": RaftRun(),
    "power": RaftRun(Faults(power=True)),
    "snapshots": RaftRun(Faults(power=True, checkpoints=True)),
    "rough": RaftRun(Faults(power=True, checkpoints=True), weather=ROUGH),
    "slow disks": RaftRun(Faults(power=True, every_s=0.3), flush_s=(0.02, 0.1, 0.3)),
}

MEMBERS = {
    "quiet": RaftRun(Faults(every_s=0), members_every_s=0.3),
    "kills": RaftRun(members_every_s=0.4),
    "snapshots": RaftRun(Faults(power=True, checkpoints=True), members_every_s=0.4),
    "brutal": RaftRun(Faults(power=True, checkpoints=True, every_s=0.3), weather=ROUGH, members_every_s=0.3),
}
"""The same while members are added, promoted, removed and replaced, leaders among them."""

REAL = RaftRun(Faults(power=True, checkpoints=True), real_journal=True)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("mix", MIXES)
def test_promises_hold(mix: str, seed: int) -> None:
    lines: list[str] = []
    try:
        counts = run_raft(seed, MIXES[mix], trace=lines)
    except (ViolationError, CorruptionError) as error:
        pytest.fail(f"{mix}, seed {seed}: {error}\n" + "\n".join(lines[-40:]))
    assert counts["committed"] > 50
    assert counts["committed"] <= counts["proposed"] + counts["elections"] + 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mix", MEMBERS)
def test_promises_hold_while_members_change(mix: str, seed: int) -> None:
    lines: list[str] = []
    try:
        counts = run_raft(seed, MEMBERS[mix], trace=lines)
    except (ViolationError, CorruptionError) as error:
        pytest.fail(f"{mix}, seed {seed}: {error}\n" + "\n".join(lines[-40:]))
    assert counts["committed"] > 50
    assert counts["changes"] > 1


@pytest.mark.parametrize("seed", range(3))
def test_members_change_on_the_real_journal(seed: int) -> None:
    counts = run_raft(seed, replace(REAL, members_every_s=0.4))
    assert counts["changes"] > 1


@pytest.mark.parametrize("seed", range(3))
def test_promises_hold_with_the_real_journal(seed: int) -> None:
    """On a disk that tears what it was writing when the power failed."""
    counts = run_raft(seed, REAL)
    assert counts["committed"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_promises_hold_for_many_seeds(mix: str, soak_seconds: float) -> None:
    for seed in range(1000, 1100 if soak_seconds else 1008):
        run_raft(seed, MIXES[mix])


@pytest.mark.slow
@pytest.mark.parametrize("mix", MEMBERS)
def test_promises_hold_while_members_change_for_many_seeds(mix: str, soak_seconds: float) -> None:
    for seed in range(1000, 1200 if soak_seconds else 1008):
        run_raft(seed, MEMBERS[mix])


def test_seed_decides_everything() -> None:
    """The library's clock, its generator and the hashes of names play no part."""
    runs = []
    for _ in range(2):
        lines: list[str] = []
        counts = run_raft(3, MIXES["rough"], trace=lines)
        runs.append((counts, lines))
    assert runs[0] == runs[1]


def test_group_of_one_survives_power_failures() -> None:
    run_raft(1, RaftRun(Faults(power=True, checkpoints=True), nodes=(1,)))


# --- the checkers are awake: take a rule away, and they find what it prevents --------------------


def _broken_by(run: RaftRun, seeds: range) -> str | None:
    for seed in seeds:
        try:
            run_raft(seed, run)
        except ViolationError as error:
            return error.kind
        except CorruptionError:
            return "contradiction found by the engine"
    return None


def _as_the_library_would(append: Append, log: JournalView, commit: int) -> Verdict:
    prev = append.prev
    if not log.first_index <= prev <= log.last_index:
        return Refuse(prev, log.last_index + 1)
    if log.term_at(prev) != append.prev_term:
        return Refuse(prev, prev)
    match = prev + len(append.entries)
    return Accept(match, min(append.commit, match), prev, append.entries)


def test_without_the_comparison_committed_entries_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: delete what follows ``prev``, add what came."""
    monkeypatch.setattr(engine, "judge", _as_the_library_would)
    assert _broken_by(MIXES["rough"], range(20)) is not None


def test_without_the_bound_on_commit_leftovers_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """S19: commit up to the end of the log, not of what was verified."""
    judge = engine.judge

    def unbounded(append: Append, log: JournalView, commit: int) -> Verdict:
        verdict = judge(append, log, commit)
        return verdict._replace(commit=append.commit) if isinstance(verdict, Accept) else verdict

    monkeypatch.setattr(engine, "judge", unbounded)
    assert _broken_by(MIXES["rough"], range(60)) is not None
