"""A failing run is made smaller, for as long as it fails in the same way."""

from __future__ import annotations

from node.simulator.cluster_run import Case, Failure
from node.simulator.profiles import PROFILES
from node.simulator.shrink import Shrinker

CASE = Case(1, PROFILES["brutal"], 3)
ACTS = tuple(range(24))


def failed(kind: str = "order", executed_acts: tuple[int, ...] = ACTS) -> Failure:
    return Failure(kind, "", 5.0, executed_acts)


def test_unneeded_acts_and_clients_are_left_out() -> None:
    """Two acts and one client are what it takes."""

    def run(case: Case, so_far: float) -> Failure | None:
        acts = ACTS if case.acts is None else case.acts
        return failed(executed_acts=acts) if {5, 17} <= {*acts} and 3 in case.present() else None

    shrinker = Shrinker(CASE, failed(), seconds=60, run=run)
    case = shrinker.shrink()
    assert (case.acts, case.clients) == ((5, 17), (3,))
    assert shrinker.runs < 60
    assert (case.seed, case.profile, case.nodes) == (CASE.seed, CASE.profile, CASE.nodes)


def test_another_violation_does_not_count() -> None:
    def run(case: Case, so_far: float) -> Failure | None:
        return failed(kind="order" if case.acts is not None and 2 in case.acts else "time")

    assert Shrinker(CASE, failed(), seconds=60, run=run).shrink().acts == (2,)


def test_acts_after_the_violation_are_left_out_at_once() -> None:
    runs = []

    def run(case: Case, so_far: float) -> Failure | None:
        runs.append(case)
        return failed(executed_acts=(0, 1))

    Shrinker(CASE, failed(executed_acts=(0, 1)), seconds=60, run=run).shrink()
    assert runs[0].acts == (0, 1)


def test_shrinking_ends_in_time() -> None:
    """The run under way is the last."""
    now = 0.0

    def clock() -> float:
        return now

    def run(case: Case, so_far: float) -> Failure | None:
        nonlocal now
        now += 1.0
        return failed(executed_acts=case.acts or ())

    shrinker = Shrinker(CASE, failed(), seconds=2.5, clock=clock, run=run)
    shrinker.shrink()
    assert shrinker.runs == 3


def test_one_client_is_always_left() -> None:
    case = Shrinker(
        CASE, failed(), seconds=60, run=lambda case, _: failed(executed_acts=case.acts or ())
    ).shrink()
    assert (case.acts, len(case.present())) == ((), 1)
