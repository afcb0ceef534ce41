"""One run of a Raft group under an adversary: inject faults for a while, end them, and check the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from node.simulator.adversary import Adversary, Faults
from node.simulator.network import CALM, Weather
from node.simulator.raft_group import FLUSH_S, GroupOptions, RaftGroup
from node.simulator.raft_members import Operator
from node.simulator.world import World

_QUIET_S = 1.0
"""No batches are proposed in the last seconds, so that all states can be compared."""


@dataclass(frozen=True, slots=True)
class RaftRun:
    """The settings of a run, apart from its seed."""

    faults: Faults = field(default_factory=Faults)
    weather: Weather = CALM
    nodes: tuple[int, ...] = (3, 3, 5)
    """The number of nodes is drawn from these."""
    flush_s: tuple[float, ...] = FLUSH_S
    real_journal: bool = False
    members_every_s: float = 0.0
    """Mean time between two membership changes, in seconds; 0: there are none."""
    faults_s: float = 6.0
    healed_s: float = 3.0


def run_raft(seed: int, run: RaftRun, *, trace: list[str] | None = None) -> Counter[str]:
    """Run one seed.

    Args:
        seed: decides everything.
        run: the settings.
        trace: is filled with a line per event, also if an invariant is violated.

    Returns:
        How often each kind of event happened.

    Raises:
        ViolationError: an invariant is violated.
    """
    world = World(seed, trace=trace is not None)
    if trace is not None:
        world.trace = trace
    nodes = world.rng.choice(run.nodes)
    options = GroupOptions(
        nodes=nodes,
        weather=run.weather,
        flush_s=run.flush_s,
        real_journal=run.real_journal,
        spares=3 if run.members_every_s else 0,
    )
    group = RaftGroup(world, options)
    adversary = Adversary(group, run.faults)
    operator = Operator(group, run.members_every_s or 1.0)

    until = world.now + run.faults_s + run.healed_s

    def client() -> None:
        if world.now < until:
            group.propose(world.rng.choice((1, 1, 2, 8)))
            world.after(world.rng.uniform(0.01, 0.12), client)

    group.start()
    world.after(0.5, client)
    if run.faults.every_s:
        world.after(1.0, adversary.start)
    if run.members_every_s:
        world.after(0.7, operator.start)
    world.run(run.faults_s)
    adversary.stop()
    operator.stop()
    group.heal()
    world.run(run.healed_s)
    world.run(_QUIET_S)
    group.checker.finish(group.members())
    world.counts["committed"] = len(group.checker.committed)
    return world.counts
