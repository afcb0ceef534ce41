"""Who is heard: what counts as gone, back, moved, and when a move is old news (R15)."""

from __future__ import annotations

from node.server.interest import InterestChange
from node.server.presence import ACTED_NS, Presence, Sight, Where
from node.units import MILLISECOND, SECOND

INBOX = "_INBOX.a"
N1: Where = ("n1", 11)
N2: Where = ("n2", 22)


class World:
    """One inbox, who hears it, and the time."""

    def __init__(self, where: Where | None = N1) -> None:
        self.time_ns = SECOND
        self.heard = where
        self.presence = Presence(self, lambda: self.time_ns)

    def where(self, _subject: bytes) -> Where | None:
        return self.heard

    def look(self) -> Sight:
        return self.presence.look([INBOX])[INBOX]

    def changes(self, where: Where, *, gone: bool) -> None:
        before, now = (where[1], 0) if gone else (0, where[1])
        self.presence.changed(where[0], [InterestChange(INBOX.encode(), b"", before, now)])

    def goes(self, where: Where, at_ns: int) -> None:
        self.time_ns = at_ns
        if self.heard == where:
            self.heard = None
        self.changes(where, gone=True)

    def comes(self, where: Where, at_ns: int) -> None:
        self.time_ns = at_ns
        self.heard = where
        self.changes(where, gone=False)


def test_an_inbox_that_stays_has_not_moved() -> None:
    world = World()
    assert world.look() == Sight(N1, None)
    assert not world.look().moved


def test_gone_since_the_connection_went_not_since_somebody_looked() -> None:
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.time_ns = 3 * SECOND
    sight = world.look()
    assert sight.where is None
    assert sight.gone_since_ns == 2 * SECOND
    assert not sight.moved


def test_back_through_another_connection_has_moved_since_it_went() -> None:
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.look()
    world.comes(N2, 4 * SECOND)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 2 * SECOND


def test_moved_between_two_looks_it_was_gone_since_it_went() -> None:
    """Its coming back was taken for its going: what it missed meanwhile waited for its AckWait."""
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.comes(N2, 2 * SECOND + 100 * MILLISECOND)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 2 * SECOND


def test_where_the_new_connection_comes_before_the_old_is_seen_to_go_that_moment_counts() -> None:
    world = World()
    world.look()
    world.comes(N2, 2 * SECOND)
    world.goes(N1, 5 * SECOND)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 2 * SECOND


def test_an_old_connection_that_goes_later_says_nothing_of_the_next_move() -> None:
    world = World()
    world.look()
    world.comes(N2, 2 * SECOND)
    world.look()
    world.goes(N1, 3 * SECOND)
    world.look().moved = False
    world.goes(N2, 9 * SECOND)
    assert world.look().gone_since_ns == 9 * SECOND


def test_a_move_that_a_leader_acted_on_is_forgotten_by_all() -> None:
    """Else the next leader acted on it again, and what was sent since came again long before its AckWait."""
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.comes(N2, 2 * SECOND + MILLISECOND)
    assert world.look().moved
    world.presence.acted([INBOX], 3 * SECOND)
    assert not world.look().moved


def test_a_move_seen_only_after_a_leader_acted_on_it_is_no_news() -> None:
    """A follower looks twice a second; the leader may have acted by then."""
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.comes(N2, 2 * SECOND + MILLISECOND)
    world.presence.acted([INBOX], 2 * SECOND + 300 * MILLISECOND)
    assert not world.look().moved


def test_a_move_after_the_leader_acted_is_another() -> None:
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.comes(N2, 2 * SECOND + MILLISECOND)
    world.presence.acted([INBOX], 3 * SECOND)
    world.look()
    world.goes(N2, 3 * SECOND + ACTED_NS + MILLISECOND)
    world.comes(N1, 4 * SECOND)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 3 * SECOND + ACTED_NS + MILLISECOND


def test_moved_twice_before_a_leader_acted_it_was_gone_since_the_first() -> None:
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.comes(N2, 2 * SECOND + MILLISECOND)
    world.look()
    world.goes(N2, 3 * SECOND)
    world.look()
    world.comes(N1, 4 * SECOND)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 2 * SECOND


def test_first_heard_by_this_process_is_not_moved() -> None:
    """A restarted node learns everybody's interest anew; when it led, everybody seemed to have moved."""
    world = World(None)
    world.look()
    world.comes(N1, 2 * SECOND)
    sight = world.look()
    assert sight.where == N1
    assert not sight.moved


def test_back_through_the_same_connection_is_not_moved() -> None:
    """Only the link to its node was away; the client's own connection was not."""
    world = World()
    world.look()
    world.goes(N1, 2 * SECOND)
    world.look()
    world.comes(N1, 4 * SECOND)
    assert not world.look().moved
