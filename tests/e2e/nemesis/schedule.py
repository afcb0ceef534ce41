"""Which faults there will be, when, and for how long: all of it drawn from the seed.

Faults come in rounds. Those of one round overlap: each begins while the one before it is still in effect, so
up to `AT_ONCE` are in effect at a time (and one of them may kill two leaders). That is the bound: a round
ends, everything is made well, and all nodes have to be ready again before the next one begins. What may be
demanded meanwhile, `standing.py` knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

SIZES = (1, 2, 2, 3, 3)
"""Of rounds, as often as they stand here."""

AT_ONCE = max(SIZES)

DEAD_S = (0.2, 3.0)
PAUSED_S = (1.5, 4.0)  # longer than any election takes
CUT_S = (1.5, 7.0)  # longer, at times, than a node alone keeps its clients
CALM_S = (0.3, 1.5)

SUITS: tuple[tuple[tuple[float, float], tuple[str, ...]], ...] = (
    (
        DEAD_S,
        (
            "kill the leader",
            "kill a follower",
            "kill a majority",
            "kill all",
            "kill the leader and the next",
        ),
    ),
    (
        CUT_S,
        (
            "cut off the leader",
            "let nothing out of the leader",
            "let nothing into the leader",
            "cut off a follower",
            "let nothing out of a follower",
            "cut off a minority with the leader",
            "cut leader and a follower apart",
        ),
    ),
    (PAUSED_S, ("pause the leader", "pause a follower")),
    (DEAD_S, ("fill a follower's disk", "fill the leader's disk")),
)
"""For how long, in seconds, and what. A full disk: for how long the node stays away when it has stopped."""


class Planned(NamedTuple):
    """One fault of a round."""

    fault: str
    after_s: float
    """From the beginning of its round."""
    for_s: float
    seed: int
    """Decides which nodes it meets, where the fault's name leaves that open."""


class Round(NamedTuple):
    """Faults that overlap, and how long nothing is done when they are over."""

    faults: tuple[Planned, ...]
    calm_s: float

    @property
    def length_s(self) -> float:
        """Without what nodes then need to be ready."""
        return max(planned.after_s + planned.for_s for planned in self.faults) + self.calm_s


def deck(chance: random.Random) -> Iterator[tuple[str, float]]:
    """Every fault once, and its length: deaths, cuts, pauses and full disks in turn, shuffled."""
    suits = [[(name, bounds) for name in names] for bounds, names in SUITS]
    for suit in suits:
        chance.shuffle(suit)
    chance.shuffle(suits)
    while any(suits):
        for suit in suits:
            if suit:
                name, bounds = suit.pop()
                yield name, chance.uniform(*bounds)


def rounds(chance: random.Random) -> Iterator[Round]:
    """For ever."""
    cards = (card for _ in iter(int, 1) for card in deck(chance))
    while True:
        faults: list[Planned] = []
        after_s = 0.0
        for name, for_s in islice(cards, chance.choice(SIZES)):
            faults.append(Planned(name, after_s, for_s, chance.getrandbits(32)))
            after_s += chance.uniform(0, for_s)
        yield Round(tuple(faults), chance.uniform(*CALM_S))
