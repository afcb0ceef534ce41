"""What is being done to the nodes just now, and so what may be demanded of them.

A fault *holds* a node from when it goes for its process (to kill it, to stop it, to fill its disk) until the
process runs again; a node is held by one fault at a time. It is *down* meanwhile, but for one whose disk is
full: that may go on, and lead, until it needs room. A direction between two nodes may be cut by several
faults, and is whole again when all of them have ended.

A *circle* is a majority of the nodes of which nobody is down and where each reaches each, both ways. Where
there is a circle there has to be a leader, soon; where there is none, nothing is demanded but that no promise
is broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations


@dataclass(slots=True)
class Standing:
    """Of one cluster."""

    names: Sequence[str]
    held: set[str] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    cuts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Directions that are cut, and by how many faults."""
    fresh: set[str] = field(default_factory=set)
    """Killed since all were last well: what clients saw of them before, they needn't know."""
    version: int = 0
    """Another with each change."""

    @property
    def majority(self) -> int:
        return len(self.names) // 2 + 1

    @property
    def free(self) -> list[str]:
        """Whose process nobody holds."""
        return [name for name in self.names if name not in self.held]

    @property
    def up(self) -> list[str]:
        return [name for name in self.names if name not in self.down]

    def hold(self, names: Iterable[str]) -> None:
        names = set(names)
        assert not names & self.held
        self.held |= names

    def fell(self, names: Iterable[str], *, kills: bool = False) -> None:
        """They are down, and if ``kills``, will have forgotten what isn't on their disks."""
        self.down |= set(names)
        if kills:
            self.fresh |= set(names)
        self.version += 1

    def rose(self, names: Iterable[str]) -> None:
        """They run again, and nobody holds them."""
        self.held -= set(names)
        self.down -= set(names)
        self.version += 1

    def cut(self, directions: Iterable[tuple[str, str]]) -> None:
        self.cuts.update(directions)
        self.version += 1

    def mend(self, directions: Iterable[tuple[str, str]]) -> None:
        self.cuts = +(self.cuts - Counter(directions))
        self.version += 1

    def all_well(self) -> None:
        """All were seen to be ready, and nothing is being done."""
        assert not self.held
        assert not self.cuts
        self.fresh.clear()

    def circles(self) -> list[tuple[str, ...]]:
        """The larger ones first."""
        up = self.up
        return [
            circle
            for size in range(len(up), self.majority - 1, -1)
            for circle in combinations(up, size)
            if all(self._reach(a, b) for a, b in combinations(circle, 2))
        ]

    def may_start_cold(self) -> bool:
        """Whether a majority might elect a leader and none of it, or that it hears, was there before."""
        old = [name for name in self.up if name not in self.fresh]
        return any(
            self.fresh.issuperset(circle) and not self._heard(old, circle) for circle in self.circles()
        )

    def _heard(self, old: Iterable[str], circle: Collection[str]) -> bool:
        return any(all(self._reach(name, other) for other in circle) for name in old)

    def _reach(self, one: str, other: str) -> bool:
        return (one, other) not in self.cuts and (other, one) not in self.cuts
