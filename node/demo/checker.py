"""Check the cluster's guarantees, using only what clients observed.

The rules and their exceptions follow. The checker does not know the cluster's internals. It assumes only what
clients are guaranteed, and that a client can't observe the network.

**Lost.** Every subscription and queue group of a channel receives every acknowledged publish. Messages that a
killed subscriber had not acknowledged go to another member of its group. Messages that are held back are
redelivered when AckWait has expired.

**Duplicate.** A redelivered message carries the redelivered flag. It is not redelivered after its
acknowledgement was committed. Subscribers find out when it was: each publishes a small message, waits for its
acknowledgement, publishes the next, and so on. The second of these publishes that starts after an
acknowledgement was written follows that acknowledgement in the log (`History.committed`). From then on, the
message must not arrive through the same connection. Through another connection it may still arrive until that
node has answered such a publish that was sent later: the node may be behind. A resumed node still sends the
content of its buffers; this is excused until the same condition.

**Refused.** A publish may be refused while no leader can be reached, and is then never stored. No publish is
refused for another reason.

**Count.** The redelivery counts of one message at one subscriber increase.

**Early.** A message is redelivered when AckWait has expired since it was last sent, not before. The client
knows two bounds of the time when it was sent. It was *not later* than the client received it. It was *not
earlier* than its publish plus one AckWait per redelivery. A redelivery is early if it is more than 50 ms
ahead of the first bound and ahead of the second bound. So a slow delivery does not make a later one look
early, and for a delivery that took less than 50 ms only the first bound counts. Excused are

- messages whose receiver was killed: they go to other members at once;
- messages sent to a subscriber from one second before its link broke or its node was killed or paused, until
  one second after its client reconnected: messages that may have gone into a dead connection are sent again
  as soon as the cluster notices that the client is back.

**Late.** A message that was unacknowledged across a kill or pause is redelivered at most 250 ms after `sent +
AckWait`, with `sent` as its client saw it, plus the delay of publishes meanwhile: a busy machine delays both.
If that time was in an interval without a leader (or up to 100 ms before it, when it may not have been
executed), the 250 ms start when the new leader was ready. A message seen within 100 ms before the kill may
have been sent by an entry that the next leader could not know to be committed; its AckWait restarts when that
leader is ready. Subscribers whose own node was killed or paused are not measured. But messages that their
dead connection did not deliver arrive within a second after they have reconnected and there is a leader, not
an AckWait later.
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
"""After a client reconnects, messages that its dead connection did not deliver arrive within this time."""

UNSETTLED_S: Final = 0.100
"""The next leader may not know that messages seen this shortly before a kill were committed."""

DISTURBED_S: Final = 1.0
"""Messages sent this shortly before a link broke may have gone into the dead connection."""

BACK_S: Final = 1.0
"""The cluster may need this long to notice that a client is back."""

STALE_S: Final = 1.0
"""How long a resumed node may go on sending the content of its buffers."""

NEVER_S: Final = 2.0
"""A message that is not redelivered within this time after AckWait counts as forgotten, not as late."""

GAP_TAIL_S: Final = 1.0
"""A gap that starts later than this after the new leader was ready is not caused by the kill."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated guarantee, with the details needed to find it in the nodes' logs."""

    rule: str
    at_s: float
    text: str


@dataclass(slots=True)
class Verdict:
    """The result of the checker. Times in seconds."""

    violations: list[Violation] = field(default_factory=list)
    ackwait_errors_s: list[float] = field(default_factory=list)
    """Redelivery time minus expected time, for messages that were unacknowledged across a kill or pause."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of redeliveries by reason."""

    def count(self, rule: str) -> int:
        return sum(violation.rule == rule for violation in self.violations)

    def broke(self, rule: str, at_s: float, text: str) -> None:
        self.violations.append(Violation(rule, at_s, text))


def check(history: History, end_s: float) -> Verdict:
    """Check everything that happened until ``end_s``."""
    verdict = Verdict()
    for text in history.contradictions:
        verdict.broke("diverged", end_s, text)
    for text in history.refused:
        verdict.broke("refused", end_s, text)
    for channel, messages in history.declined.items():
        for message in sorted(messages.intersection(history.messages.get(channel, {}).values())):
            text = f"{channel} {message}: refused because there was no leader, but stored"
            verdict.broke("refused", end_s, text)
    for cursor in history.cursors.values():
        _check_complete(history, cursor, verdict, end_s)
        for seq, events in cursor.events.items():
            _MessageCheck(history, cursor, seq, events).check(verdict, end_s)
    verdict.violations.sort(key=lambda violation: violation.at_s)
    return verdict


def _check_complete(history: History, cursor: Cursor, verdict: Verdict, end_s: float) -> None:
    messages = history.messages.get(cursor.channel, {})
    delivered = {seq for seq, events in cursor.events.items() if any(isinstance(e, Delivery) for e in events)}
    received = {messages[seq] for seq in delivered}
    rule = (
        "lost" if history.is_settled else "late"
    )  # a message that is unacknowledged at a node may still come
    for message, at_s in history.stored.get(cursor.channel, {}).items():
        if message not in received:
            verdict.broke(rule, at_s, f"{cursor.name} never received {message}, stored at {at_s:.3f}")
    if delivered:
        for seq in sorted(set(range(1, max(delivered) + 1)) - delivered):
            verdict.broke(rule, end_s, f"{cursor.name} did not receive sequence {seq}")


# --- one message to one cursor --------------------------------------------------------------------


def why(history: History, cursor: Cursor, before: Delivery | None, delivery: Delivery) -> str:
    """Return why a message was redelivered: "due", "redistributed" or "came back" (reconnected client)."""
    if before is None:
        return "came back"  # the first delivery never arrived
    if delivery.subscriber != before.subscriber:
        gone_s = history.ended.get(before.subscriber)
        return "redistributed" if gone_s is not None and gone_s < delivery.at_s else "due"
    early = delivery.at_s < before.at_s + cursor.ack_wait_s - EARLY_S
    return "came back" if early and _disturbance(history, before, delivery.at_s) is not None else "due"


def _disturbance(history: History, delivery: Delivery, until_s: float) -> float | None:
    """Return when, before ``until_s``, the link of a delivery broke or its node was killed or paused."""
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
        times.append(delivery.at_s)  # it has just reconnected: the link before this one broke recently
    return min(times, default=None)


def _may_concern(hit: Hit, delivery: Delivery) -> bool:
    """Return whether a kill or pause of the link's node could affect the delivery."""
    over_s = hit.at_s if hit.resumed_s is None else hit.resumed_s
    return delivery.at_s < over_s + STALE_S


@dataclass(slots=True)
class _MessageCheck:
    """Checks one message at one subscription or queue group."""

    history: History
    cursor: Cursor
    seq: int
    events: Sequence[Event]

    def check(self, verdict: Verdict, end_s: float) -> None:
        deliveries = [event for event in self.events if isinstance(event, Delivery)]
        if not deliveries:
            return
        self._check_flags(deliveries, verdict)
        self._check_acks(verdict)
        self._check_early(deliveries, verdict)
        self._check_unwritten(deliveries[0], verdict)
        self._check_measured(verdict)
        self._check_forgotten(verdict, end_s)
        self._check_held(deliveries[-1], verdict)
        for before, delivery in pairwise(deliveries):
            if delivery.flagged:
                verdict.reasons[why(self.history, self.cursor, before, delivery)] += 1
        if deliveries[0].flagged:
            verdict.reasons[why(self.history, self.cursor, None, deliveries[0])] += 1

    def _broke(self, verdict: Verdict, rule: str, at_s: float, text: str) -> None:
        """Record a violation with all events of the message."""
        events = ", ".join(
            f"{event.at_s:.3f} {type(event).__name__.lower()} {event.subscriber}@{event.link.node}"
            + (f" #{event.resends}" if isinstance(event, Delivery) else "")
            for event in self.events
        )
        verdict.broke(rule, at_s, f"{self.cursor.name} {self.seq}: {text} [{events}]")

    # --- duplicates and counts --------------------------------------------------------------------

    def _check_flags(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        last_count: dict[str, int] = {}
        for number, delivery in enumerate(deliveries):
            stale = self._may_be_stale(delivery)
            if number and not delivery.flagged and not stale:
                self._broke(verdict, "duplicate", delivery.at_s, "redelivered without the flag")
            if delivery.flagged != (delivery.resends > 0):
                text = f"flag {delivery.flagged} with count {delivery.resends}"
                self._broke(verdict, "count", delivery.at_s, text)
            previous = last_count.get(delivery.subscriber, -1)
            if delivery.resends <= previous and delivery.flagged and not stale:
                text = f"count {delivery.resends} after {previous}"
                self._broke(verdict, "count", delivery.at_s, text)
            last_count[delivery.subscriber] = max(previous, delivery.resends)

    def _may_be_stale(self, delivery: Delivery) -> bool:
        """Return whether the message may have been in the buffers of a node that was paused."""
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

    def _check_acks(self, verdict: Verdict) -> None:
        acks = [event for event in self.events if isinstance(event, Ack)]
        committed = [(since_s, ack) for ack in acks if (since_s := self.history.committed(ack)) is not None]
        if not committed:
            return
        since_s, ack = min(committed)
        for event in self.events:
            if not isinstance(event, Delivery) or event.at_s <= since_s:
                continue
            # Through the same connection, everything arrives in the order of the log.
            if event.link == ack.link or self.history.knows_since(event.link, since_s, event.at_s):
                text = f"redelivered although its acknowledgement was committed by {since_s:.3f}"
                self._broke(verdict, "duplicate", event.at_s, text)

    # --- too early --------------------------------------------------------------------------------

    def _check_early(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        history, ack_wait_s = self.history, self.cursor.ack_wait_s
        message = history.messages[self.cursor.channel][self.seq]
        published_s = history.published.get(self.cursor.channel, {}).get(message)
        if published_s is None:
            return
        sure_s = published_s  # lower bound of the time of the last sending
        for before, delivery in pairwise(deliveries):
            waits = delivery.resends - before.resends
            if not delivery.flagged or waits <= 0:
                continue  # another rule checks it
            gone_s = history.ended.get(before.subscriber)
            if gone_s is not None and gone_s < delivery.at_s:
                continue
            disturbed_s = _disturbance(history, before, delivery.at_s)
            if disturbed_s is not None:
                if before.at_s > disturbed_s - DISTURBED_S:
                    continue
                waits = 1  # the other deliveries may have gone into the dead connection
            wait_s = waits * ack_wait_s
            if delivery.at_s < min(before.at_s - EARLY_S, sure_s) + wait_s:
                by_s = before.at_s + wait_s - delivery.at_s
                text = f"redelivered {by_s * 1000:.0f} ms before AckWait had expired"
                self._broke(verdict, "early", delivery.at_s, text)
            sure_s += wait_s

    def _check_unwritten(self, first: Delivery, verdict: Verdict) -> None:
        """Check a message first seen with the flag, after a reconnect: it was lost with a connection."""
        history, made_s = self.history, self.history.made.get(first.link)
        message = history.messages[self.cursor.channel][self.seq]
        published_s = history.published.get(self.cursor.channel, {}).get(message)
        if not first.flagged or not first.link.number or made_s is None or published_s is None:
            return
        if published_s > made_s or any(gone_s < first.at_s for gone_s in history.ended.values()):
            return  # published after the reconnect; or a member of its group died with it, and its grace runs
        from_s = self._excused_until(_expected(history, made_s))
        late_s = first.at_s - from_s
        over_s = late_s - UNWRITTEN_S
        if over_s > 0 and over_s > history.longest_wait(from_s, first.at_s):
            text = f"arrived {late_s * 1000:.0f} ms after its subscriber had reconnected"
            self._broke(verdict, "late", first.at_s, text)

    # --- too late, or never -----------------------------------------------------------------------

    def _check_measured(self, verdict: Verdict) -> None:
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
                text = f"redelivered {error_s * 1000:.0f} ms late"
                self._broke(verdict, "late", after.at_s, text)

    def _check_forgotten(self, verdict: Verdict, end_s: float) -> None:
        """Check that an unacknowledged message is redelivered for as long as the cluster has it."""
        for event, following in zip(self.events, [*self.events[1:], None], strict=True):
            if not isinstance(event, Delivery):
                continue
            if following is None and self.history.is_settled:
                if any(isinstance(each, Ack) for each in self.events):
                    continue  # the last delivery was on its way when the acknowledgement was applied
                text = "was never acknowledged, but no node has it as unacknowledged"
                self._broke(verdict, "lost", event.at_s, text)
                continue
            next_s = end_s if following is None else following.at_s
            due_s = self._excused_until(_expected(self.history, event.at_s + self.cursor.ack_wait_s))
            late_s = next_s - due_s - NEVER_S
            if late_s > 0 and late_s > self.history.longest_wait(due_s, next_s):  # the second test is slow
                text = f"not redelivered within {next_s - due_s:.1f} s of AckWait"
                self._broke(verdict, "late", next_s, text)

    def _excused_until(self, due_s: float) -> float:
        """Return ``due_s``, delayed by pauses: the node of the receiver or the leader may be paused."""
        for hit in self.history.hits:
            if hit.kind == "pause" and hit.at_s - UNSETTLED_S <= due_s < (hit.resumed_s or due_s):
                due_s = hit.resumed_s or due_s
        return due_s

    def _check_held(self, last: Delivery, verdict: Verdict) -> None:
        gone_s = self.history.ended.get(last.subscriber)
        was_acked = any(isinstance(event, Ack) for event in self.events)
        if gone_s is not None and not was_acked and not self.history.is_settled:
            text = f"unacknowledged at {last.subscriber} when it was killed, and went to no other member"
            self._broke(verdict, "lost", gone_s, text)


def ackwait_error(history: History, cursor: Cursor, before: Delivery, after: Delivery) -> float | None:
    """Return how late a redelivery arrived, negative if early. None if it is not to be measured."""
    if after.resends != before.resends + 1 or after.subscriber != before.subscriber:
        return None
    across = any(before.at_s <= hit.at_s < after.at_s for hit in history.hits)
    if not across or _is_disturbed(history, before, after):
        return None
    expected_s = _expected(history, before.at_s + cursor.ack_wait_s)
    error_s = after.at_s - expected_s
    restarted_s = _restarted(history, before.at_s)
    if restarted_s is not None and error_s > 0:
        error_s = max(0.0, after.at_s - _expected(history, restarted_s + cursor.ack_wait_s))
    return error_s


def _restarted(history: History, seen_s: float) -> float | None:
    """Return when the AckWait of a message seen at ``seen_s`` may have restarted; None if it did not."""
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
    """Return when a message that is due at ``due_s`` can be sent: not while there is no leader."""
    for hit in history.hits:
        if hit.is_leaders and hit.ready_s is not None and hit.at_s - UNSETTLED_S <= due_s < hit.ready_s:
            due_s = hit.ready_s
    return due_s


# --- figures --------------------------------------------------------------------------------------


def silence(times_s: Sequence[float], hit: Hit, end_s: float) -> float:
    """Return the longest gap around a kill or pause in a series of frequent events.

    Args:
        times_s: the times of the events, sorted.
        hit: the kill or pause; the gap is searched until the new leader has been ready for a second.
        end_s: end of the observation.
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
    """Return the messages that other members received after a kill: cursor, sequence, duration."""
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
