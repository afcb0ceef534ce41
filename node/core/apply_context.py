"""The entry that is being applied: its index, its time, and its effects so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.units import Generation, Seq

from .effects import Effects
from .state import Channel, State


@dataclass(slots=True)
class Publishing:
    """The messages that the entry publishes to one channel.

    ``channels.settle`` appends them to the log together.
    """

    channel: Channel
    first: Seq
    bodies: list[bytes] = field(default_factory=list)
    settled: int = 0
    """Number of bodies that are in the log already."""


@dataclass(slots=True)
class ApplyContext:
    """The entry that is being applied. Its time is the only clock."""

    state: State
    index: int
    time_ns: int
    """Cluster time."""
    timestamp_ns: int
    """Unix time."""
    effects: Effects
    session: Generation | None = None
    """The session whose commands are being applied."""
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    """Published bodies by channel, in order of first use: the ``bodies`` of ``publishing``."""
    publishing: dict[str, Publishing] = field(default_factory=dict)
    created: int = 0
    looks: int = 0
    """Number of records examined to find due messages (R19)."""
    behind: bool = False
    """There are more due subscriptions than this entry has found."""

    def generation(self) -> Generation:
        """Return the generation of a new object: this entry's index, and a number within the entry."""
        self.created += 1
        return (self.index, self.created)
