"""``stanchion simulate``: seeds, a summary, and what is told when a promise is broken."""

from __future__ import annotations

from collections import Counter

import pytest

from node.cli.main import main
from node.simulator import cluster
from node.simulator.raft_checks import ViolationError


def _runs(monkeypatch: pytest.MonkeyPatch, broken: int | None = None) -> list[tuple[int, int | None]]:
    asked = []

    def run_cluster(
        seed: int, profile: cluster.Profile, *, nodes: int | None, trace: list[str] | None = None
    ) -> Counter[str]:
        asked.append((seed, nodes))
        if trace is not None:
            trace.append(f"story of {seed}")
        if seed == broken:
            raise ViolationError("order", "2 before 1")
        return Counter({"virtual milliseconds": 1500, "crashes": 2})

    monkeypatch.setattr(cluster, "run_cluster", run_cluster)
    return asked


def test_it_runs_the_seeds_and_sums_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _runs(monkeypatch)
    assert main(["simulate", "--seeds", "3", "--first-seed", "7", "--nodes", "5", "--profile", "kills"]) == 0
    assert asked == [(7, 5), (8, 5), (9, 5)]
    printed = capsys.readouterr().out
    assert "3 runs of profile kills, 4 virtual seconds" in printed
    assert "crashes 6" in printed
    assert "story" not in printed


def test_a_breach_is_told_with_its_story_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _runs(monkeypatch, broken=1)
    assert main(["simulate"]) == 1
    printed = capsys.readouterr().out
    assert "story of 1\nseed 1 breaks a promise: ViolationError: order: 2 before 1\n" in printed
    assert "stanchion simulate --first-seed 1 --seeds 1 --profile brutal --trace" in printed


def test_the_whole_story_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _runs(monkeypatch)
    assert main(["simulate", "--seeds", "2", "--trace"]) == 0
    assert "story of 0\nstory of 1\n2 runs" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--seeds", "0"], ["--nodes", "2"], ["--profile", "nice"]])
def test_what_is_asked_wrongly(argv: list[str]) -> None:
    assert main(["simulate", *argv]) == 2
