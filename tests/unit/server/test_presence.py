"""Who is heard, since when not, and through which connection (R15)."""

from __future__ import annotations

from node.core.effects import Returned
from node.server.clock import TIME_SURE_NS
from node.server.interest import InterestChange
from node.server.presence import (
    ACTED_NS,
    FORGET_NS,
    GONE_OTHERS_MAX,
    MOVED_MAX_NS,
    SCAN_COST_S,
    InboxPresence,
    Presence,
    Where,
)
from node.units import SECOND

START_S = 100


class World:
    """The cluster's interest, as a table; cluster time as the test sets it, in seconds."""

    def __init__(self) -> None:
        self.table: dict[bytes, Where] = {}
        self.by_pattern: Where | None = None
        """Somebody who hears everything."""
        self.now = START_S
        self.presence = Presence(self, lambda: self.now * SECOND)

    def where(self, subject: bytes) -> Where | None:
        return self.table.get(subject)

    def where_any(self, subject: bytes) -> Where | None:
        return self.table.get(subject) or self.by_pattern

    def receives(self, subject: bytes, where: Where) -> bool:
        return where in (self.table.get(subject), self.by_pattern)

    def comes(self, inbox: str, node: str = "n1", epoch: int = 1, *, moves: bool = False) -> None:
        before = self.table.get(inbox.encode(), ("", 0))[1] if moves else 0
        self.table[inbox.encode()] = (node, epoch)
        self.presence.changed(node, [InterestChange(inbox.encode(), b"", before, epoch)])

    def goes(self, inbox: str) -> None:
        node, epoch = self.table.pop(inbox.encode())
        self.presence.changed(node, [InterestChange(inbox.encode(), b"", epoch, 0)])

    def look(self, inbox: str = "hb.a") -> InboxPresence:
        return self.presence.scan([inbox])[inbox]


def test_a_heard_inbox_is_where_its_connection_is() -> None:
    world = World()
    world.comes("hb.a", "n2", 7)
    sight = world.look()
    assert sight.where == ("n2", 7)
    assert sight.gone_since_ns is None
    assert not sight.moved


def test_a_gone_inbox_is_gone_since_its_interest_went() -> None:
    """Not since somebody looked: what was sent in between went nowhere."""
    world = World()
    world.comes("hb.a")
    world.look()
    world.now += 5
    world.goes("hb.a")
    world.now += 5
    sight = world.look()
    assert sight.where is None
    assert sight.gone_since_ns == 105 * SECOND


def test_an_inbox_that_comes_through_another_connection_has_moved() -> None:
    """R15: what went into the dead connection needn't wait for its AckWait."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.goes("hb.a")
    world.look()
    world.now += 1
    world.comes("hb.a", "n2", 9)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 101 * SECOND


def test_what_counts_is_when_it_went_not_when_it_came_back() -> None:
    """R15: gone at 101 s, back at 103 s, and nobody looked meanwhile."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.goes("hb.a")
    world.now += 2
    world.comes("hb.a", "n2", 5)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 101 * SECOND


def test_a_second_connection_beside_the_first_has_moved_it() -> None:
    """The half-open one is not noticed for minutes; the client has been on the other since it came."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.comes("hb.a", "n1", 2, moves=True)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 101 * SECOND


def test_one_that_came_back_through_its_old_connection_has_not_moved() -> None:
    """Only the link to its node was away: nothing went into a dead connection."""
    world = World()
    world.comes("hb.a", "n2", 4)
    world.look()
    world.goes("hb.a")
    world.look()
    world.comes("hb.a", "n2", 4)
    assert not world.look().moved


def test_one_that_was_never_away_has_not_moved() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    for _ in range(3):
        world.now += 1
        assert not world.look().moved


def test_what_a_restarted_node_hears_for_the_first_time_has_not_moved() -> None:
    """It learns everybody's interest anew, and knows of no connection before."""
    world = World()
    world.look()
    world.now += 1
    world.comes("hb.a")
    assert not world.look().moved


def test_an_inbox_is_reachable_since_its_subscription_came() -> None:
    """Not since somebody looked: what was sent in between has arrived, and must not be sent again early."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.goes("hb.a")
    world.now += 1
    world.comes("hb.a", "n2", 7)
    world.now += 5
    sight = world.look()
    assert sight.moved
    assert sight.reachable_since_ns == (START_S + 1) * SECOND + TIME_SURE_NS


def test_an_inbox_that_moved_twice_is_reachable_since_the_last_of_them() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.comes("hb.a", "n1", 2, moves=True)
    world.now += 1
    world.comes("hb.a", "n1", 3, moves=True)
    world.now += 5
    assert world.look().reachable_since_ns == (START_S + 2) * SECOND + TIME_SURE_NS


def test_an_inbox_is_reachable_since_the_look_if_nobody_saw_its_connection_come() -> None:
    """The newest subscription went before anybody looked; an older connection still has the inbox."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.comes("hb.a", "n2", 7)
    world.table[b"hb.a"] = ("n3", 5)
    world.now += 5
    assert world.look().reachable_since_ns == (START_S + 5) * SECOND + TIME_SURE_NS


def test_what_came_before_the_time_was_known_is_reachable_since_then() -> None:
    """A node that was just started doesn't send its clients what was decided before it had caught up."""
    world = World()
    for inbox in "hb.a", "hb.b":
        world.comes(inbox, "n1", 1)
    world.presence.scan(["hb.a", "hb.b"])
    for inbox in "hb.a", "hb.b":
        world.comes(inbox, "n2", 7, moves=True)
    world.presence.scan_one("hb.a")
    world.now += 5
    world.presence.learn_time(world.now * SECOND)
    sights = world.presence.scan(["hb.a", "hb.b"])
    assert sights["hb.a"].reachable_since_ns >= world.now * SECOND
    assert sights["hb.b"].reachable_since_ns >= world.now * SECOND


def test_a_move_that_was_acted_on_is_forgotten() -> None:
    """Else the next leader would act on it again, and messages come long before their AckWait."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.comes("hb.a", "n2", 2, moves=True)
    assert world.look().moved
    world.presence.acted([Returned("hb.a"), Returned("unknown")], world.now * SECOND)
    assert not world.look().moved
    world.now += 1
    world.goes("hb.a")
    world.comes("hb.a", "n1", 3)
    assert world.look().moved  # another move is news


def test_a_move_is_news_only_if_it_went_after_it_was_acted_on() -> None:
    """Interest and log take different links: the same move may be noticed after its command was applied."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.presence.acted([Returned("hb.a")], world.now * SECOND - ACTED_NS // 2)
    world.comes("hb.a", "n2", 2, moves=True)
    assert not world.look().moved


def test_a_move_that_was_acted_on_as_another_is_news() -> None:
    """R15: the leader died with the connection it had found the client on; its entry was committed later."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.comes("hb.a", "n2", 2, moves=True)
    world.look()
    world.comes("hb.a", "n3", 3, moves=True)
    moved = world.look()
    assert moved.moved
    world.presence.acted([Returned("hb.a", "n2", 2)], world.now * SECOND)
    assert world.look().moved
    assert world.look().before == ("n1", 1)
    world.presence.acted([Returned("hb.a", "n3", 3)], world.now * SECOND)
    assert not world.look().moved


def test_one_that_was_not_heard_yet_when_its_client_returned_is_news() -> None:
    """R15: what was sent to it again with its client went nowhere."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.goes("hb.a")
    world.look()
    world.presence.acted([Returned("hb.a", "n2", 2)], world.now * SECOND)
    world.comes("hb.a", "n2", 3)
    assert world.look().moved


def test_a_move_seen_after_it_was_acted_on_is_no_news() -> None:
    """The log was quicker than the interest."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.presence.acted([Returned("hb.a", "n2", 2)], world.now * SECOND)
    world.now += 1
    world.comes("hb.a", "n2", 2, moves=True)
    assert not world.look().moved


def test_a_new_leader_knows_when_an_inbox_fell_silent() -> None:
    """Every node keeps what it saw, so the one that leads next needn't guess."""
    world = World()
    world.comes("hb.a")
    world.now += 3
    world.goes("hb.a")
    world.now += 2
    assert world.look().gone_since_ns == 103 * SECOND  # its first look


def test_what_nobody_saw_go_is_gone_from_now_on() -> None:
    assert World().look().gone_since_ns == START_S * SECOND


def test_only_what_is_looked_at_is_kept() -> None:
    """A client that closes and one that opens later with its inbox are two."""
    world = World()
    world.comes("hb.a")
    world.comes("hb.b")
    world.presence.scan(["hb.a", "hb.b"])
    world.goes("hb.a")
    assert set(world.presence.scan(["hb.b"])) == {"hb.b"}
    world.comes("hb.a", "n1", 2)
    assert not world.look("hb.a").moved


def test_change_is_noticed_until_somebody_looks() -> None:
    world = World()
    world.presence.scan([])
    assert not world.presence.dirty
    world.comes("hb.a")
    assert world.presence.dirty
    world.look()
    assert not world.presence.dirty


def test_one_that_moved_before_the_first_look_has_moved() -> None:
    """A client that had just come when its node died; the next leader didn't see that it had moved."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.now += 1
    world.goes("hb.a")
    world.comes("hb.a", "n2", 2)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 101 * SECOND


def test_one_that_was_away_before_the_first_look_has_not() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    world.goes("hb.a")
    world.comes("hb.a", "n1", 1)
    assert not world.look().moved


def test_a_move_that_nobody_acts_on_is_forgotten() -> None:
    """A node that led 21 s later acted on it, and everything sent since came again."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.comes("hb.a", "n2", 2, moves=True)
    assert world.look().moved
    world.now += MOVED_MAX_NS // SECOND
    assert world.look().moved
    world.now += 1
    assert not world.look().moved


def test_inboxes_of_passing_requests_are_forgotten() -> None:
    """A program that makes an inbox for each of its requests takes bounded memory, and no client its time."""
    world = World()
    world.comes("hb.a")
    world.look()
    world.goes("hb.a")
    for number in range(GONE_OTHERS_MAX + 10):
        world.comes(f"_INBOX.{number}")
        world.goes(f"_INBOX.{number}")
    assert len(world.presence._gone_others) == GONE_OTHERS_MAX
    world.now += FORGET_NS // SECOND
    world.comes("_INBOX.last")
    world.goes("_INBOX.last")
    assert len(world.presence._gone_others) == 1
    assert world.look().gone_since_ns == START_S * SECOND
    assert not world.presence._gone


# --- very many inboxes ----------------------------------------------------------------------------


def test_between_two_looks_at_all_only_what_changed_is_seen() -> None:
    """A known inbox that changes is named once; what is a stranger's, or was looked at, isn't."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.comes("hb.b", "n1", 2)
    world.presence.scan(["hb.a", "hb.b"])
    assert not world.presence.has_changed
    world.now += 1
    world.goes("hb.a")
    world.comes("hb.c", "n1", 3)
    assert world.presence.take_changed() == ["hb.a"]
    assert world.presence.take_changed() == []
    assert world.presence.get("hb.a").where == ("n1", 1)
    assert world.presence.scan_one("hb.a").gone_since_ns == 101 * SECOND
    assert world.presence.get("hb.a").where is None
    world.comes("hb.a", "n2", 9)
    assert world.look("hb.a").moved
    assert not world.presence.has_changed


def test_an_inbox_that_was_never_looked_at_is_seen_when_asked_for() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    assert world.presence.get("hb.a").where == ("n1", 1)


def test_the_more_inboxes_the_longer_the_pause() -> None:
    """Looking takes a part of the time that doesn't grow with their number."""
    world = World()
    assert world.presence.pause_s(0.5) == 0.5
    world.presence.scan(f"hb.{n}" for n in range(10_000))
    assert world.presence.pause_s(0.5) == 10_000 * SCAN_COST_S
