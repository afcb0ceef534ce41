"""The two clocks of the log (R11–R13)."""

from __future__ import annotations

import pytest

from node.server.clock import ClusterClock, WallClock
from node.units import MILLISECOND, SECOND


class Machine:
    """A machine's clocks, set by the test."""

    def __init__(self, monotonic_ns: int = 0, wall_clock_ns: int = 0) -> None:
        self.monotonic_ns = monotonic_ns
        self.wall_clock_ns = wall_clock_ns

    def pass_(self, ns: int) -> None:
        self.monotonic_ns += ns
        self.wall_clock_ns += ns


def cluster_clock(machine: Machine) -> ClusterClock:
    return ClusterClock(lambda: machine.monotonic_ns)


def wall_clock(machine: Machine) -> WallClock:
    return WallClock(lambda: machine.monotonic_ns, lambda: machine.wall_clock_ns)


def test_a_follower_reads_the_leaders_time_from_its_fastest_frame() -> None:
    """R11: the frame with the least delay is the most exact one."""
    machine = Machine(monotonic_ns=1000 * SECOND)
    clock = cluster_clock(machine)
    clock.received(50 * SECOND - 40 * MILLISECOND)  # 40 ms on its way
    assert clock.now() == 50 * SECOND - 40 * MILLISECOND
    clock.received(50 * SECOND - 1 * MILLISECOND)
    assert clock.now() == 50 * SECOND - 1 * MILLISECOND
    clock.received(50 * SECOND - 90 * MILLISECOND)
    assert clock.now() == 50 * SECOND - 1 * MILLISECOND


def test_time_goes_on_without_a_leader() -> None:
    """R11: deadlines neither jump nor start again when a follower becomes leader."""
    machine = Machine(monotonic_ns=7 * SECOND)
    clock = cluster_clock(machine)
    clock.received(100 * SECOND)
    machine.pass_(2 * SECOND)
    clock.lead()
    assert clock.now() == 102 * SECOND
    machine.pass_(3 * SECOND)
    assert clock.now() == 105 * SECOND
    clock.follow()
    machine.pass_(1 * SECOND)
    assert clock.now() == 106 * SECOND


def test_the_estimate_of_a_later_leader_replaces_an_earlier_one() -> None:
    """R12: a third leader must not use the time of the first one if the second leader was behind it.

    The simulator saw deadlines of messages that the second had sent pass too early under the third.
    """
    machine = Machine(monotonic_ns=7 * SECOND)
    clock = cluster_clock(machine)
    clock.received(100 * SECOND, term=1)
    assert clock.now() == 100 * SECOND
    clock.received(100 * SECOND - 200 * MILLISECOND, term=2)
    assert clock.now() == 100 * SECOND - 200 * MILLISECOND
    machine.pass_(SECOND)
    clock.lead()
    assert clock.now() == 101 * SECOND - 200 * MILLISECOND


def test_a_deposed_leader_uses_its_successors_time_at_once() -> None:
    """R12: it receives the later leader's first frame before it knows that it no longer leads.

    It would else run ahead by as much as that leader knew less, and keep from its clients what that decides.
    """
    machine = Machine(monotonic_ns=1000 * SECOND)
    clock = cluster_clock(machine)
    clock.received(50 * SECOND, 1)
    clock.lead(2)
    machine.pass_(10 * SECOND)
    assert clock.now() == 60 * SECOND
    clock.received(57 * SECOND, 3)
    assert clock.now() == 57 * SECOND
    clock.follow()
    machine.pass_(SECOND)
    assert clock.now() == 58 * SECOND
    assert clock.time_and_term() == (58 * SECOND, 3)


def test_a_new_leader_without_an_offset_continues_from_the_last_stamp() -> None:
    """R12: replayed entries only give a lower bound of the time."""
    machine = Machine(monotonic_ns=5)
    clock = cluster_clock(machine)
    clock.seen(77 * SECOND)
    assert not clock.known
    clock.lead()
    machine.pass_(SECOND)
    assert clock.now() == 78 * SECOND


def test_a_new_leader_without_an_offset_uses_a_voters_estimate() -> None:
    """R12: a node elected just after its start also counts the time without a leader."""
    voter_machine, machine = Machine(monotonic_ns=900 * SECOND), Machine(monotonic_ns=5)
    voter, clock = cluster_clock(voter_machine), cluster_clock(machine)
    assert voter.time_and_term() is None
    voter.received(80 * SECOND, term=3)
    voter_machine.pass_(3 * SECOND)
    clock.seen(77 * SECOND)
    word = voter.time_and_term()
    assert word == (83 * SECOND, 3)
    clock.offered(*word)
    clock.offered(82 * SECOND, 3)
    machine.pass_(SECOND)
    clock.lead(4)
    assert clock.now() == 77 * SECOND
    clock.adopt(3)
    assert clock.now() == 84 * SECOND
    assert clock.time_and_term() == (84 * SECOND, 4)


def test_an_estimate_of_an_earlier_leader_is_not_used() -> None:
    """The last leader's time was behind: messages it sent would be redelivered early."""
    machine = Machine(monotonic_ns=5)
    clock = cluster_clock(machine)
    clock.seen(77 * SECOND)
    clock.offered(80 * SECOND, 3)
    clock.lead(5)
    clock.adopt(4)
    assert clock.now() == 77 * SECOND


def test_a_node_with_its_own_estimate_ignores_those_of_voters() -> None:
    machine = Machine(monotonic_ns=5)
    clock = cluster_clock(machine)
    clock.offered(90 * SECOND, 3)
    clock.received(80 * SECOND, term=3)
    clock.offered(91 * SECOND, 3)
    clock.lead(4)
    clock.adopt(3)
    assert clock.now() == 80 * SECOND


def test_the_estimate_of_the_latest_leader_counts() -> None:
    machine = Machine(monotonic_ns=5)
    clock = cluster_clock(machine)
    clock.seen(70 * SECOND)
    clock.offered(80 * SECOND, 3)
    clock.offered(79 * SECOND, 4)
    clock.offered(90 * SECOND, 2)
    clock.offered(78 * SECOND, 4)
    clock.lead(5)
    clock.adopt(3)
    assert clock.now() == 79 * SECOND


def test_a_leader_that_is_still_applying_its_log_does_not_stand_still() -> None:
    """Otherwise followers would take the next frame for one without delay, and run ahead when they lead."""
    machine = Machine(monotonic_ns=5)
    clock = cluster_clock(machine)
    clock.seen(70 * SECOND)
    clock.lead()
    clock.seen(77 * SECOND)
    machine.pass_(SECOND)
    assert clock.now() == 78 * SECOND


def test_time_never_goes_back() -> None:
    machine = Machine(monotonic_ns=10 * SECOND)
    clock = cluster_clock(machine)
    clock.received(20 * SECOND)
    assert clock.now() == 20 * SECOND
    clock.seen(25 * SECOND)
    assert clock.now() == 25 * SECOND
    machine.pass_(SECOND)
    assert clock.now() == 25 * SECOND


def test_an_old_difference_is_forgotten() -> None:
    """Two machines' clocks drift: only recent frames count."""
    machine = Machine(monotonic_ns=0)
    clock = cluster_clock(machine)
    clock.received(10 * SECOND)
    for _ in range(3):
        machine.pass_(6 * SECOND)
        clock.received(10 * SECOND + machine.monotonic_ns - 5 * MILLISECOND)
    assert clock.now() == 10 * SECOND + machine.monotonic_ns - 5 * MILLISECOND


def test_the_timestamp_is_the_median_of_the_wall_clocks() -> None:
    """R13: one node with a wrong clock doesn't date messages."""
    machine = Machine(wall_clock_ns=2_000_000_000 * SECOND)
    wall_time = wall_clock(machine)
    wall_time.report("n2", 1_700_000_000 * SECOND)
    wall_time.report("n3", 1_700_000_001 * SECOND)
    assert wall_time.stamp(0, free=True) == 1_700_000_001 * SECOND
    assert wall_time.wrong
    assert wall_time.offset_ns == (2_000_000_000 - 1_700_000_001) * SECOND


def test_timestamps_run_at_most_ten_percent_fast() -> None:
    """R13: a clock that jumps ahead can't age messages away."""
    machine = Machine(wall_clock_ns=1000 * SECOND)
    wall_time = wall_clock(machine)
    assert wall_time.stamp(50 * SECOND, free=False) == 1000 * SECOND
    machine.wall_clock_ns += 3600 * SECOND
    assert wall_time.stamp(60 * SECOND, free=False) == 1011 * SECOND
    assert wall_time.stamp(60 * SECOND, free=True) == 4600 * SECOND


def test_timestamps_never_go_back() -> None:
    machine = Machine(wall_clock_ns=1000 * SECOND)
    wall_time = wall_clock(machine)
    wall_time.seen(1500 * SECOND, 10 * SECOND)
    assert wall_time.stamp(10 * SECOND, free=True) == 1500 * SECOND


def test_an_old_report_no_longer_counts() -> None:
    machine = Machine(wall_clock_ns=1000 * SECOND)
    wall_time = wall_clock(machine)
    wall_time.report("n2", 10 * SECOND)
    wall_time.report("n3", 10 * SECOND)
    machine.pass_(11 * SECOND)
    assert wall_time.stamp(0, free=True) == 1011 * SECOND


def test_only_voters_clocks_count() -> None:
    """R13: learners and removed members don't count for a majority."""
    machine = Machine(wall_clock_ns=SECOND)
    wall_time = wall_clock(machine)
    wall_time.voters_are(["n1", "n2", "n3"])
    for peer in ("n4", "n5", "n6"):
        wall_time.report(peer, 100 * SECOND)
    assert wall_time.stamp(0, free=True) == SECOND
    wall_time.report("n2", 5 * SECOND)
    wall_time.report("n3", 6 * SECOND)
    wall_time.voters_are(["n1", "n4"])
    assert wall_time.stamp(0, free=True) == SECOND


def test_a_wrong_clock_is_logged_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    """R13: on any node, by the leader's median; a clock near the limit is not logged again and again."""
    machine = Machine(wall_clock_ns=1000 * SECOND)
    wall_time = wall_clock(machine)
    for ahead_s, wrong in (
        (9, False),
        (11, True),
        (300, True),
        (9.5, True),
        (10.5, True),
        (8, False),
        (9.5, False),
    ):
        wall_time.received(machine.wall_clock_ns - int(ahead_s * SECOND))
        assert wall_time.wrong is wrong
        assert wall_time.offset_ns == int(ahead_s * SECOND)
    wall_time.received(machine.wall_clock_ns + 60 * SECOND)
    assert wall_time.wrong
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "this node's wall clock is 11.0 s ahead of the cluster's median",
        "this node's wall clock agrees with the cluster's again",
        "this node's wall clock is 60.0 s behind the cluster's median",
    ]


# --- clocks that are not believed -----------------------------------------------------------------

DAY = 24 * 3600 * SECOND


def test_a_clock_set_back_stops_neither_timestamps_nor_ages() -> None:
    """8 h back: nothing expired for 8 h, and all messages published meanwhile had the same timestamp."""
    machine = Machine(wall_clock_ns=100 * DAY)
    wall_time = wall_clock(machine)
    start = wall_time.stamp(0, free=True)
    machine.wall_clock_ns -= 8 * 3600 * SECOND
    machine.pass_(3600 * SECOND)
    assert wall_time.stamp(3600 * SECOND, free=False) == start + 3240 * SECOND, "nine tenths of the time"
    assert wall_time.estimate(7200 * SECOND) > start + 3240 * SECOND


def test_a_clock_far_ahead_at_the_start_deletes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """30 days: everything expired, and timestamps stayed ahead when the clock was corrected."""
    machine = Machine(wall_clock_ns=130 * DAY)
    wall_time = wall_clock(machine)
    wall_time.seen(100 * DAY, 5 * SECOND)
    assert wall_time.stamp(5 * SECOND, free=True) == 100 * DAY
    assert "NOT believed" in caplog.text
    machine.pass_(60 * SECOND)
    assert wall_time.stamp(65 * SECOND, free=False) == 100 * DAY + 60 * SECOND
    machine.wall_clock_ns = 100 * DAY + 120 * SECOND
    caplog.clear()
    machine.pass_(1200 * SECOND)
    assert wall_time.stamp(1265 * SECOND, free=False) == 100 * DAY + 1320 * SECOND
    assert "agree" not in caplog.text or "again" in caplog.text


def test_a_new_cluster_uses_its_clock() -> None:
    """Its state has no timestamp yet, and nothing contradicts the clock."""
    machine = Machine(wall_clock_ns=130 * DAY)
    wall_time = wall_clock(machine)
    wall_time.seen(0, 0)
    assert wall_time.off_ns(0) == 0
    assert wall_time.stamp(0, free=False) == 130 * DAY


def test_a_cluster_that_was_down_for_days_uses_its_clock() -> None:
    """Up to a week, at a cold start."""
    machine = Machine(wall_clock_ns=106 * DAY)
    wall_time = wall_clock(machine)
    wall_time.seen(100 * DAY, 5 * SECOND)
    assert wall_time.stamp(5 * SECOND, free=True) == 106 * DAY


@pytest.mark.parametrize(
    ("reports", "believed"), [((0, 0), True), ((0,), True), ((-30,), False), ((), False)]
)
def test_a_majority_of_clocks_that_agree_is_believed(reports: tuple[int, ...], believed: bool) -> None:
    """The cluster was down for a month."""
    machine = Machine(wall_clock_ns=130 * DAY)
    wall_time = wall_clock(machine)
    wall_time.voters_are(["n1", "n2", "n3"])
    for number, off_days in enumerate(reports, 2):
        wall_time.report(f"n{number}", machine.wall_clock_ns + off_days * DAY)
    if -30 in reports:
        machine.wall_clock_ns = 115 * DAY  # neither of the two agrees with the other
    wall_time.seen(100 * DAY - 8 * DAY, 5 * SECOND)
    assert (wall_time.stamp(5 * SECOND, free=True) > 100 * DAY) == believed


def test_an_operator_confirms_a_clock() -> None:
    machine = Machine(wall_clock_ns=130 * DAY)
    wall_time = wall_clock(machine)
    wall_time.seen(100 * DAY, 5 * SECOND)
    assert wall_time.stamp(5 * SECOND, free=True) == 100 * DAY
    assert wall_time.off_ns(5 * SECOND) == 30 * DAY
    wall_time.confirm()
    assert wall_time.stamp(5 * SECOND, free=False) == 130 * DAY
    assert wall_time.off_ns(5 * SECOND) == 0
    wall_time.stamp(5 * SECOND, free=False)
    machine.wall_clock_ns += 30 * DAY
    assert wall_time.stamp(6 * SECOND, free=False) < 131 * DAY, (
        "it was that clock that was confirmed, not the next"
    )


def test_timestamps_are_right_at_once_after_a_suspension() -> None:
    """The monotonic clock doesn't include a suspension: timestamps were hours behind for days."""
    machine = Machine(wall_clock_ns=100 * DAY)
    suspended_ns = 0
    wall_time = WallClock(
        lambda: machine.monotonic_ns,
        lambda: machine.wall_clock_ns,
        boot_ns=lambda: machine.monotonic_ns + suspended_ns,
    )
    wall_time.stamp(0, free=True)
    suspended_ns = 5 * 3600 * SECOND
    machine.wall_clock_ns += suspended_ns
    machine.pass_(SECOND)
    assert wall_time.stamp(SECOND, free=False) == machine.wall_clock_ns
    assert wall_time.off_ns(SECOND) == 0


def test_a_median_from_before_a_suspension_is_out_of_date() -> None:
    """It was compared with the time since: a false warning until the next entry."""
    machine = Machine(wall_clock_ns=100 * DAY)
    suspended_ns = 0
    wall_time = WallClock(
        lambda: machine.monotonic_ns,
        lambda: machine.wall_clock_ns,
        boot_ns=lambda: machine.monotonic_ns + suspended_ns,
    )
    wall_time.voters_are(["n1", "n2", "n3"])
    wall_time.report("n2", machine.wall_clock_ns)
    wall_time.report("n3", machine.wall_clock_ns)
    wall_time.stamp(0, free=True)
    suspended_ns = 5 * 3600 * SECOND
    machine.wall_clock_ns += suspended_ns
    assert wall_time.off_ns(0) == 0
    assert wall_time.right_peers == [], "no report for 5 hours"
    assert wall_time.median() == machine.wall_clock_ns
    assert not wall_time.wrong


def test_a_leader_that_stamps_nothing_notices_a_clock_jump(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine(wall_clock_ns=100 * DAY)
    wall_time = wall_clock(machine)
    wall_time.look(0)  # a new cluster has no timestamp yet
    wall_time.stamp(0, free=True)
    wall_time.look(0)
    assert caplog.text == ""
    machine.wall_clock_ns -= 8 * 3600 * SECOND
    wall_time.look(0)
    wall_time.look(0)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the cluster's wall clocks are 28800.0 s behind the timestamps so far"
    ]
    assert wall_time.off_ns(0) == -8 * 3600 * SECOND
