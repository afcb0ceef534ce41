"""Find deliveries that an ended connection may have missed, for the leader's commands (R10, R15).

Every node keeps what is needed, because any node may lead next: the last delivery report of each node
(``delivery_progress``), and which entries were not committed when the leader changed.

A plain object without I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from node.core.commands import NOTHING_UNWRITTEN, Unwritten
from node.server.delivery_progress import IDLE_REPORT_EVERY_S, REPORT_EVERY_S, ProgressReports
from node.server.presence import MOVED_MAX_NS, Where

NEVER = float("inf")

NEW_TERMS_MAX = 64
"""Maximum number of leader changes remembered. The oldest are forgotten first, even if they are recent."""


class Losses:
    """Collects delivery reports and leader changes, and sends this node's reports.

    Args:
        node: this node's name.
        first_epoch: a number below the epochs of all connections of this process, and above those of its
            earlier processes.
        take: returns this node's report (`DeliveryProgress.take`).
        is_busy: returns True if a report would contain new deliveries.
        links_up: returns the members whose link is up.
        send: sends a frame to a member; returns False if the link is down.
    """

    def __init__(
        self,
        node: str,
        first_epoch: int,
        *,
        take: Callable[[], tuple[Any, ...]],
        is_busy: Callable[[], bool],
        links_up: Callable[[], Iterable[str]],
        send: Callable[[str, Any], bool],
    ) -> None:
        self._node = node
        self._first_epoch = first_epoch
        self._take = take
        self._is_busy = is_busy
        self._links_up = links_up
        self._send = send
        self._reports = ProgressReports()
        self._last: tuple[Any, ...] = ()
        self._reported_s = -NEVER
        self._new_terms: deque[tuple[int, int, int]] = deque(maxlen=NEW_TERMS_MAX)
        """For each `NewTerm`: (cluster time, commit index the new leader knew, index of the entry); latest
        last."""

    def pump(self, now_s: float) -> float:
        """Send this node's report to the other members if one is due. Returns when to be called again."""
        every_s = REPORT_EVERY_S if self._is_busy() else IDLE_REPORT_EVERY_S
        if now_s - self._reported_s < every_s:
            return self._reported_s + every_s
        self._reported_s = now_s
        report = (self._first_epoch, *self._take())
        if report != self._last:
            self._last = report
            self._reports.received(self._node, report)
            for peer in sorted(self._links_up()):
                self._send(peer, ("written", *report))
        return now_s + (REPORT_EVERY_S if self._is_busy() else IDLE_REPORT_EVERY_S)

    def peer_up(self, peer: str) -> None:
        """Send the last report to a member whose link has come up."""
        if self._last:
            self._send(peer, ("written", *self._last))

    def received(self, peer: str, report: Sequence[Any]) -> None:
        """Store a member's report, given as the values behind the kind of its frame.

        Raises:
            RemoteProtocolError: the report is malformed.
        """
        self._reports.received(peer, report)

    def forget(self, members: Iterable[str]) -> None:
        """Forget the reports of all nodes except ``members``."""
        self._reports.forget(members)

    def began_term(self, time_ns: int, known_commit: int, index: int) -> None:
        """Note an applied `NewTerm`. Messages sent by entries between the indexes got a new AckWait (R10)."""
        self._new_terms.append((time_ns, known_commit, index))

    def unwritten(
        self, before: Iterable[Where | None], now: Where | None, now_ns: int, reachable_ns: int
    ) -> Unwritten:
        """Return the deliveries that an inbox may have missed when it moved to another connection.

        Args:
            before: earlier connections of the inbox, as far as they were recorded.
            now: its present connection; None if it has none.
            now_ns: cluster time.
            reachable_ns: cluster time since when the inbox is reachable through ``now``. Messages sent since
                then have arrived. A `NewTerm` before it is ignored: the send times it set are before it too,
                so they already show that those messages may be lost.
        """
        written = min(
            (self._reports.written(where) for where in before if where != now), default=NOTHING_UNWRITTEN
        )
        if written == NOTHING_UNWRITTEN:  # it was stuck, or only the link to its node was down
            return Unwritten(NOTHING_UNWRITTEN, 0, 0)
        while self._new_terms and now_ns - self._new_terms[0][0] > 2 * MOVED_MAX_NS:
            self._new_terms.popleft()
        later = [(known, index) for time_ns, known, index in self._new_terms if time_ns >= reachable_ns]
        after = min((known for known, _ in later), default=0)
        to = max((index for _, index in later), default=0)
        return Unwritten(written, after, to)

    def written_at_end(self, where: Where | None, linked: Container[str]) -> int:
        """Return the entry up to which deliveries were written to a connection that no longer receives.

        Returns ``NOTHING_UNWRITTEN`` if the connection may receive again: its node is linked and has not
        reported its end (R3).
        """
        if where is None:
            return NOTHING_UNWRITTEN
        lives = where[0] == self._node or where[0] in linked
        if lives and not self._reports.has_ended(where):
            return NOTHING_UNWRITTEN
        return self._reports.written(where)
