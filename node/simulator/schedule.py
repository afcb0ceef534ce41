"""The schedule of a run: acts (faults and operator actions) with their times, drawn before the run begins.

Each act has a number and its own random generator. So any part of a schedule can be left out, and the rest
happens as before, at the same times and with the same parameters. That makes it possible to shrink a failing
schedule (`node.simulator.shrink`); the numbers of the remaining acts are enough to repeat the run.

The profile decides how often each kind of act happens: acts per second of virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import count
from typing import NamedTuple

NODES = ("crash", "power", "majority", "all", "blackout", "pause", "leave", "hand over")
"""Processes crash, alone or many at once, with or without power; pause; shut down; transfer leadership."""
LINKS = ("cut", "partition", "isolate", "storm")
"""Connections break, directions are blocked, consensus frames are lost, duplicated and reordered."""
DISKS = ("slow disk", "slow disks", "sync error", "write error", "full disk", "rot", "rotten store")
CLOCKS = ("set clock",)
CLIENTS = ("drop", "stall", "close", "unsubscribe", "die")

SNAPSHOTS = ("mid snapshot",)
"""A fault hits a snapshot in transit, or its sender or receiver."""

MEMBERS = ("add", "remove", "replace", "lost for good")
"""Machines join the cluster and leave it for good; "lost for good": all but one, which is then recovered."""

KINDS = (*MEMBERS, *SNAPSHOTS, *NODES, *LINKS, *DISKS, *CLOCKS, *CLIENTS)

NEED_OTHERS = frozenset({"majority", "hand over", *LINKS, *MEMBERS, *SNAPSHOTS, "rot", "rotten store"})
"""Acts that a single node can't have or can't survive."""


class Act(NamedTuple):
    """A scheduled fault or operator action."""

    number: int
    at_s: float
    """Seconds after the warm-up."""
    kind: str

    def rng(self, seed: int) -> random.Random:
        """Return the generator that chooses the victim and the severity."""
        return random.Random(f"{seed}/act {self.number}")  # noqa: S311  # to be repeated, not secret


def rates(per_second: float = 1.0, **kinds: float) -> dict[str, float]:
    """Return acts per second by kind, from weights; ``_`` stands for a space."""
    weights = {kind.replace("_", " "): weight for kind, weight in kinds.items()}
    unknown = weights.keys() - set(KINDS)
    assert not unknown, unknown
    total = sum(weights.values())
    return {kind: per_second * weight / total for kind, weight in weights.items()}


def draw(seed: int, rates: Mapping[str, float], nodes: int, seconds: float) -> list[Act]:
    """Draw all acts of the first ``seconds`` seconds."""
    rng = random.Random(f"{seed}/schedule")  # noqa: S311  # to be repeated, not secret
    kinds = [kind for kind in KINDS if rates.get(kind, 0) > 0 and (nodes > 1 or kind not in NEED_OTHERS)]
    weights = [rates[kind] for kind in kinds]
    acts: list[Act] = []
    at_s = 0.0
    for number in count():
        if not kinds:
            break
        at_s += rng.expovariate(sum(weights))
        if at_s >= seconds:
            break
        acts.append(Act(number, at_s, rng.choices(kinds, weights)[0]))
    return acts
