"""The two clocks of the log, as one node reads them (rules R11–R13).

*Cluster time* never goes back in the log, and doesn't depend on wall clocks. Each frame of the current leader
carries the leader's cluster time at the moment of sending. A follower subtracts it from its own monotonic
clock; the smallest difference belongs to the frame with the least delay. A follower that becomes leader goes
on from that time, so deadlines neither jump nor start again.

A leader may have a less exact estimate of cluster time than the leader before it. A node that has received
frames of both uses the later leader's. Otherwise time would jump ahead when this node leads, and messages
sent meanwhile would be redelivered early.

A node that is elected soon after its process started may not have received a frame of any leader. The nodes
that voted for it have: their votes carry cluster time, and the term of the leader it comes from. The new
leader uses it if no later leader has stamped an entry.

*Timestamps* are Unix times, for messages and their ages. The leader's timestamps follow the median of the
wall clocks of a majority, never go back, and run at most 10 % fast. So one node with a wrong clock can't make
messages expire.

Plain objects: the caller supplies the clocks to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from node.units import MILLISECOND, SECOND, ClusterTime, Timestamp

log = logging.getLogger("stanchion.clock")

OFFSET_WINDOW_NS = 5 * SECOND
"""Time for which a difference counts as recent: the monotonic clocks of two machines drift apart."""

TIME_SURE_NS = 10 * MILLISECOND
"""A smaller difference between the clocks of two nodes may be only the delay of the frame with the time."""

JUMP_MAX_NS = 7 * 24 * 3600 * SECOND
"""A median further than this from the expected timestamp is used only if it is confirmed."""

REPORT_AGE_MAX_NS = 10 * SECOND
"""Wall clock readings older than this are left out of the median."""


class ClusterClock:
    """Cluster time, read on this node.

    Args:
        monotonic_ns: this node's monotonic clock.

    Invariant: ``now`` is never below a stamp of an entry that this node has applied. It goes back only when a
    frame of another leader arrives or this node becomes leader.
    """

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self._stamp = 0
        self._floor = 0
        self._leader_term = 0
        # The smallest difference (own clock minus cluster time) of this window and of the last one.
        self._smallest: int | None = None
        self._smallest_before: int | None = None
        self._window_end = 0
        self._fixed: int | None = None
        self._unsure = False  # this node leads, and its process has received no cluster time
        # The best estimate from a vote: the term of the leader it comes from, and the difference.
        self._offered: tuple[int, int] | None = None

    @property
    def known(self) -> bool:
        """True if this process has received cluster time from a live leader, or leads itself (R12)."""
        return self._fixed is not None or self._offset() is not None

    def now(self) -> ClusterTime:
        """Return cluster time in nanoseconds; without an estimate, the stamp of the last applied entry."""
        offset = self._fixed if self._fixed is not None else self._offset()
        if offset is not None:
            self._floor = max(self._floor, self._monotonic_ns() - offset)
        return ClusterTime(self._floor)

    def received(self, leader_time_ns: int, term: int = 0) -> None:
        """Take cluster time from a frame of the current leader of ``term``.

        The frame must have been received live, never replayed (R12).
        """
        own = self._monotonic_ns()
        if term != self._leader_term:
            self._leader_term = term
            self._floor = self._stamp
            self._fixed = None  # a deposed leader receives its successor's frames before `follow` is called
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
        """Note that an entry with this stamp was applied: time is at least that."""
        self._stamp = max(self._stamp, stamp_ns)
        self._floor = max(self._floor, stamp_ns)
        if self._fixed is not None:
            # This leader was elected before it had applied all of its log. Time goes on from the stamp at
            # once, instead of standing still until the leader's clock reaches it: followers use every frame.
            self._fixed = min(self._fixed, self._monotonic_ns() - stamp_ns)

    def time_and_term(self) -> tuple[int, int] | None:
        """Return cluster time and the term of the leader it comes from; None without an estimate."""
        return (self.now(), self._leader_term) if self.known else None

    def offered(self, time_ns: int, term: int) -> None:
        """Take the estimate in a vote. The latest leader's counts; among equal terms, the least delayed."""
        difference = self._monotonic_ns() - time_ns
        if self._offered is None or (term, -difference) > (self._offered[0], -self._offered[1]):
            self._offered = (term, difference)

    def lead(self, term: int = 0) -> None:
        """Start as the leader of ``term``: cluster time continues on this node's own clock."""
        self._unsure = not self.known
        self._leader_term = term
        self._floor = self._stamp  # not the higher value of an estimate that no longer counts
        self._fixed = self._monotonic_ns() - self.now()

    def adopt(self, stamped_term: int) -> None:
        """Use the estimate from a vote if this leader has none of its own (R12).

        To be called before the leader stamps its first entry. ``stamped_term`` is the last term in which
        entries were stamped. An estimate of an earlier leader is not used: it would run ahead of those
        entries.
        """
        if self._unsure and self._fixed is not None and self._offered is not None:
            term, difference = self._offered
            if term >= stamped_term:
                self._fixed = min(self._fixed, difference)
        self._unsure = False

    def follow(self) -> None:
        """Stop leading: the present estimate stays in use until frames of a leader replace it."""
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

    Timestamps follow the median of the voters' wall clocks, at 90 % to 110 % of the speed of elapsed time.
    The *expected timestamp* is the last timestamp plus the time since. A median further than ``JUMP_MAX_NS``
    from it
    is not believed: timestamps and ages advance with elapsed time only, until the median is near again, the
    clocks of a majority of voters agree with it, or an operator confirms it.

    Args:
        monotonic_ns: this node's monotonic clock.
        wall_clock_ns: this node's wall clock, Unix nanoseconds; it may be wrong and may jump.
        offset_max_ns: beyond this distance from the median, this node's own clock is reported as wrong.
        boot_ns: like ``monotonic_ns``, but goes on while the machine is suspended; None: no such clock.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int],
        wall_clock_ns: Callable[[], int],
        offset_max_ns: int = 10 * SECOND,
        *,
        boot_ns: Callable[[], int] | None = None,
    ) -> None:
        self._boot_ns = monotonic_ns if boot_ns is None else boot_ns
        self._suspended_ns = self._boot_ns() - monotonic_ns()  # as of the last timestamp
        self._is_confirmed = False  # by an operator
        # The last median, and when. Like reports, by the clock that goes on while the machine is suspended.
        self._median: tuple[int, int] | None = None
        # While timestamps are far from the clocks: whether the last log line said that the median is
        # believed.
        self._logged_off: bool | None = None
        self._monotonic_ns = monotonic_ns
        self._wall_clock_ns = wall_clock_ns
        self._offset_max_ns = offset_max_ns
        self._reports: dict[str, tuple[int, int]] = {}
        self._voters: frozenset[str] | None = None
        self._last: tuple[int, int] | None = None
        self.offset_ns: int | None = None
        """How far this node's wall clock is ahead of the last median; negative: behind. None: no median
        yet."""
        self.wrong = False
        """True if that offset is larger than allowed."""

    def voters_are(self, names: Iterable[str]) -> None:
        """Set the voting members. Only their clocks count, because the median must represent a majority."""
        self._voters = frozenset(names)
        for peer in self._reports.keys() - self._voters:
            del self._reports[peer]

    def report(self, peer: str, wall_clock_ns: int) -> None:
        """Take the wall clock reading in a follower's reply."""
        if self._voters is None or peer in self._voters:
            self._reports[peer] = (wall_clock_ns, self._boot_ns())

    def reading(self) -> int:
        """Return this node's own wall clock reading, to report to the leader."""
        return self._wall_clock_ns()

    def seen(self, timestamp_ns: int, time_ns: int) -> None:
        """Note that an entry with these stamps was applied."""
        if timestamp_ns > (self._last[0] if self._last is not None else 0):  # a new cluster has no timestamp
            self._set_last(timestamp_ns, time_ns)

    def _set_last(self, timestamp_ns: int, time_ns: int) -> None:
        self._last = (timestamp_ns, time_ns)
        self._suspended_ns = self._boot_ns() - self._monotonic_ns()

    def stamp(self, time_ns: int, *, free: bool) -> Timestamp:
        """Return the timestamp of an entry at cluster time ``time_ns``.

        ``free`` lifts the limit of 110 %. It is for a cold start: cluster time stood still while the whole
        cluster was down. An operator's confirmation lifts the limit too.
        """
        target = self.median()
        stamp = self._next(time_ns, target, free=free)
        if self._last is not None:
            off = target - self._expected(time_ns)
            self._notify_off(off, target)
            if abs(off) <= self._offset_max_ns:
                self._is_confirmed = False  # timestamps have reached the median: no longer needed
        self._set_last(stamp, time_ns)
        return Timestamp(stamp)

    def look(self, time_ns: int) -> None:
        """Read the clocks at cluster time ``time_ns``, and log if timestamps are far from them.

        A leader that stamps no entries calls it, so that a clock jump is noticed too.
        """
        target = self.median()
        if self._last is not None:
            self._notify_off(target - self._expected(time_ns), target)

    def estimate(self, time_ns: int) -> int:
        """Return the timestamp that an entry at cluster time ``time_ns`` would get."""
        return self._next(time_ns, self.median(), free=False)

    def _next(self, time_ns: int, target: int, *, free: bool) -> int:
        if self._last is None:
            return target
        last = self._last[0]
        elapsed = self._expected(time_ns) - last
        if not self._believes(target - last - elapsed, target):
            return last + elapsed
        stamp = max(target, last + elapsed * 9 // 10)
        return stamp if free or self._is_confirmed else min(stamp, last + elapsed * 11 // 10)

    def confirm(self) -> None:
        """Believe the median, however far it is from the last timestamp, because an operator confirmed it.

        Timestamps that are ahead of the median don't go back; they run at 90 % until the median has reached
        them.
        """
        self._is_confirmed = True

    def off_ns(self, time_ns: int) -> int:
        """Return how far the median is ahead of the expected timestamp, or behind if negative.

        0 without a median.
        """
        if self._median is None or self._last is None:
            return 0
        median_ns, at_ns = self._median
        return median_ns + self._boot_ns() - at_ns - self._expected(time_ns)

    def believed(self, time_ns: int) -> bool:
        """Return True if timestamps follow the median at cluster time ``time_ns``. For the leader only."""
        return self._last is None or self._believes(self.off_ns(time_ns), self.median())

    @property
    def right_peers(self) -> list[str]:
        """Voters whose clocks agree with the median, according to recent reports."""
        middle, own = self.median(), self._boot_ns()
        return [
            peer
            for peer, (wall_clock_ns, at_ns) in self._reports.items()
            if own - at_ns < REPORT_AGE_MAX_NS
            and abs(wall_clock_ns + own - at_ns - middle) <= self._offset_max_ns
        ]

    def _expected(self, time_ns: int) -> int:
        """Return the last timestamp plus the time since, time in which the machine was suspended included."""
        assert self._last is not None
        last, last_time = self._last
        suspended_ns = self._boot_ns() - self._monotonic_ns() - self._suspended_ns
        return last + max(0, time_ns - last_time) + max(0, suspended_ns)

    def _believes(self, off: int, target: int) -> bool:
        if abs(off) <= JUMP_MAX_NS or self._is_confirmed:
            return True
        in_agreement = len(self.right_peers) + (abs(self._wall_clock_ns() - target) <= self._offset_max_ns)
        voters = len(self._voters) if self._voters is not None else len(self._reports) + 1
        return in_agreement > 1 and in_agreement > voters // 2

    def _notify_off(self, off: int, target: int) -> None:
        """Log when timestamps become far from the clocks or near again, or the clocks become believed."""
        far = abs(off) > self._offset_max_ns or (self._logged_off is not None and abs(off) > SECOND)
        believed = self._believes(off, target) if far else None
        if believed == self._logged_off:
            return
        self._logged_off = believed
        side = "ahead of" if off > 0 else "behind"
        off_s = abs(off) / SECOND
        if believed is None:
            log.warning("timestamps agree with the cluster's wall clocks again")
        elif believed:
            log.warning(
                "the cluster's wall clocks are %.1f s %s the timestamps so far: timestamps follow them at 90 "
                "to 110 %% of normal speed. If timestamps are behind, `stanchion cluster clock --confirm` "
                "corrects them at once", off_s, side,
            )  # fmt: skip
        else:
            log.error(
                "the cluster's wall clocks are %.1f s %s the expected timestamp, and are NOT believed: "
                "timestamps and message ages advance with elapsed time only. Correct the clocks, or confirm "
                "them: stanchion cluster clock --confirm", off_s, side,
            )  # fmt: skip

    def median(self) -> int:
        """Return the median of the voters' recent wall clock readings, in Unix ns; the leader uses it."""
        own = self._boot_ns()
        mine = self._wall_clock_ns()
        readings = [mine]
        readings += [
            wall_clock + own - at for wall_clock, at in self._reports.values() if own - at < REPORT_AGE_MAX_NS
        ]
        middle = sorted(readings)[(len(readings) - 1) // 2]  # of an even number, the lower middle one
        self._median = (middle, own)
        self._check_own_clock(mine - middle)
        return middle

    def received(self, median_ns: int) -> None:
        """Take the median from a frame of the leader."""
        self._median = (median_ns, self._boot_ns())
        self._check_own_clock(self._wall_clock_ns() - median_ns)

    def _check_own_clock(self, offset_ns: int) -> None:
        """Update and log whether this node's own clock is wrong, with hysteresis near the limit."""
        self.offset_ns = offset_ns
        off_ns = abs(offset_ns)
        wrong = off_ns > self._offset_max_ns or (self.wrong and off_ns > self._offset_max_ns * 9 // 10)
        if wrong == self.wrong:
            return
        self.wrong = wrong
        if wrong:
            direction = "ahead of" if offset_ns > 0 else "behind"
            log.warning(
                "this node's wall clock is %.1f s %s the cluster's median: while this node leads, "
                "no message expires by age", off_ns / SECOND, direction,
            )  # fmt: skip
        else:
            log.warning("this node's wall clock agrees with the cluster's again")
