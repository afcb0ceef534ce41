"""Leader duties for wall clocks (R13)."""

from __future__ import annotations

from typing import Any

import pytest

from node.core.state import State
from node.server.clock import ClusterClock, WallClock
from node.server.clock_duty import AGAIN_S, PATIENCE_S, TRY_S, ClockDuty
from node.units import SECOND

WALL_NS = 1_700_000_000 * SECOND


class Leader:
    """A leader of three nodes that records its hand-overs."""

    is_changing = False

    def __init__(self) -> None:
        self.now_s = 100.0
        self.ready: set[str] = set()
        """Nodes that have all entries, and take over when asked."""
        self.asked: list[str | None] = []
        self.stopped = False
        self.wall_clock = WallClock(self._now_ns, lambda: WALL_NS + self._now_ns())
        self.peers: dict[str, int] = {}
        self.duty = ClockDuty("n1", self, self, State, ClusterClock(self._now_ns), self.wall_clock)

    def _now_ns(self) -> int:
        return int(self.now_s * SECOND)

    def transfer_leadership(self, to: str | None = None) -> bool:
        self.asked.append(to)
        return to in self.ready

    def stop(self) -> None:
        self.stopped = True

    def resume(self) -> None:
        self.stopped = False

    def later(self, seconds: float, term: int = 7) -> None:
        """Let time pass, while the peers report what their clocks show."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self.now_s += 0.5
            for peer, off_s in self.peers.items():
                self.wall_clock.report(peer, WALL_NS + self._now_ns() + off_s * SECOND)
            self.wall_clock.median()
            self.duty.pump(self.now_s, term)


def test_a_leader_whose_clock_is_wrong_hands_over() -> None:
    """The new leader must have a right clock, or nodes would hand over for ever."""
    leader = Leader()
    leader.peers = {"n2": -3600, "n3": -3600}
    leader.later(PATIENCE_S - 1)
    assert leader.asked == []
    leader.ready = {"n3"}
    leader.later(2)
    assert leader.stopped
    assert leader.asked[:2] == ["n2", "n3"]


def test_a_failed_hand_over_is_given_up() -> None:
    """Publishes are held up no longer than ``TRY_S``, and the next attempt doesn't follow at once."""
    leader = Leader()
    leader.peers = {"n2": -3600, "n3": -3600}
    leader.later(PATIENCE_S + 1)
    assert leader.stopped
    leader.later(TRY_S + 0.5)
    assert not leader.stopped
    asked = len(leader.asked)
    leader.later(AGAIN_S - TRY_S - 3)
    assert len(leader.asked) == asked
    leader.later(4)
    assert len(leader.asked) > asked


def test_a_leader_with_a_right_clock_keeps_leading() -> None:
    leader = Leader()
    leader.peers = {"n2": 0, "n3": -3600}
    leader.later(60)
    assert leader.asked == []
    leader.peers = {}
    leader.later(60)
    assert leader.asked == [], "no other node has a right clock"


def test_a_leader_whose_clock_is_corrected_in_time_keeps_leading() -> None:
    leader = Leader()
    leader.peers = {"n2": -3600, "n3": -3600}
    leader.later(PATIENCE_S - 1)
    leader.peers = {"n2": 0, "n3": 0}
    leader.later(60)
    assert leader.asked == []


def test_no_hand_over_during_a_membership_change() -> None:
    leader = Leader()
    leader.is_changing = True
    leader.peers = {"n2": -3600, "n3": -3600}
    leader.later(PATIENCE_S + 5)
    assert leader.asked == []


def test_an_operator_can_show_and_confirm_the_clocks() -> None:
    leader = Leader()
    leader.wall_clock.seen(WALL_NS - 30 * 24 * 3600 * SECOND, 0)
    answers: list[dict[str, Any]] = []
    leader.wall_clock.median()
    leader.duty.show({}, answers.append)
    assert not answers[0]["ok"]["believed"]
    assert answers[0]["ok"]["clocks_ahead_ns"] > 29 * 24 * 3600 * SECOND
    assert leader.wall_clock.stamp(0, free=True) < WALL_NS - 29 * 24 * 3600 * SECOND
    leader.duty.show({"confirm": True}, answers.append)
    assert answers[1]["ok"]["believed"]
    assert leader.wall_clock.stamp(0, free=False) >= WALL_NS


def test_a_leader_reads_the_clocks_even_if_no_entry_is_stamped(caplog: pytest.LogCaptureFixture) -> None:
    """Without this, a single node without clients logged a clock jump only at the next publish."""
    leader = Leader()
    leader.wall_clock.seen(WALL_NS, 0)
    leader.now_s += 30 * 24 * 3600
    leader.duty.pump(leader.now_s, 7)
    assert "NOT believed" in caplog.text
    assert leader.wall_clock.off_ns(0) > 0
