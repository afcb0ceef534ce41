"""The rolling digest (R30): equal on equal nodes, different for good once anything was decided otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conversation import Conversation

from node.core import state_digest
from node.core.machine import Machine
from node.core.records import all_records, restore
from node.core.state import Record, State


def story() -> Conversation:
    talk = Conversation()
    talk.connect("me", "you")
    talk.subscribe("A", durable="d", mif=5)
    talk.subscribe("Q", "you", queue="q")
    talk.publish(8)
    talk.ack("A", 1)
    return talk


def _another_acked(state: State) -> None:
    del state.subscriptions[1].unacked[2]


def _another_cursor(state: State) -> None:
    state.subscriptions[2].group.cursor -= 1


def _another_entry(state: State) -> None:
    member = state.subscriptions[2]
    member.unacked = dict.fromkeys(member.unacked, Record(0, 1, 2))


def _another_size(state: State) -> None:
    block = state.channels["foo"].log.block(0)
    assert block is not None
    block.sizes[3] += 1


def test_equal_stories_have_equal_digests() -> None:
    one, other = story(), story()
    assert one.state.rolled == other.state.rolled
    one.publish(1)
    assert one.state.rolled != other.state.rolled
    other.publish(1, client="you")
    assert one.state.rolled != other.state.rolled, "the entry was another"


@pytest.mark.parametrize("damage", [_another_acked, _another_cursor, _another_entry, _another_size])
def test_what_is_held_otherwise_shows_before_it_is_acted_upon(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[State], None]
) -> None:
    """Each subscription and channel has its turn, whatever the entries are about."""
    monkeypatch.setattr(state_digest, "LOOKED_AT_WITHIN", 8)
    one, other = story(), story()
    damage(other.state)
    one.checked = other.checked = False
    for _ in range(8):
        one.tick()
        other.tick()
    assert one.state.rolled != other.state.rolled


def test_a_difference_never_heals() -> None:
    one, other = story(), story()
    other.state.rolled = b"x" * 16
    other.checked = False
    for _ in range(20):
        one.publish(1)
        other.publish(1)
        assert one.state.rolled != other.state.rolled


def test_a_restored_node_goes_on_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milestones are the same, wherever a node was restarted between them."""
    monkeypatch.setattr(state_digest, "MILESTONE", 4)
    talk = story()
    assert talk.state.milestone[0] == 4
    talk.machine = Machine(restore(sorted(all_records(talk.state))))
    assert talk.state.milestone[0] == 4
    at_eight: bytes | None = None
    while talk.index < 9:
        talk.tick()
        at_eight = talk.state.rolled if talk.index == 8 else at_eight
    assert talk.state.milestone == (8, at_eight)


def test_very_many_ids_cost_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are given once: after a million subscriptions there is one in so many to look at, not all."""
    monkeypatch.setattr(state_digest, "LOOKED_AT_WITHIN", 4)
    looked = [list(state_digest._turns({n: n for n in range(1, 1001)}, index, 1000)) for index in range(100)]
    assert max(map(len, looked)) <= state_digest.LOOKED_AT_MAX + 1
    assert {n for some in looked for n in some} == set(range(1, 1001))
