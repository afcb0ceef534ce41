"""The two clocks of the log, as one node reads them (rules R11–R13).

*Cluster time* only elapses. A follower learns it from the frames of the current leader: each frame
says what the leader's cluster time was when it left, and the smallest difference to this node's own
monotonic clock is the one that spent the least time on the way. A follower that becomes leader goes
on from there, so deadlines neither jump nor start again. Wall clocks play no part. What a leader knew
less well than the one before it is lost for good: whoever heard both goes by the later one, or
time would run ahead when it leads, and what was sent meanwhile would be redelivered early.

Who is elected soon after its process began may have heard no leader yet. Those who voted for it have: their
answers say what time it is, and whose word that is. It counts if no later leader has stamped an entry.

*Timestamps* are Unix time for messages and ages. The leader's follows the median of what a majority
of wall clocks say, never goes back, and runs at most 10 % fast, so that one node with a wrong clock
can't age messages away.

Plain objects: whoever drives them gives them the clocks to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from node.units import SECOND, ClusterTime, Timestamp

log = logging.getLogger("stanchion.clock")

OFFSET_WINDOW_NS = 5 * SECOND
"""How long a difference counts as recent: monotonic clocks of two machines drift apart."""

REPORT_AGE_MAX_NS = 10 * SECOND
"""A wall clock reported longer ago no longer counts towards the median."""


class ClusterClock:
    """Cluster time, read on this node.

    Args:
        monotonic_ns: this node's monotonic clock.

    Invariant: ``now`` is never below a stamp this node has seen in the log, and goes back at most
    when another leader is heard, or this node becomes one.
    """

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._stamp = 0
        self._floor = 0
        self._heard_term = 0
        # The smallest difference (own clock minus cluster time) of this window and of the last one.
        self._smallest: int | None = None
        self._smallest_before: int | None = None
        self._window_end = 0
        self._fixed: int | None = None
        self._unsure = False  # leads, and nobody has told the time to this process
        self._offered: tuple[int, int] | None = (
            None  # a voter's word: the leader's term it is from, difference
        )

    @property
    def known(self) -> bool:
        """Whether a live leader has told the time to this process, or it leads itself (R12)."""
        return self._fixed is not None or self._offset() is not None

    def now(self) -> ClusterTime:
        """Cluster time in nanoseconds; the last stamp seen while nothing better is known."""
        offset = self._fixed if self._fixed is not None else self._offset()
        if offset is not None:
            self._floor = max(self._floor, self._monotonic_ns() - offset)
        return ClusterTime(self._floor)

    def heard(self, leader_time_ns: int, term: int = 0) -> None:
        """A frame of the current leader, of ``term``, came in, received live, never replayed (R12)."""
        own = self._monotonic_ns()
        if term != self._heard_term:
            self._heard_term = term
            self._floor = self._stamp
            self._smallest = self._smallest_before = None
            self._window_end = own + OFFSET_WINDOW_NS
            self._offered = None
        elif own >= self._window_end:
            self._smallest_before, self._smallest = self._smallest, None
            self._window_end = own + OFFSET_WINDOW_NS
        difference = own - leader_time_ns
        if self._smallest is None or difference < self._smallest:
            self._smallest = difference

    def seen(self, stamp_ns: int) -> None:
        """An entry with this stamp was applied: time is at least that."""
        self._stamp = max(self._stamp, stamp_ns)
        self._floor = max(self._floor, stamp_ns)
        if self._fixed is not None:
            # Elected before it had applied all of its log: time goes on from there, and doesn't wait
            # until it has caught up with what it says meanwhile, for followers believe every frame.
            self._fixed = min(self._fixed, self._monotonic_ns() - stamp_ns)

    def word(self) -> tuple[int, int] | None:
        """What this node has heard: cluster time, and the term of the leader who said so. None: nothing."""
        return (self.now(), self._heard_term) if self.known else None

    def offered(self, time_ns: int, term: int) -> None:
        """A voter's word arrived. That of the latest leader counts, and of those the least delayed one."""
        difference = self._monotonic_ns() - time_ns
        if self._offered is None or (term, -difference) > (self._offered[0], -self._offered[1]):
            self._offered = (term, difference)

    def lead(self, term: int = 0) -> None:
        """This node orders entries of ``term`` from now on: its own clock carries cluster time."""
        self._unsure = not self.known
        self._heard_term = term
        self._floor = self._stamp  # not what an offset said that no longer counts
        self._fixed = self._monotonic_ns() - self.now()

    def adopt(self, stamped_term: int) -> None:
        """Before it stamps its first entry: if it knows no better, this leader goes by a voter's word (R12).

        ``stamped_term`` is the last term in which entries were stamped. The word of an earlier leader
        would run ahead of them.
        """
        if self._unsure and self._fixed is not None and self._offered is not None:
            term, difference = self._offered
            if term >= stamped_term:
                self._fixed = min(self._fixed, difference)
        self._unsure = False

    def follow(self) -> None:
        """Another node leads, or none: what is known so far goes on until its frames say better."""
        if self._fixed is not None:
            self._smallest, self._smallest_before = self._fixed, None
            self._window_end = self._monotonic_ns() + OFFSET_WINDOW_NS
            self._fixed = None

    def _offset(self) -> int | None:
        if self._smallest is None:
            return self._smallest_before
        if self._smallest_before is None:
            return self._smallest
        return min(self._smallest, self._smallest_before)


class WallClock:
    """The leader's timestamps (R13).

    Args:
        monotonic_ns: this node's monotonic clock.
        wall_ns: this node's wall clock, Unix nanoseconds; it may be wrong and may jump.
        offset_max_ns: beyond this distance from the median this node's own clock is reported wrong.
    """

    def __init__(
        self, monotonic_ns: Callable[[], int], wall_ns: Callable[[], int], offset_max_ns: int = 10 * SECOND
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._offset_max_ns = offset_max_ns
        self._reports: dict[str, tuple[int, int]] = {}
        self._voters: frozenset[str] | None = None
        self._last: tuple[int, int] | None = None
        self.offset_ns: int | None = None
        """How far this node's wall clock is ahead of the median, as last known; behind if negative."""
        self.wrong = False
        """Whether that is more than is allowed."""

    def voters_are(self, names: Iterable[str]) -> None:
        """Whose clocks count: those of voting members, for the median is to be a majority's."""
        self._voters = frozenset(names)
        for peer in self._reports.keys() - self._voters:
            del self._reports[peer]

    def report(self, peer: str, wall_ns: int) -> None:
        """A follower's answer said what its wall clock shows."""
        if self._voters is None or peer in self._voters:
            self._reports[peer] = (wall_ns, self._monotonic_ns())

    def reading(self) -> int:
        """What this node's own wall clock shows, to report to the leader."""
        return self._wall_ns()

    def seen(self, timestamp_ns: int, time_ns: int) -> None:
        """An entry with these stamps was applied."""
        if self._last is None or timestamp_ns > self._last[0]:
            self._last = (timestamp_ns, time_ns)

    def stamp(self, time_ns: int, *, free: bool) -> Timestamp:
        """The timestamp of an entry at cluster time ``time_ns``.

        ``free`` lifts the limit of 10 % fast: at a cold start, when the cluster's clock stood still
        for as long as the cluster was down.
        """
        target = self.median()
        if self._last is None:
            stamp = target
        else:
            last, last_time = self._last
            limit = last + (time_ns - last_time) * 11 // 10
            stamp = max(last, target if free else min(target, limit))
        self._last = (stamp, time_ns)
        return Timestamp(stamp)

    def median(self) -> int:
        """What the leader goes by: the median of the voters' wall clocks, as far as heard lately; Unix ns."""
        own = self._monotonic_ns()
        mine = self._wall_ns()
        readings = [mine]
        readings += [wall + own - at for wall, at in self._reports.values() if own - at < REPORT_AGE_MAX_NS]
        middle = sorted(readings)[(len(readings) - 1) // 2]  # the lower one of an even number
        self._judge(mine - middle)
        return middle

    def heard(self, median_ns: int) -> None:
        """The leader said what the median is."""
        self._judge(self._wall_ns() - median_ns)

    def _judge(self, offset_ns: int) -> None:
        """Is this node's own clock wrong, or right again? Not both in turn while it is near the limit."""
        self.offset_ns = offset_ns
        off_ns = abs(offset_ns)
        wrong = off_ns > self._offset_max_ns or (self.wrong and off_ns > self._offset_max_ns * 9 // 10)
        if wrong == self.wrong:
            return
        self.wrong = wrong
        if wrong:
            direction = "ahead of" if offset_ns > 0 else "behind"
            log.warning(
                "this node's wall clock is %.1f s %s the cluster's median: while such a node leads, "
                "no message is dropped for its age", off_ns / SECOND, direction,
            )  # fmt: skip
        else:
            log.warning("this node's wall clock agrees with the cluster's again")
