"""What will go wrong in a run: acts with their times, drawn before the run begins.

Each act has a number and chance of its own, so any part of a schedule can be left out and the rest
happens as before, at the same moments and to the same degree. That makes a failing schedule one that
can be shrunk (`node.simulator.shrink`), and the numbers of the acts that are left are all it takes
to see the same run again.

How often what happens is a profile's business: acts a second of virtual time, by kind.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import count
from typing import NamedTuple

NODES = ("crash", "power", "majority", "all", "blackout", "pause", "leave", "hand over")
"""Processes die, alone or many at once, with their power or without; stand still; leave; give way."""
LINKS = ("cut", "partition", "isolate", "storm")
"""Connections break, directions are blocked, consensus frames are lost, doubled and reordered."""
DISKS = ("slow disk", "slow disks", "sync error", "write error", "full disk", "rot", "rotten store")
CLOCKS = ("set clock",)
CLIENTS = ("drop", "stall", "close", "unsubscribe", "die")

SNAPSHOTS = ("mid snapshot",)
"""Something happens to a snapshot that is on its way."""

MEMBERS = ("add", "remove", "replace", "lost for good")
"""Machines join the cluster and leave it for good; all but one do, and that one's data becomes another's."""

KINDS = (*MEMBERS, *SNAPSHOTS, *NODES, *LINKS, *DISKS, *CLOCKS, *CLIENTS)

NEED_OTHERS = frozenset({"majority", "hand over", *LINKS, *MEMBERS, *SNAPSHOTS, "rot", "rotten store"})
"""What can't happen to a node alone, or what it couldn't survive."""


class Act(NamedTuple):
    """Something that goes wrong."""

    number: int
    at_s: float
    """After the warm-up."""
    kind: str

    def chance(self, seed: int) -> random.Random:
        """What decides who is hit and how badly."""
        return random.Random(f"{seed}/act {self.number}")  # noqa: S311  # to be repeated, not secret


def rates(per_second: float = 1.0, **kinds: float) -> dict[str, float]:
    """Acts a second by kind, from weights; ``_`` stands for a space."""
    weights = {kind.replace("_", " "): weight for kind, weight in kinds.items()}
    unknown = weights.keys() - set(KINDS)
    assert not unknown, unknown
    total = sum(weights.values())
    return {kind: per_second * weight / total for kind, weight in weights.items()}


def draw(seed: int, rates: Mapping[str, float], nodes: int, seconds: float) -> list[Act]:
    """All that goes wrong within so many seconds."""
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
