"""Which of the cluster's promises held, judged from what clients saw and from nothing else.

The rules, with what excuses a message from them. Nothing here knows how the cluster works inside; what
it may assume is what is promised to clients, and that a client can't see into the network.

**Lost.** A publish that was acknowledged reaches every cursor of its channel. What a subscriber held
when it was killed, and had not acknowledged, comes to another member of its group. What is held
back comes again once its AckWait has passed.

**Duplicate.** A message that comes again carries the redelivered flag, and does not come again at all
once its acknowledgement was committed. Subscribers know when it was: each publishes a small message, waits
for its acknowledgement, publishes the next, and so on; the second one that began after an acknowledgement
was written stands behind that in the log (`History.committed`). Through the same connection nothing may come
from then on. Through another one its node may be behind, until it has answered such a publish that was sent
later. What a paused node had in its buffers still leaves it when it goes on; that is excused until the same.

**Refused.** A publish may be refused while no leader can be reached, and is then never stored. No publish is
refused for another reason.

**Count.** The redelivery count that one subscriber sees of one message rises.

**Early.** A message is sent again when its AckWait has passed since it was last sent, not before. The
client knows two bounds for when that was. It was *not later* than when the client had it. And it was
*not earlier* than its publish, plus one AckWait for each time that it was sent again. A redelivery is
early if it is 50 ms ahead of what the first says and ahead of what the second says: so a delivery that
was slow on its way makes no other look early, and one that took less than 50 ms is judged by the
first alone. Excused are

- messages whose receiver was killed: they go to others at once;
- what was sent to a subscriber in the second before its own link broke or its own node was hit, or
  since, until it has been back for a second: what may have gone into a dead connection is sent again as
  soon as the cluster has noticed that the client is back.

**Late.** What was unacked across a hit comes again not more than 250 ms after `sent + AckWait`, `sent` as
its client saw it, and as much later as publishes waited meanwhile: a busy machine holds up both. If that
moment fell into the time when nobody led (or into the 100 ms before it, when it may not have been carried
out), it counts from the moment when the new leader was ready. What was seen within the 100 ms before the hit
may have been sent by an entry that the next leader could not know to be committed, and its AckWait begins
anew when that one is ready. Subscribers whose own node was hit are not measured; but what their dead
connection was not sent comes within a second of when they are connected again and somebody leads, not an
AckWait later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from node.demo.history import Ack, Cursor, Delivery, Event, History, Hit

EARLY_S: Final = 0.050
LATE_S: Final = 0.250

UNWRITTEN_S: Final = 1.0
"""So soon after its client is connected again comes what its dead connection was not sent."""

UNSETTLED_S: Final = 0.100
"""What was seen so shortly before a hit may be unknown to the next leader as committed."""

DISTURBED_S: Final = 1.0
"""What was sent so shortly before a link broke may have gone into the dead connection."""

BACK_S: Final = 1.0
"""So long after its client is back, the cluster may not have noticed it."""

STALE_S: Final = 1.0
"""How long a paused node may go on emptying the buffers that it had."""

NEVER_S: Final = 2.0
"""So long after its AckWait a message that does not come again at all is not late: it was forgotten."""

GAP_TAIL_S: Final = 1.0
"""Silence that begins so long after the new leader was ready is not the hit's doing."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, with what is needed to find it in the nodes' logs."""

    rule: str
    at_s: float
    text: str


@dataclass(slots=True)
class Verdict:
    """What the checker found. Times in seconds."""

    violations: list[Violation] = field(default_factory=list)
    ackwait_errors_s: list[float] = field(default_factory=list)
    """Redelivery minus expectation, of every message that was unacked across a hit."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Redeliveries by why they happened."""

    def count(self, rule: str) -> int:
        return sum(violation.rule == rule for violation in self.violations)

    def broke(self, rule: str, at_s: float, text: str) -> None:
        self.violations.append(Violation(rule, at_s, text))


def judge(history: History, end_s: float) -> Verdict:
    """Judge everything that happened until ``end_s``."""
    verdict = Verdict()
    for text in history.contradictions:
        verdict.broke("diverged", end_s, text)
    for text in history.refused:
        verdict.broke("refused", end_s, text)
    for channel, messages in history.declined.items():
        for message in sorted(messages.intersection(history.messages.get(channel, {}).values())):
            text = f"{channel} {message}: refused because there was no leader, and stored all the same"
            verdict.broke("refused", end_s, text)
    for cursor in history.cursors.values():
        _judge_complete(history, cursor, verdict, end_s)
        for seq, events in cursor.events.items():
            _Story(history, cursor, seq, events).judge(verdict, end_s)
    verdict.violations.sort(key=lambda violation: violation.at_s)
    return verdict


def _judge_complete(history: History, cursor: Cursor, verdict: Verdict, end_s: float) -> None:
    messages = history.messages.get(cursor.channel, {})
    delivered = {seq for seq, events in cursor.events.items() if any(isinstance(e, Delivery) for e in events)}
    received = {messages[seq] for seq in delivered}
    rule = "lost" if history.is_settled else "late"  # what a node has as unacknowledged may still come
    for message, at_s in history.stored.get(cursor.channel, {}).items():
        if message not in received:
            verdict.broke(rule, at_s, f"{cursor.name} never received {message}, stored at {at_s:.3f}")
    if delivered:
        for seq in sorted(set(range(1, max(delivered) + 1)) - delivered):
            verdict.broke(rule, end_s, f"{cursor.name} received no sequence {seq}")


# --- one message to one cursor --------------------------------------------------------------------


def why(history: History, cursor: Cursor, before: Delivery | None, delivery: Delivery) -> str:
    """Why a message came again: "due", "redistributed" or "came back" (to whom it had been sent)."""
    if before is None:
        return "came back"  # the first sending never arrived
    if delivery.subscriber != before.subscriber:
        gone_s = history.ended.get(before.subscriber)
        return "redistributed" if gone_s is not None and gone_s < delivery.at_s else "due"
    early = delivery.at_s < before.at_s + cursor.ack_wait_s - EARLY_S
    return "came back" if early and _disturbance(history, before, delivery.at_s) is not None else "due"


def _disturbance(history: History, delivery: Delivery, until_s: float) -> float | None:
    """When, before ``until_s``, something happened to the link of a delivery, or to its node."""
    link = delivery.link
    times = [
        hit.at_s
        for hit in history.hits
        if hit.node == link.node and hit.at_s < until_s and _may_concern(hit, delivery)
    ]
    broke_s = history.broken.get(link)
    if broke_s is not None and broke_s < until_s:
        times.append(broke_s)
    if link.number and delivery.at_s < history.made.get(link, delivery.at_s) + BACK_S:
        times.append(delivery.at_s)  # just back: the link before this one broke not long ago
    return min(times, default=None)


def _may_concern(hit: Hit, delivery: Delivery) -> bool:
    """Whether a hit of the link's node was, or was still felt, when the delivery was on its way."""
    over_s = hit.at_s if hit.resumed_s is None else hit.resumed_s
    return delivery.at_s < over_s + STALE_S


@dataclass(slots=True)
class _Story:
    """What one cursor saw of one sequence."""

    history: History
    cursor: Cursor
    seq: int
    events: Sequence[Event]

    def judge(self, verdict: Verdict, end_s: float) -> None:
        deliveries = [event for event in self.events if isinstance(event, Delivery)]
        if not deliveries:
            return
        self._judge_flags(deliveries, verdict)
        self._judge_acks(verdict)
        self._judge_early(deliveries, verdict)
        self._judge_unwritten(deliveries[0], verdict)
        self._judge_measured(verdict)
        self._judge_forgotten(verdict, end_s)
        self._judge_held(deliveries[-1], verdict)
        for before, delivery in pairwise(deliveries):
            if delivery.flagged:
                verdict.reasons[why(self.history, self.cursor, before, delivery)] += 1
        if deliveries[0].flagged:
            verdict.reasons[why(self.history, self.cursor, None, deliveries[0])] += 1

    def _broke(self, verdict: Verdict, rule: str, at_s: float, text: str) -> None:
        """Note a violation, with everything that is known of the message."""
        told = ", ".join(
            f"{event.at_s:.3f} {type(event).__name__.lower()} {event.subscriber}@{event.link.node}"
            + (f" #{event.resends}" if isinstance(event, Delivery) else "")
            for event in self.events
        )
        verdict.broke(rule, at_s, f"{self.cursor.name} {self.seq}: {text} [{told}]")

    # --- duplicates and counts --------------------------------------------------------------------

    def _judge_flags(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        last_count: dict[str, int] = {}
        for number, delivery in enumerate(deliveries):
            stale = self._may_be_stale(delivery)
            if number and not delivery.flagged and not stale:
                self._broke(verdict, "duplicate", delivery.at_s, "came again without its flag")
            if delivery.flagged != (delivery.resends > 0):
                text = f"flag {delivery.flagged} with count {delivery.resends}"
                self._broke(verdict, "count", delivery.at_s, text)
            known = last_count.get(delivery.subscriber, -1)
            if delivery.resends <= known and delivery.flagged and not stale:
                text = f"count {delivery.resends} after {known}"
                self._broke(verdict, "count", delivery.at_s, text)
            last_count[delivery.subscriber] = max(known, delivery.resends)

    def _may_be_stale(self, delivery: Delivery) -> bool:
        """It may have been in the buffers of a node when that was paused."""
        history = self.history
        return any(
            hit.kind == "pause"
            and hit.node == delivery.link.node
            and hit.at_s <= delivery.at_s
            and (
                hit.resumed_s is None or not history.knows_since(delivery.link, hit.resumed_s, delivery.at_s)
            )
            for hit in history.hits
        )

    def _judge_acks(self, verdict: Verdict) -> None:
        acks = [event for event in self.events if isinstance(event, Ack)]
        committed = [(since_s, ack) for ack in acks if (since_s := self.history.committed(ack)) is not None]
        if not committed:
            return
        since_s, ack = min(committed)
        for event in self.events:
            if not isinstance(event, Delivery) or event.at_s <= since_s:
                continue
            # Through the same connection everything comes in the order in which it was decided.
            if event.link == ack.link or self.history.knows_since(event.link, since_s, event.at_s):
                text = f"came again although its acknowledgement was committed by {since_s:.3f}"
                self._broke(verdict, "duplicate", event.at_s, text)

    # --- too early --------------------------------------------------------------------------------

    def _judge_early(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        history, ack_wait_s = self.history, self.cursor.ack_wait_s
        message = history.messages[self.cursor.channel][self.seq]
        published_s = history.published.get(self.cursor.channel, {}).get(message)
        if published_s is None:
            return
        sure_s = published_s  # the last sending was not before this
        for before, delivery in pairwise(deliveries):
            waits = delivery.resends - before.resends
            if not delivery.flagged or waits <= 0:
                continue  # judged elsewhere
            gone_s = history.ended.get(before.subscriber)
            if gone_s is not None and gone_s < delivery.at_s:
                continue
            disturbed_s = _disturbance(history, before, delivery.at_s)
            if disturbed_s is not None:
                if before.at_s > disturbed_s - DISTURBED_S:
                    continue
                waits = 1  # the others may have gone into the dead connection
            wait_s = waits * ack_wait_s
            if delivery.at_s < min(before.at_s - EARLY_S, sure_s) + wait_s:
                by_s = before.at_s + wait_s - delivery.at_s
                text = f"came {by_s * 1000:.0f} ms before its AckWait had passed"
                self._broke(verdict, "early", delivery.at_s, text)
            sure_s += wait_s

    def _judge_unwritten(self, first: Delivery, verdict: Verdict) -> None:
        """What is first seen flagged, after its subscriber was connected anew, had died with a connection."""
        history, made_s = self.history, self.history.made.get(first.link)
        message = history.messages[self.cursor.channel][self.seq]
        published_s = history.published.get(self.cursor.channel, {}).get(message)
        if not first.flagged or not first.link.number or made_s is None or published_s is None:
            return
        if published_s > made_s or any(gone_s < first.at_s for gone_s in history.ended.values()):
            return  # not before it was connected; or a member of its group had died with it, and graces run
        from_s = self._excused_until(_expected(history, made_s))
        late_s = first.at_s - from_s
        over_s = late_s - UNWRITTEN_S
        if over_s > 0 and over_s > history.longest_wait(from_s, first.at_s):
            text = f"came {late_s * 1000:.0f} ms after its subscriber was connected again"
            self._broke(verdict, "late", first.at_s, text)

    # --- too late, or never -----------------------------------------------------------------------

    def _judge_measured(self, verdict: Verdict) -> None:
        if not self.cursor.is_measured:
            return
        for before, after in pairwise(self.events):
            if not (isinstance(before, Delivery) and isinstance(after, Delivery)):
                continue
            error_s = ackwait_error(self.history, self.cursor, before, after)
            if error_s is None:
                continue
            verdict.ackwait_errors_s.append(error_s)
            late_s = error_s - LATE_S
            if late_s > 0 and late_s > self.history.longest_wait(after.at_s - error_s, after.at_s):
                text = f"came {error_s * 1000:.0f} ms late"
                self._broke(verdict, "late", after.at_s, text)

    def _judge_forgotten(self, verdict: Verdict, end_s: float) -> None:
        """What was not acknowledged comes again, for as long as the cluster has it as unacknowledged."""
        for event, following in zip(self.events, [*self.events[1:], None], strict=True):
            if not isinstance(event, Delivery):
                continue
            if following is None and self.history.is_settled:
                if any(isinstance(each, Ack) for each in self.events):
                    continue  # the last one had left before that was applied
                text = "was never acknowledged, and nobody has it as unacknowledged any more"
                self._broke(verdict, "lost", event.at_s, text)
                continue
            next_s = end_s if following is None else following.at_s
            due_s = self._excused_until(_expected(self.history, event.at_s + self.cursor.ack_wait_s))
            late_s = next_s - due_s - NEVER_S
            if late_s > 0 and late_s > self.history.longest_wait(due_s, next_s):  # which takes time to find
                text = f"did not come again within {next_s - due_s:.1f} s of its AckWait"
                self._broke(verdict, "late", next_s, text)

    def _excused_until(self, due_s: float) -> float:
        """A pause may hold it up, whoever is paused: its receiver's node, or that of its successor."""
        for hit in self.history.hits:
            if hit.kind == "pause" and hit.at_s - UNSETTLED_S <= due_s < (hit.resumed_s or due_s):
                due_s = hit.resumed_s or due_s
        return due_s

    def _judge_held(self, last: Delivery, verdict: Verdict) -> None:
        gone_s = self.history.ended.get(last.subscriber)
        was_acked = any(isinstance(event, Ack) for event in self.events)
        if gone_s is not None and not was_acked and not self.history.is_settled:
            text = f"died with {last.subscriber} and came to no other"
            self._broke(verdict, "lost", gone_s, text)


def ackwait_error(history: History, cursor: Cursor, before: Delivery, after: Delivery) -> float | None:
    """How late a redelivery came, negative if early. None if it is none that is measured."""
    if after.resends != before.resends + 1 or after.subscriber != before.subscriber:
        return None
    across = any(before.at_s <= hit.at_s < after.at_s for hit in history.hits)
    if not across or _is_disturbed(history, before, after):
        return None
    expected_s = _expected(history, before.at_s + cursor.ack_wait_s)
    error_s = after.at_s - expected_s
    anew_s = _begun_anew(history, before.at_s)
    if anew_s is not None and error_s > 0:
        error_s = max(0.0, after.at_s - _expected(history, anew_s + cursor.ack_wait_s))
    return error_s


def _begun_anew(history: History, seen_s: float) -> float | None:
    """When the AckWait of something seen at ``seen_s`` may have begun again; None if it may not."""
    for hit in history.hits:
        if (
            hit.is_leaders
            and hit.ready_s is not None
            and (hit.at_s - UNSETTLED_S < seen_s < hit.ready_s + UNSETTLED_S)
        ):
            return max(hit.ready_s, seen_s)
    return None


def _is_disturbed(history: History, before: Delivery, after: Delivery) -> bool:
    link = before.link
    if after.link != link or (link in history.broken and history.broken[link] < after.at_s):
        return True
    return any(
        hit.node == link.node
        and hit.at_s < after.at_s
        and before.at_s - DISTURBED_S < (hit.resumed_s or hit.at_s) + STALE_S
        for hit in history.hits
    )


def _expected(history: History, due_s: float) -> float:
    """When what is due at ``due_s`` can be sent: not while nobody leads."""
    for hit in history.hits:
        if hit.is_leaders and hit.ready_s is not None and hit.at_s - UNSETTLED_S <= due_s < hit.ready_s:
            due_s = hit.ready_s
    return due_s


# --- figures --------------------------------------------------------------------------------------


def silence(times_s: Sequence[float], hit: Hit, end_s: float) -> float:
    """The longest time around a hit in which something that happens all the time did not.

    Args:
        times_s: when it happened, sorted.
        hit: looked at from there until the new leader has been ready for a second.
        end_s: when one stopped looking.
    """
    until_s = min(end_s, (hit.at_s if hit.ready_s is None else hit.ready_s) + GAP_TAIL_S)
    first = max(0, bisect_left(times_s, hit.at_s) - 1)
    longest = 0.0
    for number in range(first, len(times_s)):
        at_s = times_s[number]
        if at_s > until_s:
            break
        next_s = times_s[number + 1] if number + 1 < len(times_s) else end_s
        longest = max(longest, next_s - at_s)
    return longest


def handed_over(history: History) -> list[tuple[str, int, float]]:
    """What was given to other members when its receiver was killed: cursor, sequence, how long it took."""
    found = []
    for cursor in history.cursors.values():
        if not cursor.is_group:
            continue
        for seq, events in cursor.events.items():
            for before, after in pairwise(event for event in events if isinstance(event, Delivery)):
                gone_s = history.ended.get(before.subscriber)
                if gone_s is not None and after.subscriber != before.subscriber and gone_s < after.at_s:
                    found.append((cursor.name, seq, after.at_s - gone_s))
    return found
