"""The nemesis's checker bites: each broken promise is told, and what may happen is not."""

from __future__ import annotations

import math

import pytest
from e2e.nemesis.history import Ack, Cursor, Delivery, History, Link, Trouble

ACK_WAIT_S = 2.0
HERE, THERE = Link("here", 0, "n1"), Link("there", 0, "n2")


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def cursor(history: History) -> Cursor:
    return history.cursor("group", "foo", ACK_WAIT_S)


def publish(history: History, message: str, at_s: float) -> None:
    history.published_s[message] = at_s
    history.answered("foo", message, "", at_s + 0.01)


def deliver(history: History, seq: int, at_s: float, link: Link = HERE, count: int = 0) -> None:
    delivery = Delivery(at_s, link.client, link, count, count > 0)
    history.received(history.cursors["group"], seq, f"m{seq}", delivery)


def ack(cursor: Cursor, seq: int, at_s: float, link: Link = HERE) -> None:
    cursor.events[seq].append(Ack(at_s, link.client, link))


def trouble(history: History, node: str, began_s: float, over_s: float, **what: bool) -> None:
    found = Trouble("trouble", frozenset([node]), began_s, **what)
    found.led_s, found.over_s = began_s + 0.5, over_s
    history.troubles.append(found)


def broken(history: History) -> list[str]:
    return [violation.rule for violation in history.judge(is_complete=True)]


def test_what_should_be(history: History, cursor: Cursor) -> None:
    """Delivered once and acked; forgotten, and delivered again when its AckWait has passed."""
    for seq in (1, 2):
        publish(history, f"m{seq}", 10.0)
        deliver(history, seq, 10.01)
    ack(cursor, 1, 10.02)
    deliver(history, 2, 12.02, THERE, count=1)
    ack(cursor, 2, 12.03, THERE)
    assert broken(history) == []


def test_lost(history: History, cursor: Cursor) -> None:
    publish(history, "m1", 10.0)
    assert broken(history) == ["lost"]
    assert history.judge(is_complete=False) == []


def test_gap(history: History, cursor: Cursor) -> None:
    deliver(history, 2, 10.0)
    assert broken(history) == ["lost"]


def test_two_messages_with_one_sequence(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    history.received(history.cursor("other", "foo", 2.0), 1, "m7", Delivery(10.0, "there", THERE, 0, False))
    assert "diverged" in broken(history)


def test_stored_twice(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    history.received(cursor, 2, "m1", Delivery(10.0, "here", HERE, 0, False))
    assert "diverged" in broken(history)


def test_refused(history: History, cursor: Cursor) -> None:
    history.answered("foo", "m1", "too many channels", 10.0)
    assert broken(history) == ["refused"]


def test_out_of_order(history: History, cursor: Cursor) -> None:
    deliver(history, 2, 10.0)
    deliver(history, 1, 10.1)
    assert broken(history) == ["order"]


def test_again_without_its_flag(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    deliver(history, 1, 12.0, THERE)
    assert broken(history) == ["flag"]


def test_flag_without_count(history: History, cursor: Cursor) -> None:
    history.received(cursor, 1, "m1", Delivery(10.0, "here", HERE, 0, True))
    assert broken(history) == ["flag"]


def test_count_goes_back(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0, count=3)
    deliver(history, 1, 12.0, count=1)
    assert broken(history) == ["flag"]


def test_again_after_its_ack(history: History, cursor: Cursor) -> None:
    deliver(history, 1, 10.0)
    ack(cursor, 1, 10.0)
    deliver(history, 1, 12.0, count=1)
    assert broken(history) == ["acked"]


def test_held_by_two(history: History, cursor: Cursor) -> None:
    """A queue message goes to another member while the first still has it."""
    publish(history, "m1", 10.0)
    deliver(history, 1, 10.0)
    deliver(history, 1, 10.5, THERE, count=1)
    assert broken(history) == ["early"]


def test_killed_holder_hands_over(history: History, cursor: Cursor) -> None:
    publish(history, "m1", 10.0)
    deliver(history, 1, 10.0)
    history.gone_s["here"] = 10.1
    deliver(history, 1, 10.5, THERE, count=1)
    assert broken(history) == []


def test_ack_dies_with_its_node_and_only_then(history: History, cursor: Cursor) -> None:
    acked = Ack(10.0, "here", HERE)
    assert history.counts_from_s(acked) == 11.0
    trouble(history, "n1", 10.5, 13.0, kills=True)
    assert history.counts_from_s(acked) == math.inf
    assert history.counts_from_s(Ack(9.0, "here", HERE)) == 10.0
    assert history.counts_from_s(Ack(10.0, "there", THERE)) == 12.0  # from when somebody led again


def test_ack_to_a_node_that_stands_still_counts_when_it_goes_on(history: History, cursor: Cursor) -> None:
    trouble(history, "n1", 10.5, 13.0, stops=True)
    assert history.counts_from_s(Ack(10.2, "here", HERE)) == 14.0


def test_ack_over_a_link_that_breaks(history: History, cursor: Cursor) -> None:
    history.broken_s[HERE] = 10.5
    assert history.counts_from_s(Ack(10.0, "here", HERE)) == math.inf
    assert history.counts_from_s(Ack(9.0, "here", HERE)) == 10.0


@pytest.mark.parametrize(("at_s", "rules"), [(13.5, []), (14.5, ["flag"])])
def test_old_bytes_of_a_node_that_stood_still(
    history: History, cursor: Cursor, at_s: float, rules: list[str]
) -> None:
    """They are excused, for a second."""
    trouble(history, "n1", 10.0, 13.0, stops=True)
    deliver(history, 1, 12.0, THERE, count=1)
    deliver(history, 1, at_s, HERE)
    assert broken(history) == rules
