"""One run of a simulated cluster: its parameters, its outcome, and the command that repeats it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from node.errors import NodeError
from node.simulator.cluster import HABITS, Cluster
from node.simulator.profiles import LEADER_WITHIN_S, PROFILES, WARM_UP_S, Profile
from node.simulator.raft_checks import ViolationError
from node.simulator.scaled_bounds import scaled
from node.simulator.schedule import Act, draw
from node.simulator.world import StandstillError, World

HEALED_MAX_S = 40.0
"""Within this time after the faults have ended, all messages must be delivered and acknowledged."""

NODES = (1, 3, 3, 3, 5)
"""The number of nodes is drawn from these unless it is given."""

BROKEN = (ViolationError, StandstillError, NodeError, AssertionError, LookupError, RecursionError)
"""Exceptions that a failed run ends with: the nodes' own assertions and errors are checkers too."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that determines a run."""

    seed: int
    profile: Profile
    nodes: int | None = None
    """None: 1, 3 or 5, depending on the seed."""
    acts: tuple[int, ...] | None = None
    """Numbers of the acts that are executed; None: all."""
    clients: tuple[int, ...] | None = None
    """Numbers of the clients that take part; None: all."""

    @property
    def size(self) -> int:
        """The number of nodes."""
        return self.nodes or World(self.seed).rng.choice(NODES)

    def schedule(self) -> list[Act]:
        """Return the acts of this run."""
        acts = draw(self.seed, self.profile.rates, self.size, self.profile.faults_s)
        return [act for act in acts if self.acts is None or act.number in self.acts]

    def present(self) -> tuple[int, ...]:
        """Return the numbers of the clients that take part."""
        return tuple(range(len(HABITS))) if self.clients is None else self.clients

    def command(self) -> str:
        """Return the command that repeats this run with a trace."""
        standard = PROFILES.get(self.profile.name, self.profile)
        words = [f"stanchion simulate --first-seed {self.seed} --seeds 1 --profile {self.profile.name}"]
        words.append(f"--nodes {self.size}")
        if self.profile.seconds != standard.seconds:
            words.append(f"--seconds {self.profile.seconds:g}")
        for kind in sorted({*self.profile.rates, *standard.rates}):
            rate = self.profile.rates.get(kind, 0.0)
            if rate != standard.rates.get(kind, 0.0):
                words.append(f"--rate '{kind}={rate!r}'")
        for option, numbers in (("acts", self.acts), ("clients", self.clients)):
            if numbers is not None:
                words.append(f"--{option} {','.join(map(str, numbers)) or 'none'}")
        return " ".join([*words, "--trace"])


class Run:
    """Runs a case once."""

    def __init__(self, case: Case, *, trace: list[str] | None = None) -> None:
        self.case = case
        self.world = World(case.seed, trace=trace is not None)
        if trace is not None:
            self.world.trace = trace
        self.cluster = Cluster(
            self.world,
            case.profile,
            case.size,
            case.schedule(),
            case.clients,
            scaled=True,
        )

    @property
    def executed_acts(self) -> list[int]:
        """Numbers of the acts executed so far."""
        return self.cluster.adversary.executed_acts

    def run(self, *, until_s: float = float("inf")) -> Counter[str]:
        """Inject faults for a while, end them, and check the result. Returns counts of events.

        Args:
            until_s: end the run at this time if that is before the faults end.

        Raises:
            ViolationError: an invariant is violated. Any other exception in `BROKEN` is a failure too.
        """
        try:
            with scaled():
                return self._run(until_s)
        finally:
            self.cluster.close()

    def _run(self, until_s: float) -> Counter[str]:
        world, cluster = self.world, self.cluster
        cluster.start()
        world.after(WARM_UP_S, cluster.adversary.start)
        faults_end_s = WARM_UP_S + self.case.profile.faults_s
        world.run(min(faults_end_s, until_s))
        if until_s < faults_end_s:
            return self._counts()
        cluster.heal()
        world.run(LEADER_WITHIN_S)
        cluster.checker.expect_leader()
        healed_s = LEADER_WITHIN_S
        while not cluster.checker.converged and healed_s < HEALED_MAX_S:
            cluster.operator.settle()
            world.run(0.5)
            healed_s += 0.5
        cluster.checker.finish()
        return self._counts()

    def _counts(self) -> Counter[str]:
        counts, clients = self.world.counts, self.cluster.clients
        reference = self.cluster.checker.reference
        counts["virtual milliseconds"] = round((self.world.now - self.world.started_s) * 1000)
        counts["entries"] = reference.applied
        counts["cold starts"] = reference.cold_starts
        counts["published"] = sum(len(client.published) for client in clients)
        counts["stored"] = sum(len(client.stored) for client in clients)
        counts["delivered"] = sum(client.deliveries for client in clients)
        return counts


class Failure(NamedTuple):
    """Why a run failed."""

    kind: str
    """The violated invariant, or the name of the exception."""
    text: str
    at_s: float
    executed_acts: tuple[int, ...]
    """Numbers of the acts executed before the failure."""


class Outcome(NamedTuple):
    """The result of a run."""

    case: Case
    counts: Counter[str]
    failure: Failure | None


def attempt(case: Case, *, trace: list[str] | None = None, until_s: float = float("inf")) -> Outcome:
    """Run a case and return its outcome, also if it fails. See `Run`."""
    run = Run(case, trace=trace)
    try:
        return Outcome(case, run.run(until_s=until_s), None)
    except BROKEN as error:
        kind = error.kind if isinstance(error, ViolationError) else type(error).__name__
        text = f"{type(error).__name__}: {error}"
        failure = Failure(kind, text, run.world.now - run.world.started_s, tuple(run.executed_acts))
        return Outcome(case, run.world.counts, failure)


def run_cluster(
    seed: int, profile: Profile, *, nodes: int | None = None, trace: list[str] | None = None
) -> Counter[str]:
    """Run one seed. See `Case` and `Run`."""
    return Run(Case(seed, profile, nodes), trace=trace).run()
