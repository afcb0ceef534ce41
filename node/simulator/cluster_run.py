"""One run of a simulated cluster: which one, what came of it, and how to ask for the same again."""

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
"""So long after everything has healed, all must be delivered and acknowledged."""

NODES = (1, 3, 3, 3, 5)
"""How many there are, if nobody says: one of these."""

BROKEN = (ViolationError, StandstillError, NodeError, AssertionError, LookupError, RecursionError)
"""What a run may end with: the nodes' own assertions and errors are checkers too."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run: everything that decides it."""

    seed: int
    profile: Profile
    nodes: int | None = None
    """None: 1, 3 or 5, by the seed."""
    acts: tuple[int, ...] | None = None
    """Numbers of the acts that happen; None: all."""
    clients: tuple[int, ...] | None = None
    """Numbers of the clients that are there; None: all."""

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return self.nodes or World(self.seed).rng.choice(NODES)

    def schedule(self) -> list[Act]:
        """What happens."""
        acts = draw(self.seed, self.profile.rates, self.size, self.profile.trouble_s)
        return [act for act in acts if self.acts is None or act.number in self.acts]

    def present(self) -> tuple[int, ...]:
        """The clients that are there."""
        return tuple(range(len(HABITS))) if self.clients is None else self.clients

    def command(self) -> str:
        """The command that shows this run."""
        known = PROFILES.get(self.profile.name, self.profile)
        words = [f"stanchion simulate --first-seed {self.seed} --seeds 1 --profile {self.profile.name}"]
        words.append(f"--nodes {self.size}")
        if self.profile.seconds != known.seconds:
            words.append(f"--seconds {self.profile.seconds:g}")
        for kind in sorted({*self.profile.rates, *known.rates}):
            rate = self.profile.rates.get(kind, 0.0)
            if rate != known.rates.get(kind, 0.0):
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
    def struck(self) -> list[int]:
        """Numbers of the acts that have happened so far."""
        return self.cluster.adversary.struck

    def run(self, *, until_s: float = float("inf")) -> Counter[str]:
        """Let things break for a while, heal, and look. Returns what happened how often.

        Args:
            until_s: if that is before everything heals, the run is over then.

        Raises:
            ViolationError: a promise is broken. So may whatever else `BROKEN` names tell.
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
        troubled_s = WARM_UP_S + self.case.profile.trouble_s
        world.run(min(troubled_s, until_s))
        if until_s < troubled_s:
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
    """How a run ended that should have gone well."""

    kind: str
    """Which promise is broken; or the name of the exception."""
    text: str
    at_s: float
    struck: tuple[int, ...]
    """Numbers of the acts that had happened."""


class Outcome(NamedTuple):
    """What came of a run."""

    case: Case
    counts: Counter[str]
    failure: Failure | None


def attempt(case: Case, *, trace: list[str] | None = None, until_s: float = float("inf")) -> Outcome:
    """Run a case; a broken promise is an outcome. See `Run`."""
    run = Run(case, trace=trace)
    try:
        return Outcome(case, run.run(until_s=until_s), None)
    except BROKEN as error:
        kind = error.kind if isinstance(error, ViolationError) else type(error).__name__
        text = f"{type(error).__name__}: {error}"
        failure = Failure(kind, text, run.world.now - run.world.started_s, tuple(run.struck))
        return Outcome(case, run.world.counts, failure)


def run_cluster(
    seed: int, profile: Profile, *, nodes: int | None = None, trace: list[str] | None = None
) -> Counter[str]:
    """Run one seed: see `Case` and `Run`."""
    return Run(Case(seed, profile, nodes), trace=trace).run()
