"""The model of the live screen, filled by the script and the watchers. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

LINES_MAX: Final = 40
TOGETHER_S: Final = 0.4
"""Redeliveries for the same reason to the same subscriber within this time share a line."""


@dataclass(frozen=True, slots=True)
class Line:
    """An event on the timeline."""

    at_s: float
    kind: str
    """``kill``, ``pause``, ``election``, ``client``, ``phase``."""
    text: str


@dataclass(slots=True)
class Redelivery:
    """Messages redelivered to one subscriber for one reason, at about the same time."""

    at_s: float
    reason: str
    subscriber: str
    cursor: str
    seqs: list[int]


@dataclass(slots=True)
class NodeView:
    """The state of a node: its process and its monitoring pages."""

    name: str
    role: str = "down"
    term: int = 0
    commit: int = 0
    applied: int = 0
    last: int = 0
    clients: int = 0
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Countdown:
    """An unacknowledged message in the cluster's state."""

    cursor: str
    seq: int
    ack_wait_s: float
    deliveries: int
    due_s: float
    """On the demo's clock."""


@dataclass(slots=True)
class Show:
    """Everything on the screen."""

    started_s: float
    seed: int
    phase: str = "starting three nodes"
    nodes: dict[str, NodeView] = field(default_factory=dict)
    channels: list[dict[str, Any]] = field(default_factory=list)
    """From a node's page: name, msgs, bytes, last_seq, subs_count."""
    seen_by: str = ""
    """The node that served the page."""
    countdowns: list[Countdown] = field(default_factory=list)
    timeline: deque[Line] = field(default_factory=lambda: deque(maxlen=LINES_MAX))
    redeliveries: deque[Redelivery] = field(default_factory=lambda: deque(maxlen=LINES_MAX))
    reasons: Counter[str] = field(default_factory=Counter)
    rates: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Per second: acknowledged publishes, deliveries, acknowledgements."""
    unanswered: int = 0
    leaderless_since_s: float | None = None

    def happened(self, at_s: float, kind: str, text: str) -> Line:
        line = Line(at_s, kind, text)
        self.timeline.append(line)
        return line

    def redelivered(self, at_s: float, reason: str, subscriber: str, cursor: str, seq: int) -> None:
        self.reasons[reason] += 1
        for known in reversed(self.redeliveries):
            if at_s - known.at_s > TOGETHER_S:
                break
            if (known.reason, known.subscriber, known.cursor) == (reason, subscriber, cursor):
                known.seqs.append(seq)
                return
        self.redeliveries.append(Redelivery(at_s, reason, subscriber, cursor, [seq]))


@dataclass(slots=True)
class Slots:
    """Chooses the unacknowledged messages that are shown: a few, each until it is acknowledged.

    A list of the next due messages would change all the time. No single message could be seen counting down
    across a kill.
    """

    size: int
    chosen: dict[tuple[str, float], list[int]] = field(default_factory=dict)

    def choose(self, cursor: str, ack_wait_s: float, unacked: dict[int, int]) -> list[int]:
        """Return the sequences to show for one subscription.

        Args:
            cursor: the subscription.
            ack_wait_s: its AckWait.
            unacked: deliveries by sequence, in order of their due time.
        """
        kept = [seq for seq in self.chosen.get((cursor, ack_wait_s), []) if seq in unacked]
        newest_first = [seq for seq in reversed(unacked) if seq not in kept]
        while len(kept) < self.size and newest_first:
            kept.append(newest_first.pop(0))
            newest_first = newest_first[max(1, len(newest_first) // self.size) :]
        self.chosen[cursor, ack_wait_s] = kept
        return sorted(kept)
