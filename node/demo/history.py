"""The events that clients observed, recorded for the checker.

All times are seconds of one monotonic clock, that of the demo's process. A *link* is one TCP connection of a
client to a node. A *cursor* is a subscription or a queue group with all its members: it receives each message
once, and again until the message is acknowledged.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias


class Link(NamedTuple):
    """A connection of a client to a node."""

    client: str
    number: int
    node: str


class Delivery(NamedTuple):
    """The arrival of a message."""

    at_s: float
    subscriber: str
    link: Link
    resends: int
    """The redelivery count of the message: 0 at first."""
    flagged: bool
    """The message has the redelivered flag."""


class Receipt(NamedTuple):
    """A publish by which a subscriber finds out what the cluster has committed (see `History.committed`)."""

    sent_s: float
    answered_s: float


class Ack(NamedTuple):
    """An acknowledgement was written to a link."""

    at_s: float
    subscriber: str
    link: Link


Event: TypeAlias = Delivery | Ack


@dataclass(slots=True)
class Cursor:
    """A subscription or queue group, and the events of its messages."""

    name: str
    channel: str
    ack_wait_s: float
    is_group: bool = False
    is_measured: bool = False
    """Its subscriber holds messages back, so that AckWait can be measured."""
    events: dict[int, list[Event]] = field(default_factory=dict)
    """By sequence, in order of time."""


@dataclass(slots=True)
class Hit:
    """A kill or pause of a node."""

    node: str
    kind: Literal["kill", "pause"]
    at_s: float
    role: str
    resumed_s: float | None = None
    """End of a pause. None after a kill: the node gets another process."""
    ready_s: float | None = None
    """When the next leader was ready: it had applied the no-op of its term. None: not yet."""
    new_leader: str = ""
    term: int = 0

    @property
    def is_leaders(self) -> bool:
        return self.role == "leader"


@dataclass(slots=True)
class History:
    """The events, in the order in which they happened."""

    cursors: dict[str, Cursor] = field(default_factory=dict)
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """By channel and message: the time just before the publish was handed to a connection."""
    stored: dict[str, dict[str, float]] = field(default_factory=dict)
    """By channel and message: the time of the publish acknowledgement."""
    refused: list[str] = field(default_factory=list)
    """Publishes answered with an error."""
    declined: dict[str, set[str]] = field(default_factory=dict)
    """By channel: messages that a node refused because there was no leader (R8). They must not be stored."""
    messages: dict[str, dict[int, str]] = field(default_factory=dict)
    """By channel and sequence: the message that a subscriber received with it."""
    contradictions: list[str] = field(default_factory=list)
    """Observations that contradict each other."""
    made: dict[Link, float] = field(default_factory=dict)
    """When a connection was established."""
    broken: dict[Link, float] = field(default_factory=dict)
    """When the end of a connection was noticed."""
    ended: dict[str, float] = field(default_factory=dict)
    """When a subscriber was killed."""
    hits: list[Hit] = field(default_factory=list)
    receipts: dict[Link, list[Receipt]] = field(default_factory=dict)
    """By connection; each was sent after the previous one was answered."""
    waits: dict[float, float] = field(default_factory=dict)
    """How long publishes waited for their acknowledgements, by the time of the acknowledgement."""
    is_settled: bool = True
    """Whether, at the end, no node had an unacknowledged message."""

    def add_cursor(self, cursor: Cursor) -> Cursor:
        assert cursor.name not in self.cursors
        self.cursors[cursor.name] = cursor
        return cursor

    def publishing(self, channel: str, message: str, at_s: float) -> None:
        self.published.setdefault(channel, {})[message] = at_s

    def receipt(self, link: Link, sent_s: float, answered_s: float) -> None:
        self.receipts.setdefault(link, []).append(Receipt(sent_s, answered_s))

    def committed(self, ack: Ack) -> float | None:
        """Return when an acknowledgement was known to be committed; None if it never was.

        A node may reorder what it read in one go: acknowledgements after a publish. So the first receipt sent
        after the acknowledgement shows that the node has read it. The second, sent after the first was
        answered, shows that it is in the log.
        """
        receipts = self.receipts.get(ack.link, [])
        first = bisect_left(receipts, ack.at_s, key=lambda receipt: receipt.sent_s)
        return receipts[first + 1].answered_s if first + 1 < len(receipts) else None

    def knows_since(self, link: Link, since_s: float, at_s: float) -> bool:
        """Return whether the node of a link had applied everything committed by ``since_s`` before ``at_s``.

        It had if a receipt that was sent after ``since_s`` was answered through this link before ``at_s``.
        """
        receipts = self.receipts.get(link, [])
        first = bisect_left(receipts, since_s, key=lambda receipt: receipt.sent_s)
        return first < len(receipts) and receipts[first].answered_s <= at_s

    def longest_wait(self, from_s: float, to_s: float) -> float:
        """Return the longest time that a publish waited after ``from_s``, if published by ``to_s``."""
        waits = (
            at_s - max(from_s, at_s - wait_s)
            for at_s, wait_s in self.waits.items()
            if at_s >= from_s and at_s - wait_s <= to_s
        )
        return max(waits, default=0.0)

    def answered(self, channel: str, message: str, error: str, at_s: float) -> None:
        published_s = self.published.get(channel, {}).get(message)
        if published_s is not None:
            self.waits[at_s] = max(at_s - published_s, self.waits.get(at_s, 0.0))
        if error:
            self.refused.append(f"{channel} {message}: {error}")
        else:
            self.stored.setdefault(channel, {})[message] = at_s

    def was_declined(self, channel: str, message: str) -> None:
        self.declined.setdefault(channel, set()).add(message)

    def received(self, cursor: Cursor, seq: int, message: str, delivery: Delivery) -> Delivery | None:
        """Record a delivery; return the previous delivery of the same sequence, if any."""
        messages = self.messages.setdefault(cursor.channel, {})
        first = messages.setdefault(seq, message)
        if first != message:
            text = f"{cursor.channel} {seq} is {first}, but {message} for {cursor.name}"
            self.contradictions.append(text)
        events = cursor.events.setdefault(seq, [])
        before = next((event for event in reversed(events) if isinstance(event, Delivery)), None)
        events.append(delivery)
        return before

    def acked(self, cursor: Cursor, seq: int, ack: Ack) -> None:
        cursor.events.setdefault(seq, []).append(ack)

    def link_made(self, link: Link, at_s: float) -> None:
        self.made[link] = at_s

    def link_broke(self, link: Link, at_s: float) -> None:
        self.broken.setdefault(link, at_s)
