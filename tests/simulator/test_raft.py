"""The engine under an adversary, one seed per test: Raft's guarantees hold despite all faults.

A failing seed replays exactly: ``run_raft(seed, MIXES[mix], trace=lines)`` fills ``lines`` with its events.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from member_mutations import changes_overlap, learners_count, members_count_when_they_are_committed
from seed_search import SeedSearch

from node.errors import CorruptionError, UnavailableError
from node.raft import following
from node.raft.active_membership import Reconfiguration
from node.raft.append_check import Accept, Refuse, Verdict, check_append
from node.raft.engine import Engine
from node.raft.frames import Ack, Append, Refusal
from node.raft.membership import Membership
from node.raft.ports import JournalView, Role
from node.raft.pysyncobj_adapter import Library
from node.raft.voting import Voting
from node.simulator.adversary import Faults
from node.simulator.network import ROUGH
from node.simulator.raft_checks import ViolationError
from node.simulator.raft_group import RaftServer
from node.simulator.raft_model import RaftModel, Server
from node.simulator.raft_run import RaftRun, run_raft
from node.simulator.world import StandstillError

MIXES = {
    "kills": RaftRun(),
    "power": RaftRun(Faults(power=True)),
    "snapshots": RaftRun(Faults(power=True, checkpoints=True)),
    "rough": RaftRun(Faults(power=True, checkpoints=True), weather=ROUGH),
    "slow disks": RaftRun(Faults(power=True, every_s=0.3), flush_s=(0.02, 0.1, 0.3)),
    "rivals": RaftRun(Faults(rivals=True, every_s=0.5)),
}

MEMBERS = {
    "quiet": RaftRun(Faults(every_s=0), members_every_s=0.3),
    "kills": RaftRun(members_every_s=0.4),
    "snapshots": RaftRun(Faults(power=True, checkpoints=True), members_every_s=0.4),
    "brutal": RaftRun(Faults(power=True, checkpoints=True, every_s=0.3), weather=ROUGH, members_every_s=0.3),
}
"""Runs in which members, including leaders, are added, promoted, removed and replaced."""

REAL = RaftRun(Faults(power=True, checkpoints=True), real_journal=True)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("mix", MIXES)
def test_invariants_hold(mix: str, seed: int) -> None:
    lines: list[str] = []
    try:
        counts = run_raft(seed, MIXES[mix], trace=lines)
    except (ViolationError, CorruptionError) as error:
        pytest.fail(f"{mix}, seed {seed}: {error}\n" + "\n".join(lines[-40:]))
    assert counts["committed"] > 50
    assert counts["committed"] <= counts["proposed"] + counts["elections"] + 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mix", MEMBERS)
def test_invariants_hold_while_members_change(mix: str, seed: int) -> None:
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
def test_invariants_hold_with_the_real_journal(seed: int) -> None:
    """The disk tears writes that were under way when the power failed."""
    counts = run_raft(seed, REAL)
    assert counts["committed"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_invariants_hold_for_many_seeds(mix: str, soak_seconds: float) -> None:
    _run_seeds(MIXES[mix], 8, soak_seconds)


@pytest.mark.slow
@pytest.mark.parametrize("mix", MEMBERS)
def test_invariants_hold_while_members_change_for_many_seeds(mix: str, soak_seconds: float) -> None:
    _run_seeds(MEMBERS[mix], 4, soak_seconds)


def _run_seeds(run: RaftRun, few: int, soak_seconds: float) -> None:
    """Run ``few`` seeds, or as many as there is time for: all mixes together get ``soak_seconds``."""
    end_s = time.monotonic() + soak_seconds / (len(MIXES) + len(MEMBERS))
    for seed in itertools.count(1000):
        if seed >= 1000 + few and (not soak_seconds or time.monotonic() > end_s):
            return
        try:
            run_raft(seed, run)
        except Exception as error:
            error.add_note(f"repeat with: run_raft({seed}, {run})")
            raise


def test_seed_decides_everything() -> None:
    """The library's clock, its random generator and the hashes of names have no influence."""
    runs = []
    for _ in range(2):
        lines: list[str] = []
        counts = run_raft(3, MIXES["rough"], trace=lines)
        runs.append((counts, lines))
    assert runs[0] == runs[1]


def test_group_of_one_survives_power_failures() -> None:
    run_raft(1, RaftRun(Faults(power=True, checkpoints=True), nodes=(1,)))


# --- tests of the checkers: remove a rule and expect the violation -------------------------------


def _broken_by(run: RaftRun) -> Callable[[int], str | None]:
    """Return a function that runs a seed and returns the violated invariant."""

    def broken(seed: int) -> str | None:
        try:
            run_raft(seed, run)
        except ViolationError as error:
            return error.kind
        except (CorruptionError, AssertionError):
            return "contradiction found by the engine"
        except StandstillError:
            return "standstill"
        return None

    return broken


def _as_the_library_would(append: Append, log: JournalView, commit: int) -> Verdict:
    prev = append.prev
    if not log.first_index <= prev <= log.last_index:
        return Refuse(prev, log.last_index + 1)
    if log.term_at(prev) != append.prev_term:
        return Refuse(prev, prev)
    match = prev + len(append.entries)
    return Accept(match, min(append.commit, match), prev, append.entries)


def test_without_the_comparison_committed_entries_are_lost(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS-1: delete all entries after ``prev``, then append the received ones."""
    monkeypatch.setattr(following, "check_append", _as_the_library_would)
    seeds.find(40, _broken_by(MIXES["rough"]))


def test_without_the_bound_on_commit_leftovers_are_applied(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS-19: commit up to the end of the log instead of the end of the verified entries."""
    check_append = following.check_append

    def unbounded(append: Append, log: JournalView, commit: int) -> Verdict:
        verdict = check_append(append, log, commit)
        return verdict._replace(commit=append.commit) if isinstance(verdict, Accept) else verdict

    monkeypatch.setattr(following, "check_append", unbounded)
    seeds.find(60, _broken_by(MIXES["rough"]))


def _stale_acks_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    on_answer = Engine._on_answer

    def trusting(self: Engine, peer: str, answer: Ack | Refusal) -> None:
        if isinstance(answer, Ack) and answer.term < self.term and answer.match <= self.last_index:
            answer = answer._replace(term=self.term)
        on_answer(self, peer, answer)

    monkeypatch.setattr(Engine, "_on_answer", trusting)


def test_acks_of_an_earlier_leadership_make_majorities_of_two_in_five(
    seeds: SeedSearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PS-5: an entry that a follower had in term 1 may be another one in term 3.

    One seed in five shows it. With three nodes it can't happen: an entry on two of them stays.
    """
    _stale_acks_are_trusted(monkeypatch)
    run = RaftRun(Faults(rivals=True, every_s=1.2), nodes=(5,))
    seeds.find(60, _broken_by(run), kinds={"commit rule", "durability", "leader completeness"})


def _own_vote_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sets its count to one when a campaign begins."""

    def count(self: Library, votes: int) -> None:
        self.__dict__["votes"] = 2 if votes == 1 else votes

    monkeypatch.setattr(
        Library, "_SyncObj__votesCount", property(lambda self: self.__dict__["votes"], count), raising=False
    )


def test_a_vote_that_counts_twice_elects_two_in_a_term(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three nodes a candidate needs no vote; with five, one vote.

    Pre-votes hide the effect: two candidates must have a majority for the same term at the same time, which
    happens in one seed of ten. The model of the rules sees the election itself.
    """
    _own_vote_counts_twice(monkeypatch)
    run = RaftRun(Faults(rivals=True, every_s=0.6), nodes=(3,))
    seeds.find(5, _broken_by(run), kinds={"election rule"})


def test_without_pre_votes_a_vote_that_counts_twice_is_found_at_once(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def campaign(self: Voting) -> None:
        self._election.rearm()
        self._library.forget_leader()
        if self._may_campaign():
            self._election.authorise(transfer=False)

    monkeypatch.setattr(Voting, "ask", campaign)
    run = replace(MIXES["rivals"], nodes=(5,))
    assert not any(map(_broken_by(run), range(4))), "without pre-votes alone nothing is unsafe"
    _own_vote_counts_twice(monkeypatch)
    seeds.find(5, _broken_by(run), kinds={"election rule"})


# --- the same for the rules of membership ----------------------------------------------------------

HASTY = RaftRun(Faults(power=True, every_s=0.25), members_every_s=0.1)
"""Members change more often than in any real cluster."""


def test_members_change_in_haste() -> None:
    for seed in range(4):
        run_raft(seed, HASTY)


def _members_of_the_engine(
    self: RaftModel, name: str, server: Server, engine: Engine, journal: JournalView
) -> None:
    """Let the model use the engine's members instead of those in the log."""
    server.members = engine.membership


def test_a_membership_that_counts_only_when_it_is_committed_makes_two_majorities(
    seeds: SeedSearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members_count_when_they_are_committed(monkeypatch)
    monkeypatch.setattr(RaftServer, "check_membership", lambda server: None)
    # Otherwise the model finds the mutation at once.
    monkeypatch.setattr(RaftModel, "_check_membership", _members_of_the_engine)
    seeds.find(
        40,
        _broken_by(HASTY),
        kinds={"election rule", "commit rule", "durability", "state machine safety", "leader completeness"},
    )


def test_counted_learners_make_false_majorities(seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    learners_count(monkeypatch)
    seeds.find(40, _broken_by(HASTY), kinds={"commit rule", "election rule", "durability"})


def test_overlapping_changes_make_two_majorities(seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    changes_overlap(monkeypatch)
    seeds.find(60, _broken_by(HASTY))


def test_changes_of_leaders_that_are_not_ready_make_two_majorities(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug of 2015: the leader appends a change before it has committed an entry of its own term."""

    def change(self: Engine, new: Membership) -> int:
        if self.role is not Role.LEADER:
            raise UnavailableError(self.name)
        self._reconfiguration.check(new, 1 << 60)
        index = self._journal.last_index + 1
        self._journal.append(index, self.term, b"\x02" + new.encode())
        self._reconfiguration.follow()
        return index

    monkeypatch.setattr(Engine, "change_membership", change)
    seeds.find(60, _broken_by(HASTY))


def test_a_change_that_outlives_its_entry_is_noticed(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncation must undo a membership change."""
    follow = Reconfiguration.follow

    def forward(self: Reconfiguration) -> None:
        now, before = self._journal.membership, self._placed
        if now is not None and (before is None or now[0] >= before[0]):
            follow(self)

    monkeypatch.setattr(Reconfiguration, "follow", forward)
    seeds.find(40, _broken_by(HASTY), kinds={"membership"})


def test_a_vote_from_another_directory_elects_a_leader_without_committed_entries(
    seeds: SeedSearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nodes come back with empty disks while a leader still counts their former entries."""
    connected = Engine.connected
    monkeypatch.setattr(Engine, "connected", lambda self, peer, directory: connected(self, peer))
    run = replace(HASTY, faults=Faults(power=True, checkpoints=True, every_s=0.25), members_every_s=0.12)
    seeds.find(1225, _broken_by(run))


def test_a_snapshot_without_its_membership_is_noticed(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver would keep the membership that it had before."""
    install = Engine.snapshot_installed

    def forget(
        self: Engine, index: int, term: int, previous: tuple[int, int], membership: Membership | None
    ) -> None:
        install(self, index, term, previous)

    monkeypatch.setattr(Engine, "snapshot_installed", forget)
    seeds.find(40, _broken_by(MEMBERS["snapshots"]), kinds={"membership"})


# --- violations that only the model finds, or that it finds first -----------------------------------


def _ack_whatever_a_heartbeat_names(append: Append, log: JournalView, commit: int) -> Verdict:
    """Accept appends without entries without checking the term of ``prev``: they change no entry."""
    if not append.entries and log.first_index <= append.prev <= log.last_index:
        return Accept(append.prev, min(append.commit, commit), append.prev, [])
    return check_append(append, log, commit)


def test_an_ack_of_an_entry_that_the_leader_does_not_have_is_noticed(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All logs are correct at that time; without the model, only a follower that lags forever is noticed."""
    monkeypatch.setattr(following, "check_append", _ack_whatever_a_heartbeat_names)
    seeds.find(40, _broken_by(MIXES["rough"]), kinds={"matching rule"})


def test_an_overlapping_change_is_noticed_when_it_begins(
    seeds: SeedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model finds it before there are two majorities."""
    changes_overlap(monkeypatch)
    seeds.find(20, _broken_by(MEMBERS["quiet"]), kinds={"membership rule"})
