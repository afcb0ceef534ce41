"""Which inboxes are reachable, since when not, and through which connection (R15)."""

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
        """Subscribe another client to everything."""
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


def test_a_reachable_inbox_is_where_its_connection_is() -> None:
    world = World()
    world.comes("hb.a", "n2", 7)
    sight = world.look()
    assert sight.where == ("n2", 7)
    assert sight.gone_since_ns is None
    assert not sight.moved


def test_an_inbox_is_unreachable_since_its_interest_ended() -> None:
    """Not since its scan: deliveries in between were lost."""
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
    """R15: deliveries to the dead connection needn't wait for their AckWait."""
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


def test_the_end_of_the_old_connection_counts() -> None:
    """R15: gone at 101 s, back at 103 s, without a scan in between."""
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
    """The half-open one is not noticed for minutes; the client uses the second one from its start."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.comes("hb.a", "n1", 2, moves=True)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 101 * SECOND


def test_an_inbox_back_on_its_old_connection_has_not_moved() -> None:
    """Only the link to its node was down: nothing was sent to a dead connection."""
    world = World()
    world.comes("hb.a", "n2", 4)
    world.look()
    world.goes("hb.a")
    world.look()
    world.comes("hb.a", "n2", 4)
    assert not world.look().moved


def test_an_inbox_that_was_always_reachable_has_not_moved() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    for _ in range(3):
        world.now += 1
        assert not world.look().moved


def test_an_inbox_new_to_a_restarted_node_has_not_moved() -> None:
    """It learns all interest again, and knows no earlier connection."""
    world = World()
    world.look()
    world.now += 1
    world.comes("hb.a")
    assert not world.look().moved


def test_an_inbox_is_reachable_since_its_subscription_came() -> None:
    """Not since its scan: deliveries in between have arrived, and must not be repeated early."""
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


def test_an_inbox_with_an_unseen_connection_is_reachable_since_the_scan() -> None:
    """The newest subscription ended before a scan; an older connection still subscribes."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.comes("hb.a", "n2", 7)
    world.table[b"hb.a"] = ("n3", 5)
    world.now += 5
    assert world.look().reachable_since_ns == (START_S + 5) * SECOND + TIME_SURE_NS


def test_subscriptions_before_cluster_time_was_known_count_from_then() -> None:
    """A node that has just started doesn't send clients deliveries decided before it caught up."""
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
    """Otherwise the next leader would act on it again, and redeliver long before AckWait."""
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
    assert world.look().moved  # another move counts


def test_a_move_counts_only_if_it_began_after_the_last_action() -> None:
    """Interest and log use different links: a move may be seen after its command was applied."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.presence.acted([Returned("hb.a")], world.now * SECOND - ACTED_NS // 2)
    world.comes("hb.a", "n2", 2, moves=True)
    assert not world.look().moved


def test_a_move_acted_on_with_another_connection_still_counts() -> None:
    """R15: the leader died with the client's connection that it knew; its entry was committed later."""
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


def test_an_inbox_unreachable_when_its_client_returned_still_counts() -> None:
    """R15: deliveries repeated for its client were lost."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.goes("hb.a")
    world.look()
    world.presence.acted([Returned("hb.a", "n2", 2)], world.now * SECOND)
    world.comes("hb.a", "n2", 3)
    assert world.look().moved


def test_a_move_seen_after_it_was_acted_on_does_not_count() -> None:
    """The log arrived before the interest."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.now += 1
    world.presence.acted([Returned("hb.a", "n2", 2)], world.now * SECOND)
    world.now += 1
    world.comes("hb.a", "n2", 2, moves=True)
    assert not world.look().moved


def test_a_new_leader_knows_when_an_inbox_became_unreachable() -> None:
    """Every node keeps the table, so the next leader needn't guess."""
    world = World()
    world.comes("hb.a")
    world.now += 3
    world.goes("hb.a")
    world.now += 2
    assert world.look().gone_since_ns == 103 * SECOND  # its first scan


def test_an_inbox_without_history_is_unreachable_from_now_on() -> None:
    assert World().look().gone_since_ns == START_S * SECOND


def test_only_scanned_inboxes_are_kept() -> None:
    """A closed client and a later one with the same inbox are different clients."""
    world = World()
    world.comes("hb.a")
    world.comes("hb.b")
    world.presence.scan(["hb.a", "hb.b"])
    world.goes("hb.a")
    assert set(world.presence.scan(["hb.b"])) == {"hb.b"}
    world.comes("hb.a", "n1", 2)
    assert not world.look("hb.a").moved


def test_a_change_is_pending_until_the_next_scan() -> None:
    world = World()
    world.presence.scan([])
    assert not world.presence.dirty
    world.comes("hb.a")
    assert world.presence.dirty
    world.look()
    assert not world.presence.dirty


def test_an_inbox_that_moved_before_its_first_scan_has_moved() -> None:
    """A client had just connected when its node died; the next leader missed the move."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.now += 1
    world.goes("hb.a")
    world.comes("hb.a", "n2", 2)
    sight = world.look()
    assert sight.moved
    assert sight.gone_since_ns == 101 * SECOND


def test_an_inbox_unreachable_before_its_first_scan_has_not_moved() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    world.goes("hb.a")
    world.comes("hb.a", "n1", 1)
    assert not world.look().moved


def test_a_move_without_action_is_forgotten() -> None:
    """A node that led 21 s later acted on it, and repeated all deliveries since then."""
    world = World()
    world.comes("hb.a", "n1", 1)
    world.look()
    world.comes("hb.a", "n2", 2, moves=True)
    assert world.look().moved
    world.now += MOVED_MAX_NS // SECOND
    assert world.look().moved
    world.now += 1
    assert not world.look().moved


def test_inboxes_of_short_requests_are_forgotten() -> None:
    """A program with an inbox for each request takes bounded memory, and no client loses its time."""
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


def test_between_two_full_scans_only_changed_inboxes_are_scanned() -> None:
    """A change of an inbox in the table is reported once; other subjects and scanned inboxes are not."""
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


def test_an_inbox_is_scanned_on_its_first_access() -> None:
    world = World()
    world.comes("hb.a", "n1", 1)
    assert world.presence.get("hb.a").where == ("n1", 1)


def test_the_more_inboxes_the_longer_the_pause() -> None:
    """The share of time for scans doesn't grow with their number."""
    world = World()
    assert world.presence.pause_s(0.5) == 0.5
    world.presence.scan(f"hb.{n}" for n in range(10_000))
    assert world.presence.pause_s(0.5) == 10_000 * SCAN_COST_S
