"""One entry being applied: where it stands, what time it is, what it has asked for so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.units import Generation, Seq

from .effects import Effects
from .state import Channel, State


@dataclass(slots=True)
class Publishing:
    """What the entry publishes to one channel. Its messages reach the log together, late (``settle``)."""

    channel: Channel
    first: Seq
    bodies: list[bytes] = field(default_factory=list)
    settled: int = 0
    """How many of the bodies the log has."""


@dataclass(slots=True)
class ApplyContext:
    """One entry being applied. The only time there is, is its own."""

    state: State
    index: int
    time_ns: int
    """Cluster time."""
    timestamp_ns: int
    """Unix time."""
    effects: Effects
    session: Generation | None = None
    """Whose commands are being applied."""
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    """What is published to each channel, in order of first touch: ``publishing`` without the rest."""
    publishing: dict[str, Publishing] = field(default_factory=dict)
    created: int = 0
    looks: int = 0
    """How many records it has looked at to find what is due (R19)."""
    behind: bool = False
    """More subscriptions have something due than this entry has found."""

    def generation(self) -> Generation:
        """A new thing's generation: this entry, and how many it had created before."""
        self.created += 1
        return (self.index, self.created)
