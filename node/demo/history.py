"""What happened, as clients saw it: the facts that the checker judges.

All times are seconds of one monotonic clock, read in one process: the demo's. A *link* is one TCP
connection of a client to a node. A *cursor* is what a message is delivered to once, and again until it is
acknowledged: a subscription, or a queue group with all its members.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias


class Link(NamedTuple):
    """One connection."""

    client: str
    number: int
    node: str


class Delivery(NamedTuple):
    """A message came in."""

    at_s: float
    subscriber: str
    link: Link
    resends: int
    """As the message says: 0 at first, then how often it was sent before."""
    flagged: bool
    """The message says that it is redelivered."""


class Receipt(NamedTuple):
    """A publish by which a subscriber learns what the cluster has committed of what it sent before."""

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
    """Everything about one subscription or queue group."""

    name: str
    channel: str
    ack_wait_s: float
    is_group: bool = False
    is_measured: bool = False
    """Its subscriber holds messages back on purpose, so that their AckWait can be measured."""
    events: dict[int, list[Event]] = field(default_factory=dict)
    """By sequence, in order of time."""


@dataclass(slots=True)
class Hit:
    """A node was killed, or paused."""

    node: str
    kind: Literal["kill", "pause"]
    at_s: float
    role: str
    resumed_s: float | None = None
    """A pause ended. A killed process does not come back; another one may take its place."""
    ready_s: float | None = None
    """The next leader was ready: the no-op of its term was applied. None: nobody yet."""
    new_leader: str = ""
    term: int = 0

    @property
    def is_leaders(self) -> bool:
        return self.role == "leader"


@dataclass(slots=True)
class History:
    """The facts, in the order in which they happened."""

    cursors: dict[str, Cursor] = field(default_factory=dict)
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """By channel and message: when it was handed to a connection, before any node can have seen it."""
    stored: dict[str, dict[str, float]] = field(default_factory=dict)
    """When the publish was acknowledged."""
    refused: list[str] = field(default_factory=list)
    """Publishes that were answered with an error."""
    declined: dict[str, set[str]] = field(default_factory=dict)
    """By channel: messages that a node refused because there was no leader (R8). They must not be stored."""
    messages: dict[str, dict[int, str]] = field(default_factory=dict)
    """By channel and sequence: the message that some subscriber received under it."""
    contradictions: list[str] = field(default_factory=list)
    """Facts about sequences that can't both be true."""
    made: dict[Link, float] = field(default_factory=dict)
    """When a connection stood."""
    broken: dict[Link, float] = field(default_factory=dict)
    """When a connection was seen to end."""
    ended: dict[str, float] = field(default_factory=dict)
    """Subscribers that were killed."""
    hits: list[Hit] = field(default_factory=list)
    receipts: dict[Link, list[Receipt]] = field(default_factory=dict)
    """By the connection; each was sent after the one before it was answered."""
    waits: dict[float, float] = field(default_factory=dict)
    """How long publishes waited for their acknowledgement, by when that came."""
    is_settled: bool = True
    """In the end the nodes said that nothing is unacknowledged any more."""

    def add_cursor(self, cursor: Cursor) -> Cursor:
        assert cursor.name not in self.cursors
        self.cursors[cursor.name] = cursor
        return cursor

    def publishing(self, channel: str, message: str, at_s: float) -> None:
        self.published.setdefault(channel, {})[message] = at_s

    def receipt(self, link: Link, sent_s: float, answered_s: float) -> None:
        self.receipts.setdefault(link, []).append(Receipt(sent_s, answered_s))

    def committed(self, ack: Ack) -> float | None:
        """When it was sure that an acknowledgement is committed; None if it never was.

        A node may put what it read together in another order, acknowledgements behind a publish. So one
        receipt shows that the acknowledgement was read, and the next, sent after that was answered, that it
        is in the log.
        """
        receipts = self.receipts.get(ack.link, [])
        first = bisect_left(receipts, ack.at_s, key=lambda receipt: receipt.sent_s)
        return receipts[first + 1].answered_s if first + 1 < len(receipts) else None

    def knows_since(self, link: Link, since_s: float, at_s: float) -> bool:
        """Whether a node knew all that was committed by ``since_s`` when it sent what came at ``at_s``.

        It did if a receipt that was sent later had been answered through the same connection before: the
        node had applied an entry behind all that.
        """
        receipts = self.receipts.get(link, [])
        first = bisect_left(receipts, since_s, key=lambda receipt: receipt.sent_s)
        return first < len(receipts) and receipts[first].answered_s <= at_s

    def longest_wait(self, from_s: float, to_s: float) -> float:
        """The longest that a publish waited after ``from_s``, of those published up to ``to_s``."""
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
        """Note a delivery. Returns the one before it of the same sequence, if there was one."""
        messages = self.messages.setdefault(cursor.channel, {})
        known = messages.setdefault(seq, message)
        if known != message:
            self.contradictions.append(f"{cursor.channel} {seq} is {known} and, to {cursor.name}, {message}")
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
