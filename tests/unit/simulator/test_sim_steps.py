"""Steps of a simulated process run one after the other and take time."""

from __future__ import annotations

from node.simulator.sim_steps import Steps
from node.simulator.world import World


class Process:
    """Records when each step ran."""

    def __init__(self, scale: float = 1.0) -> None:
        self.world = World(1)
        self.steps = Steps(self.world, scale)
        self.done: list[tuple[str, float]] = []

    def take(self, name: str, takes_s: float = 0.0) -> None:
        def step() -> None:
            self.done.append((name, round(self.world.now - self.world.started_s, 6)))
            self.steps.spend(takes_s)

        self.steps.take(step)


def test_input_during_a_step_waits_for_its_turn() -> None:
    process = Process()
    process.take("a", 0.2)
    process.take("b", 0.1)
    process.take("c")
    assert process.done == [("a", 0.0)]
    process.world.run(1.0)
    assert process.done == [("a", 0.0), ("b", 0.2), ("c", 0.3)]
    assert abs(process.steps.late_s - 0.3) < 1e-9


def test_steps_take_longer_on_a_slow_machine_and_no_time_at_scale_0() -> None:
    slow, quick = Process(3.0), Process(0.0)
    for process in (slow, quick):
        process.take("a", 0.1)
        process.take("b")
        process.world.run(1.0)
    assert slow.done[1] == ("b", 0.3)
    assert quick.done[1] == ("b", 0.0)


def test_a_nested_step_runs_within_the_outer_one() -> None:
    process = Process()
    process.steps.take(lambda: process.take("within", 0.1))
    process.take("after")
    process.world.run(1.0)
    assert process.done == [("within", 0.0), ("after", 0.1)]


def test_a_paused_process_runs_waiting_steps_after_it_resumes() -> None:
    process = Process()
    process.take("a", 0.1)
    process.take("b")
    process.steps.stop()
    process.world.run(0.5)
    process.take("c")
    assert [name for name, _ in process.done] == ["a"]
    process.steps.go_on()
    assert process.done[1:] == [("b", 0.5), ("c", 0.5)]


def test_waiting_steps_are_dropped_when_the_process_dies() -> None:
    process = Process()
    process.take("a", 0.1)
    process.take("b")
    process.steps.clear()
    process.take("of the next process")
    process.world.run(1.0)
    assert [name for name, _ in process.done] == ["a", "of the next process"]
