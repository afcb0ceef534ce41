"""What clients saw while nodes were hurt, and which of the cluster's promises that breaks.

Deliveries, acknowledgements and links are recorded as the demo has them. One clock, trio's, for everything.
A *cursor* is a subscription, or a queue group with all its members; a *trouble* is something that was done to
nodes. Troubles may overlap; each excuses what it may have caused itself, and no more. The rules:

**lost**: every publish that was acknowledged reaches every cursor of its channel; so does everything below
what a cursor has reached. **diverged**: a sequence is one message, a message one sequence, to everybody.
**order**: what comes to a subscriber for the first time, unflagged, comes in order of sequence.
**flag**: a message whose cursor was sent it before says so, and how often; no count comes twice, and to one
subscriber counts rise. **acked**: nothing comes again a second after it was acknowledged. **early**: what a
subscriber holds comes again, to it or to another, when its AckWait has passed and not before.
**late**: what was stored comes to a client that is connected and reads within `PROMPT_S`, from when it
is connected to the node that it comes from, and somebody leads. A message that died with its node does not
wait for its AckWait. Of a group only what nobody else was sent before.
**refused**: no publish is answered with an error, but for want of a leader or of disk space while nodes are
hurt; and then it is never stored. **session**: no client loses its session.
**progress**: see `run.py`.

What excuses: the bytes in the buffers of a node that stood still leave it when it goes on (`STALE_S`), and
one that was cut off may not know yet what was decided a moment ago (`LAG_S`). What was sent to a subscriber
over a link that breaks, or that has just taken the place of one that broke, or whose node is hurt, may never
have come, so it may come again at once. An acknowledgement that was given to a node which died within a
second, or whose link broke, may have died too; one given to a node that was cut off or stood still, or while
nobody led, counts from when that was over. After the death of all nodes everything unacknowledged is due.

All bounds are for a quiet machine, and are multiplied by the run's factor (`pace.py`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from e2e.nemesis.pace import Pace

from node.core import refusals
from node.demo.history import Ack, Delivery, Event, Link

WHOEVER_LEADS = "*"
"""The node of a client that is connected to an external NATS server. While nobody leads, nobody takes what
such a client sends: it is lost."""

UNAVAILABLE = (refusals.NO_LEADER, "stan: no space left")
"""How refusals begin that a client may repeat: nothing was stored."""

ACKED_S = 1.0
"""So long after it was given, an acknowledgement counts."""

STALE_S = 1.0
"""So long a node that stood still may go on emptying its buffers."""

LAG_S = 0.5
"""So much later than others a node may learn what was decided when it has just been hurt."""

DISTURBED_S = 1.0
"""What was sent so shortly before a link broke or a node was hurt may not have arrived."""

BACK_S = 1.0
"""So long after its client is back, the cluster may not have noticed, and what is sent may come twice."""

PROMPT_S = 1.0
"""So soon a message comes, on a quiet machine: times the run's factor, without the time by which this process
woke up late (`pace.py`)."""

EARLY_S = 0.5
"""A client can't know when it was sent what it got: the test's own process may have kept it waiting."""

EARLY_MAX_S = 1.0
"""However slow the machine: half of the shortest AckWait."""


@dataclass(slots=True)
class Trouble:
    """Something was done to nodes."""

    what: str
    nodes: frozenset[str]
    began_s: float
    kills: bool = False
    """They died, so what was given to them may have died too."""
    died_s: float = math.inf
    """They were dead: what is given to them later is given to other processes."""
    stops: bool = False
    """They stood still."""
    is_cold: bool = False
    """None was left that knew what had been sent: everything unacknowledged is due."""
    has_ended: bool = False
    """Nothing is done to them any more, but they may still feel it."""
    led_s: float = math.inf
    """Somebody led again, or still, those that were not hurt."""
    over_s: float = math.inf
    """They were well again, as were those that they had been cut off from."""

    @property
    def is_led(self) -> bool:
        return self.led_s < math.inf

    def until_s(self, node: str) -> float:
        """When it was over for a client of a node."""
        return self.over_s if self.concerns(node) else self.led_s

    def concerns(self, node: str) -> bool:
        """Whether a client of ``node`` feels it."""
        return node == WHOEVER_LEADS or node in self.nodes


@dataclass(slots=True)
class Cursor:
    """A subscription, or a queue group."""

    name: str
    channel: str
    ack_wait_s: float
    is_group: bool = False
    """Several subscribers share it, and some of them die."""
    events: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By sequence, in order of time."""
    firsts: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    """By subscriber: what came unflagged, in order of time."""


class Violation(NamedTuple):
    """A promise that was broken."""

    at_s: float
    rule: str
    text: str


@dataclass(slots=True)
class History:
    """The facts."""

    cursors: dict[str, Cursor] = field(default_factory=dict)
    published_s: dict[str, float] = field(default_factory=dict)
    """By message: when it was handed to a connection."""
    stored_s: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By message: its channel, and when its publish was acknowledged."""
    refused_s: dict[str, float] = field(default_factory=dict)
    """By message: when its publish was refused for want of a leader or of disk space."""
    messages: dict[tuple[str, int], str] = field(default_factory=dict)
    """By channel and sequence."""
    sequences: dict[str, tuple[str, int]] = field(default_factory=dict)
    made_s: dict[Link, float] = field(default_factory=dict)
    broken_s: dict[Link, float] = field(default_factory=dict)
    gone_s: dict[str, float] = field(default_factory=dict)
    """Subscribers that were killed."""
    troubles: list[Trouble] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    slowest_s: float = 0.0
    """The slowest delivery that the rule **late** checks, to a client whose node had died."""
    found: list[Violation] = field(default_factory=list)
    """What was seen to be wrong at once."""

    def cursor(self, name: str, channel: str, ack_wait_s: float, *, is_group: bool = False) -> Cursor:
        return self.cursors.setdefault(name, Cursor(name, channel, ack_wait_s, is_group))

    def broke(self, at_s: float, rule: str, text: str) -> None:
        self.found.append(Violation(at_s, rule, text))

    def answered(self, channel: str, message: str, error: str, at_s: float) -> None:
        if error.startswith(UNAVAILABLE):
            self.refused_s[message] = at_s
        elif error:
            self.broke(at_s, "refused", f"{message} on {channel}: {error}")
        else:
            self.stored_s[message] = channel, at_s

    def received(self, cursor: Cursor, seq: int, message: str, delivery: Delivery) -> None:
        place = cursor.channel, seq
        known = self.messages.setdefault(place, message)
        if known != message:
            self.broke(delivery.at_s, "diverged", f"{place} is {known}, and to {cursor.name} {message}")
        first = self.sequences.setdefault(message, place)
        if first != place:
            self.broke(delivery.at_s, "diverged", f"{message} is {first}, and to {cursor.name} {place}")
        cursor.events[seq].append(delivery)
        if not delivery.flagged:
            cursor.firsts[delivery.subscriber].append((seq, delivery.at_s))

    # --- the verdict ------------------------------------------------------------------------------

    def judge(self, *, is_complete: bool) -> list[Violation]:
        """Everything that was wrong, in order of time; what is missing only if it had time to come."""
        lost = self._lost() if is_complete else ()
        return sorted([*self.found, *lost, *self._refused(), *self._violations()])

    def _refused(self) -> Iterator[Violation]:
        for message, at_s in self.refused_s.items():
            if message in self.sequences:
                yield Violation(at_s, "refused", f"{message} was refused, and stored all the same")
            if not any(
                trouble.began_s <= at_s <= max(trouble.over_s, trouble.led_s) + self._slow(LAG_S)
                for trouble in self.troubles
            ):
                yield Violation(at_s, "refused", f"{message}, though all nodes were well")

    def missing(self, cursor: Cursor) -> list[tuple[str, float]]:
        """The publishes that were acknowledged and have not come, and when that was."""
        have = {
            self.messages[cursor.channel, seq]
            for seq, events in cursor.events.items()
            if any(isinstance(event, Delivery) for event in events)
        }
        return [
            (message, at_s)
            for message, (channel, at_s) in self.stored_s.items()
            if channel == cursor.channel and message not in have
        ]

    def _lost(self) -> Iterator[Violation]:
        for cursor in self.cursors.values():
            for message, at_s in self.missing(cursor):
                yield Violation(at_s, "lost", f"{message}, acknowledged, never came to {cursor.name}")
            have = {seq for seq, events in cursor.events.items() if events}
            for seq in sorted(set(range(1, max(have, default=0))) - have):
                yield Violation(0.0, "lost", f"{cursor.name} has no {seq}, but {max(have)}")

    def _violations(self) -> Iterator[Violation]:
        for cursor in self.cursors.values():
            for subscriber, firsts in cursor.firsts.items():
                for (seq, _), (later, at_s) in pairwise(firsts):
                    if later <= seq:
                        yield Violation(at_s, "order", f"{cursor.name}: {later} after {seq} to {subscriber}")
            for seq, events in cursor.events.items():
                yield from self._of_sequence(cursor, seq, events)

    def _of_sequence(self, cursor: Cursor, seq: int, events: Sequence[Event]) -> Iterator[Violation]:
        def broke(delivery: Delivery, rule: str, text: str) -> Violation:
            return Violation(delivery.at_s, rule, f"{cursor.name} {seq}: {text} [{_notified(events)}]")

        deliveries = [event for event in events if isinstance(event, Delivery)]
        counts: set[int] = set()
        highest: dict[str, int] = {}
        for number, delivery in enumerate(deliveries):
            if delivery.flagged != (delivery.resends > 0):
                yield broke(delivery, "flag", f"flag {delivery.flagged}, count {delivery.resends}")
            if self._may_be_stale(delivery) or self._lags(deliveries[:number], delivery):
                continue
            if delivery.resends in counts:
                yield broke(delivery, "flag", f"count {delivery.resends} twice")
            elif counts and not delivery.flagged:
                yield broke(delivery, "flag", "again, and not flagged")
            if delivery.resends <= highest.get(delivery.subscriber, -1):
                yield broke(delivery, "flag", f"count {delivery.resends} to {delivery.subscriber} after more")
            counts.add(delivery.resends)
            highest[delivery.subscriber] = delivery.resends
        acked_s = math.inf
        for event in events:
            if isinstance(event, Ack):
                acked_s = min(acked_s, self.counts_from_s(event))
            elif event.at_s > acked_s and not self._may_be_stale(event):
                yield broke(event, "acked", f"again, acknowledged for sure since {acked_s:.3f}")
        if deliveries and (late := self._late(cursor, seq, deliveries[0])):
            yield broke(deliveries[0], "late", late)
        for before, again in pairwise(deliveries):
            early_s = self._early_s(cursor, seq, before, again)
            if early_s > min(EARLY_MAX_S, self._slow(EARLY_S)):
                yield broke(again, "early", f"{early_s * 1000:.0f} ms too early")

    def _late(self, cursor: Cursor, seq: int, first: Delivery) -> str:
        """By how much the first delivery of a message came too late; nothing if it did not."""
        stored = self.stored_s.get(self.messages[cursor.channel, seq])
        if stored is None or (cursor.is_group and first.resends):
            return ""
        since_s = max(stored[1], self.made_s.get(first.link, 0.0))
        for trouble in self.troubles:  # in order of time
            if trouble.began_s < first.at_s and (until_s := trouble.until_s(first.link.node)) > since_s:
                since_s = until_s
        took_s = first.at_s - since_s - self.pace.late_s(since_s, first.at_s)
        if self.made_s.get(first.link, -math.inf) > stored[1]:
            self.slowest_s = max(self.slowest_s, took_s)
        bound_s = self._slow(PROMPT_S)
        return f"{took_s:.3f} s, of at most {bound_s:.1f}" if took_s > bound_s else ""

    def _slow(self, bound_s: float) -> float:
        """Return a bound for a quiet machine, scaled to this machine."""
        return bound_s * self.pace.factor

    # --- excuses ----------------------------------------------------------------------------------

    def _may_be_stale(self, delivery: Delivery) -> bool:
        return any(
            trouble.stops
            and trouble.concerns(delivery.link.node)
            and trouble.began_s <= delivery.at_s < trouble.over_s + self._slow(STALE_S)
            for trouble in self.troubles
        )

    def _lags(self, before: Sequence[Delivery], delivery: Delivery) -> bool:
        """Whether its node, that was hurt a moment ago, could not yet know what was sent since."""
        newer = [other.at_s for other in before if other.resends > delivery.resends]
        return bool(newer) and any(
            trouble.concerns(delivery.link.node)
            and trouble.began_s < delivery.at_s < trouble.over_s + self._slow(STALE_S)
            and delivery.at_s - newer[0] < self._slow(LAG_S)
            for trouble in self.troubles
        )

    def counts_from_s(self, ack: Ack) -> float:
        """From when on what it acknowledges may not come again; infinity: never."""
        from_s = ack.at_s + self._slow(ACKED_S)
        for trouble in self.troubles:  # in order of time
            until_s = trouble.until_s(ack.link.node)
            if trouble.began_s < from_s and until_s > ack.at_s:
                if ack.link.node == WHOEVER_LEADS:  # nobody takes it there while nobody leads
                    return math.inf
                if trouble.kills and trouble.concerns(ack.link.node) and ack.at_s < trouble.died_s:
                    return math.inf
                from_s = max(from_s, until_s + self._slow(ACKED_S))
        return math.inf if self.broken_s.get(ack.link, math.inf) < from_s else from_s

    def _early_s(self, cursor: Cursor, seq: int, before: Delivery, again: Delivery) -> float:
        """How long before its time a message came again; 0 or less: it was time."""
        if again.resends != before.resends + 1:
            return 0.0  # what came between went astray
        if self.gone_s.get(before.subscriber, math.inf) < again.at_s or self._is_disturbed(before, again):
            return 0.0
        message = self.messages[cursor.channel, seq]
        # It was sent when it came, or somewhat before; surely not before it was published, nor
        # before the AckWait of each time that it was sent earlier had passed.
        sent_s = self.published_s.get(message, before.at_s) + before.resends * cursor.ack_wait_s
        return min(before.at_s, sent_s) + cursor.ack_wait_s - again.at_s

    def _is_disturbed(self, before: Delivery, again: Delivery) -> bool:
        if self.broken_s.get(before.link, math.inf) < again.at_s:
            return True
        if before.at_s < self._back_s(before.link):
            return True
        return any(
            (trouble.concerns(before.link.node) or trouble.is_cold)
            and trouble.began_s < again.at_s
            and before.at_s - self._slow(DISTURBED_S) < trouble.over_s
            for trouble in self.troubles
        )

    def _back_s(self, link: Link) -> float:
        """Until when the cluster may not have noticed that a client is back: nobody does who doesn't lead."""
        made_s = self.made_s.get(link)
        if made_s is None:
            return 0.0
        until_s = made_s + self._slow(BACK_S)
        for trouble in self.troubles:
            led_s = trouble.until_s(link.node)
            if trouble.began_s < until_s and led_s > made_s:
                until_s = max(until_s, led_s + self._slow(BACK_S))
        return until_s


def _notified(events: Sequence[Event]) -> str:
    return ", ".join(
        f"{event.at_s:.3f} {'ack' if isinstance(event, Ack) else f'#{event.resends}'}"
        f" {event.subscriber}@{event.link.node}.{event.link.number}"
        for event in events
    )
