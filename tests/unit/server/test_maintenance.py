"""Commands of a leader for the machine version and the pause of expiry (R13, R24)."""

from __future__ import annotations

from node.core.commands import LeaderCommand, PauseExpiry, RaiseVersion
from node.core.state import State
from node.server.clock import WallClock
from node.server.maintenance import EVERY_S, Maintenance
from node.units import SECOND

WALL_NS = 1_700_000_000 * SECOND


class Leader:
    def __init__(self, known: int = 1) -> None:
        self.now_s = 100.0
        self.state = State()
        self.members = ["n1", "n2", "n3"]
        self.proposed: list[LeaderCommand] = []
        self.wall_clock = WallClock(lambda: 0, lambda: WALL_NS)
        self.maintenance = Maintenance(
            "n1",
            known,
            lambda: self.state,
            self.wall_clock,
            members=lambda: self.members,
            propose=self.proposed.append,
        )

    def look(self) -> list[LeaderCommand]:
        self.now_s += EVERY_S
        self.maintenance.pump(self.now_s, 7)
        found, self.proposed[:] = list(self.proposed), []
        return found


def test_the_version_is_raised_when_all_members_support_it() -> None:
    """R24: a member that isn't connected must have reported it too."""
    leader = Leader(known=3)
    leader.maintenance.peer_up("n2", {"machine": 2})
    assert leader.look() == [], "n3 was never met"
    leader.maintenance.peer_up("n3", {"machine": 1})
    assert leader.look() == []
    leader.maintenance.peer_up("n3", {"machine": 3})
    (raised,) = leader.look()
    assert isinstance(raised, RaiseVersion)
    assert (raised.term, raised.version) == (7, 2)
    assert raised.release
    assert leader.look(), "it wasn't applied, so it is proposed again"
    leader.state.version = 2
    assert leader.look() == []


def test_a_downgraded_member_counts_with_its_older_version() -> None:
    leader = Leader(known=2)
    leader.maintenance.peer_up("n2", {"machine": 2})
    leader.maintenance.peer_up("n3", {"machine": 2})
    leader.maintenance.peer_up("n3", {"machine": 1})
    assert leader.look() == []


def test_a_removed_member_is_not_waited_for() -> None:
    leader = Leader(known=2)
    leader.maintenance.peer_up("n2", {"machine": 2})
    leader.members = ["n1", "n2"]
    assert len(leader.look()) == 1
    leader.members = []
    assert leader.look() == [], "the membership isn't known"


def test_an_older_release_raises_nothing() -> None:
    leader = Leader()
    leader.maintenance.peer_up("n2", {"machine": 2})
    leader.maintenance.peer_up("n3", {"machine": 2})
    assert leader.look() == []


def test_expiry_is_paused_while_the_leaders_clock_is_wrong() -> None:
    """R13."""
    leader = Leader()
    for peer in ("n2", "n3"):
        leader.wall_clock.report(peer, WALL_NS - 3600 * SECOND)
    leader.wall_clock.median()
    assert leader.look() == [PauseExpiry(7, True)]
    leader.state.expiry_paused = True
    assert leader.look() == []
    for peer in ("n2", "n3"):
        leader.wall_clock.report(peer, WALL_NS)
    leader.wall_clock.median()
    assert leader.look() == [PauseExpiry(7, False)]


def test_it_checks_once_a_second() -> None:
    leader = Leader(known=2)
    leader.members = ["n1"]
    assert len(leader.look()) == 1
    leader.maintenance.pump(leader.now_s + EVERY_S / 2, 7)
    assert leader.proposed == []
