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

from node.units import MILLISECOND, SECOND, ClusterTime, Timestamp

log = logging.getLogger("stanchion.clock")

OFFSET_WINDOW_NS = 5 * SECOND
"""How long a difference counts as recent: monotonic clocks of two machines drift apart."""

TIME_SURE_NS = 10 * MILLISECOND
"""Two nodes' clocks that differ by less may not differ: the frame that told the time was delayed."""

JUMP_MAX_NS = 7 * 24 * 3600 * SECOND
"""A wall clock that is further from what was known before is believed only if it is confirmed."""

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

    def received(self, leader_time_ns: int, term: int = 0) -> None:
        """A frame of the current leader, of ``term``, came in, received live, never replayed (R12)."""
        own = self._monotonic_ns()
        if term != self._heard_term:
            self._heard_term = term
            self._floor = self._stamp
            self._fixed = None  # a leader that was: it hears of its successor before `follow` is called
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

    They follow the median of the voters' wall clocks, at 90 % to 110 % of the speed at which time elapses. A
    median that is further than ``JUMP_MAX_NS`` from the last timestamp and the time since is not believed:
    timestamps go on at the speed of time, and so do ages, until it is near again, a majority of voters has
    clocks that agree with it, or an operator confirms it.

    Args:
        monotonic_ns: this node's monotonic clock.
        wall_clock_ns: this node's wall clock, Unix nanoseconds; it may be wrong and may jump.
        offset_max_ns: beyond this distance from the median this node's own clock is reported wrong.
        boot_ns: like ``monotonic_ns``, but goes on while the machine is suspended; None: there is none.
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
        # As last known, and when; like reports, by the clock that goes on while the machine is suspended.
        self._median: tuple[int, int] | None = None
        self._told_off: bool | None = None
        self._monotonic_ns = monotonic_ns
        self._wall_clock_ns = wall_clock_ns
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

    def report(self, peer: str, wall_clock_ns: int) -> None:
        """A follower's answer said what its wall clock shows."""
        if self._voters is None or peer in self._voters:
            self._reports[peer] = (wall_clock_ns, self._boot_ns())

    def reading(self) -> int:
        """What this node's own wall clock shows, to report to the leader."""
        return self._wall_clock_ns()

    def seen(self, timestamp_ns: int, time_ns: int) -> None:
        """An entry with these stamps was applied."""
        if timestamp_ns > (self._last[0] if self._last is not None else 0):  # a new cluster has none yet
            self._set_last(timestamp_ns, time_ns)

    def _set_last(self, timestamp_ns: int, time_ns: int) -> None:
        self._last = (timestamp_ns, time_ns)
        self._suspended_ns = self._boot_ns() - self._monotonic_ns()

    def stamp(self, time_ns: int, *, free: bool) -> Timestamp:
        """The timestamp of an entry at cluster time ``time_ns``.

        ``free`` lifts the limit of 110 %: at a cold start, when the cluster's clock stood still for as long
        as the cluster was down. An operator's confirmation lifts it, too.
        """
        target = self.median()
        stamp = self._next(time_ns, target, free=free)
        if self._last is not None:
            off = target - self._expected(time_ns)
            self._notify_off(off, target)
            if abs(off) <= self._offset_max_ns:
                self._is_confirmed = False  # it has done its work
        self._set_last(stamp, time_ns)
        return Timestamp(stamp)

    def look(self, time_ns: int) -> None:
        """Read the clocks at cluster time ``time_ns``, and log if timestamps are far from them.

        For a leader that stamps nothing: a clock that jumps is noticed all the same.
        """
        target = self.median()
        if self._last is not None:
            self._notify_off(target - self._expected(time_ns), target)

    def estimate(self, time_ns: int) -> int:
        """The timestamp that an entry at cluster time ``time_ns`` would have."""
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
        """An operator says that the median is right, however far it is from the last timestamp.

        Timestamps that were ahead of it never go back; they go on at 90 % until it has come up with them.
        """
        self._is_confirmed = True

    def off_ns(self, time_ns: int) -> int:
        """How far the median is ahead of the last timestamp and the time since; negative: behind.

        0 if no median is known.
        """
        if self._median is None or self._last is None:
            return 0
        median_ns, at_ns = self._median
        return median_ns + self._boot_ns() - at_ns - self._expected(time_ns)

    def believed(self, time_ns: int) -> bool:
        """Whether timestamps follow the median, at cluster time ``time_ns``. For the leader to say."""
        return self._last is None or self._believes(self.off_ns(time_ns), self.median())

    @property
    def right_peers(self) -> list[str]:
        """Voters whose clocks agree with the median, as far as heard lately."""
        middle, own = self.median(), self._boot_ns()
        return [
            peer
            for peer, (wall_clock_ns, at_ns) in self._reports.items()
            if own - at_ns < REPORT_AGE_MAX_NS
            and abs(wall_clock_ns + own - at_ns - middle) <= self._offset_max_ns
        ]

    def _expected(self, time_ns: int) -> int:
        """The last timestamp and the time since, that of suspension included."""
        assert self._last is not None
        last, last_time = self._last
        suspended_ns = self._boot_ns() - self._monotonic_ns() - self._suspended_ns
        return last + max(0, time_ns - last_time) + max(0, suspended_ns)

    def _believes(self, off: int, target: int) -> bool:
        if abs(off) <= JUMP_MAX_NS or self._is_confirmed:
            return True
        agreeing = len(self.right_peers) + (abs(self._wall_clock_ns() - target) <= self._offset_max_ns)
        voters = len(self._voters) if self._voters is not None else len(self._reports) + 1
        return agreeing > 1 and agreeing > voters // 2

    def _notify_off(self, off: int, target: int) -> None:
        """Say once that timestamps are far from the clocks, whether these are believed, and the end of it."""
        far = abs(off) > self._offset_max_ns or (self._told_off is not None and abs(off) > SECOND)
        told = self._believes(off, target) if far else None
        if told == self._told_off:
            return
        self._told_off = told
        side = "ahead of" if off > 0 else "behind"
        off_s = abs(off) / SECOND
        if told is None:
            log.warning("timestamps agree with the cluster's wall clocks again")
        elif told:
            log.warning(
                "the cluster's wall clocks are %.1f s %s the timestamps so far: these follow at 90 to 110 %% "
                "of the speed of time. If timestamps are behind, `stanchion cluster clock --confirm` sets "
                "them at once", off_s, side,
            )  # fmt: skip
        else:
            log.error(
                "the cluster's wall clocks are %.1f s %s the last timestamp and the time since, and are NOT "
                "believed: messages are dated, and dropped for their age, by the time that elapses. Set the "
                "clocks right, or confirm them: stanchion cluster clock --confirm", off_s, side,
            )  # fmt: skip

    def median(self) -> int:
        """What the leader goes by: the median of the voters' wall clocks, as far as heard lately; Unix ns."""
        own = self._boot_ns()
        mine = self._wall_clock_ns()
        readings = [mine]
        readings += [
            wall_clock + own - at for wall_clock, at in self._reports.values() if own - at < REPORT_AGE_MAX_NS
        ]
        middle = sorted(readings)[(len(readings) - 1) // 2]  # the lower one of an even number
        self._median = (middle, own)
        self._judge(mine - middle)
        return middle

    def received(self, median_ns: int) -> None:
        """The leader said what the median is."""
        self._median = (median_ns, self._boot_ns())
        self._judge(self._wall_clock_ns() - median_ns)

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
