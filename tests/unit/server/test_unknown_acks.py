"""Acknowledgements on unknown ack inboxes are held for a while, up to a bound."""

from __future__ import annotations

from node.core.commands import Acked
from node.server.unknown_acks import HELD_MAX, HELD_NS, UnknownAcks


def acked(inbox: str, *seqs: int) -> Acked:
    return Acked("foo", inbox, list(seqs))


def test_what_was_held_comes_out_in_order_and_once() -> None:
    acks = UnknownAcks()
    acks.hold(acked("a", 1, 2), 0)
    acks.hold(acked("b", 9), 0)
    acks.hold(acked("a", 3), 1)
    assert len(acks) == 4
    assert acks.opened("a") == [acked("a", 1, 2), acked("a", 3)]
    assert acks.opened("a") == []
    assert len(acks) == 1
    assert acks.dropped == 0


def test_too_old_is_dropped() -> None:
    acks = UnknownAcks()
    acks.hold(acked("a", 1), 0)
    acks.hold(acked("a", 2), 1)
    acks.expire(HELD_NS - 1)
    assert len(acks) == 2
    acks.expire(HELD_NS)
    assert acks.opened("a") == [acked("a", 2)]
    acks.hold(acked("b", 1), HELD_NS)
    acks.hold(acked("b", 2), 3 * HELD_NS)
    assert acks.opened("b") == [acked("b", 2)]
    assert acks.dropped == 2


def test_the_oldest_make_room() -> None:
    acks = UnknownAcks()
    acks.hold(acked("a", 1), 0)
    acks.hold(acked("b", *range(1, HELD_MAX)), 0)
    assert len(acks) == HELD_MAX
    acks.hold(acked("c", 1), 0)
    assert (len(acks), acks.dropped) == (HELD_MAX, 1)
    acks.hold(acked("a", *range(1, HELD_MAX + 1)), 0)
    assert (len(acks), acks.dropped) == (HELD_MAX, HELD_MAX + 1)
    assert acks.opened("b") == acks.opened("c") == []
    assert acks._by_inbox == {"a": [4]}


def test_another_state_takes_what_it_knows() -> None:
    acks = UnknownAcks()
    for inbox in ("c", "a", "b"):
        acks.hold(acked(inbox, 1), 0)
    assert acks.replaced({"a": None, "c": None, "x": None}) == [acked("a", 1), acked("c", 1)]
    assert len(acks) == 1
