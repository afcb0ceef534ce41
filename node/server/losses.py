"""What a connection that has ended may not have been sent: evidence for the leader's findings (R10, R15).

Kept by every node, for any may lead next: what all nodes last said of their deliveries
(``delivery_progress``), and which entries lately changed leaders before they were committed.

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

TAKE_OVERS_MAX = 64
"""Take-overs that are remembered; of more, those within ``MOVED_MAX_NS``, the oldest are forgotten."""


class Losses:
    """The evidence, and this node's own share of it.

    Args:
        node: this node's name.
        first_epoch: below the epochs of all its connections, and above those of its earlier processes.
        take: returns this node's report (`DeliveryProgress.take`).
        is_busy: whether it would say something new of deliveries.
        links_up: members whose link stands.
        send: sends a frame to a member; False if the link is down.
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
        self._told_s = -NEVER
        self._take_overs: deque[tuple[int, int, int]] = deque(maxlen=TAKE_OVERS_MAX)
        """(cluster time, known commit index, index of the take-over), the latest last."""

    def pump(self, now_s: float) -> float:
        """Tell the others how far this node has come, if it is time. Returns when to be called again."""
        every_s = REPORT_EVERY_S if self._is_busy() else IDLE_REPORT_EVERY_S
        if now_s - self._told_s < every_s:
            return self._told_s + every_s
        self._told_s = now_s
        report = (self._first_epoch, *self._take())
        if report != self._last:
            self._last = report
            self._reports.received(self._node, report)
            for peer in sorted(self._links_up()):
                self._send(peer, ("written", *report))
        return now_s + (REPORT_EVERY_S if self._is_busy() else IDLE_REPORT_EVERY_S)

    def peer_up(self, peer: str) -> None:
        """The link to a member stands: what was told while it did not is told again."""
        if self._last:
            self._send(peer, ("written", *self._last))

    def received(self, peer: str, report: Sequence[Any]) -> None:
        """Take in what follows the kind of a member's frame.

        Raises:
            RemoteProtocolError: it is malformed.
        """
        self._reports.received(peer, report)

    def forget(self, members: Iterable[str]) -> None:
        """Forget what others said than ``members``."""
        self._reports.forget(members)

    def began_term(self, time_ns: int, known_commit: int, index: int) -> None:
        """Note a `NewTerm` that was applied: entries between the two indexes are dated anew (R10)."""
        self._take_overs.append((time_ns, known_commit, index))

    def unwritten(
        self, before: Iterable[Where | None], now: Where | None, now_ns: int, reachable_ns: int
    ) -> Unwritten:
        """Return what may not have been sent to an inbox that is heard through another connection now.

        Args:
            before: connections that it was heard through before, as far as is known.
            now: the connection it is heard through now; None if it is not.
            now_ns: cluster time.
            reachable_ns: cluster time since when it is reachable through ``now``. What an earlier take-over
                dated anew counts as sent before by its date, and what was sent since then has arrived.
        """
        written = min(
            (self._reports.written(where) for where in before if where != now), default=NOTHING_UNWRITTEN
        )
        if written == NOTHING_UNWRITTEN:  # it was stuck, or only the link to its node was away
            return Unwritten(NOTHING_UNWRITTEN, 0, 0)
        while self._take_overs and now_ns - self._take_overs[0][0] > 2 * MOVED_MAX_NS:
            self._take_overs.popleft()
        later = [(known, index) for time_ns, known, index in self._take_overs if time_ns >= reachable_ns]
        after = min((known for known, _ in later), default=0)
        to = max((index for _, index in later), default=0)
        return Unwritten(written, after, to)

    def written_at_end(self, where: Where | None, linked: Container[str]) -> int:
        """Return the entry up to which deliveries were written to a connection that hears no longer.

        ``NOTHING_UNWRITTEN`` if it may hear again: its node lives and has not said that it ended (R3).
        """
        if where is None:
            return NOTHING_UNWRITTEN
        lives = where[0] == self._node or where[0] in linked
        if lives and not self._reports.has_ended(where):
            return NOTHING_UNWRITTEN
        return self._reports.written(where)
