"""``stanchion simulate``: seeds, the summary, and the report of a violation."""

from __future__ import annotations

import shlex
from collections import Counter

import pytest

from node.cli.main import main
from node.simulator import cluster_run, failure_report, shrink
from node.simulator.cluster_run import Case, Failure, Outcome
from node.simulator.profiles import PROFILES, changed


def _runs(monkeypatch: pytest.MonkeyPatch, broken: int | None = None) -> list[Case]:
    """Runs take no time, and one seed violates a guarantee as long as its first fault is injected."""
    asked: list[Case] = []

    def attempt(case: Case, *, trace: list[str] | None = None) -> Outcome:
        asked.append(case)
        if trace is not None:
            trace.append(f"story of {case.seed}")
        failure = None
        if case.seed == broken and (case.acts is None or 0 in case.acts):
            failure = Failure("order", "ViolationError: order: 2 before 1", 4.5, (0, 1, 2))
        return Outcome(case, Counter({"virtual milliseconds": 1500, "crashes": 2}), failure)

    for module in (cluster_run, failure_report):
        monkeypatch.setattr(module, "attempt", attempt)
    monkeypatch.setattr(shrink.Shrinker.__init__, "__kwdefaults__", _shrinker_defaults(attempt))
    return asked


def _shrinker_defaults(attempt: object) -> dict[str, object]:
    assert callable(attempt)
    known = shrink.Shrinker.__init__.__kwdefaults__
    return {**known, "run": lambda case, _: attempt(case).failure}


def test_it_runs_the_seeds_and_sums_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _runs(monkeypatch)
    assert main(["simulate", "--seeds", "3", "--first-seed", "7", "--nodes", "5", "--profile", "kills"]) == 0
    assert [(case.seed, case.nodes, case.profile.name) for case in asked] == [
        (7, 5, "kills"),
        (8, 5, "kills"),
        (9, 5, "kills"),
    ]
    printed = capsys.readouterr().out
    assert "3 runs of profile kills, 4 virtual seconds (0.00 hours)" in printed
    assert "times real time" in printed
    assert "crashes 6" in printed
    assert "story" not in printed


def test_all_cycles_through_the_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _runs(monkeypatch)
    assert main(["simulate", "--profile", "all", "--seconds", "15", "--rate", "rot=0.5"]) == 0
    assert len({case.profile.name for case in asked}) > 5
    assert {case.profile.seconds for case in asked} == {15.0}
    assert {case.profile.rates["rot"] for case in asked} == {0.5}


def test_a_violation_is_shortened_and_printed_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _runs(monkeypatch, broken=1)
    assert main(["simulate", "--nodes", "3"]) == 1
    printed = capsys.readouterr().out
    assert "seed 1 violates an invariant after 4.500 s: ViolationError: order: 2 before 1\n" in printed
    assert " to 1 acts and from 8 to 1 clients in " in printed
    assert "story of 1\nseed 1: ViolationError: order: 2 before 1\n" in printed
    again = asked[-1].command()
    assert f"repeat with: {again}\n" in printed
    assert again.startswith(
        "stanchion simulate --first-seed 1 --seeds 1 --profile brutal --nodes 3 --acts 0 "
    )


def test_the_printed_command_repeats_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _runs(monkeypatch)
    profile = changed(PROFILES["disks"], 12.5, {"slow disk": 0.125, "crash": 0.0})
    case = Case(17, profile, 5, (1, 4), (0, 2))
    assert main(shlex.split(case.command())[1:]) == 0
    assert asked == [case]


def test_trace_prints_all_events(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _runs(monkeypatch)
    assert main(["simulate", "--seeds", "2", "--trace"]) == 0
    assert "story of 0\nstory of 1\n2 runs" in capsys.readouterr().out


def test_for_limits_the_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One run at least."""
    asked = _runs(monkeypatch)
    assert main(["simulate", "--for", "0.000001"]) == 0
    assert len(asked) == 1
    assert "1 runs of profile brutal" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["--seeds", "0"],
        ["--nodes", "2"],
        ["--profile", "nice"],
        ["--rate", "meteor=1"],
        ["--rate", "rot=often"],
        ["--acts", "one"],
    ],
)
def test_wrong_usage(argv: list[str]) -> None:
    assert main(["simulate", *argv]) == 2
