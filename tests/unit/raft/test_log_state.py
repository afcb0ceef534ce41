"""The state of a journal, changed one record at a time."""

from __future__ import annotations

import pytest

from node.raft.log_state import Base, LogState


def filled(*terms: int) -> LogState:
    state = LogState()
    for index, term in enumerate(terms, start=1):
        state.append(index, term, 100 * index, 10 + index)
    return state


def test_entries_by_index() -> None:
    state = filled(1, 1, 2)
    assert (state.first_index, state.last_index, state.next_index, len(state)) == (1, 3, 4, 3)
    assert [state.term_at(i) for i in range(5)] == [None, 1, 1, 2, None]
    assert (state.position(2), state.length(2)) == (200, 12)
    assert [state.first_index_of_term_at(i) for i in (1, 2, 3)] == [1, 1, 3]
    for outside in (0, 4):
        with pytest.raises(IndexError, match="1 to 3"):
            state.position(outside)


def test_truncation_of_entries_never_seen() -> None:
    """The first segment may begin with truncations of entries that precede it."""
    state = LogState()
    state.next_index = 100
    state.append(100, 5, 1, 0)
    state.truncate(95)
    assert (state.first_index, state.last_index, state.next_index) == (0, 0, 95)
    state.append(95, 6, 2, 0)
    assert (state.first_index, state.last_index) == (95, 95)


def test_dropping_by_position() -> None:
    state = filled(1, 1, 2, 2)
    assert state.first_at_or_after(250) == 3
    state.drop_positions_below(250)
    assert (state.first_index, state.last_index) == (3, 4)
    assert state.first_at_or_after(1000) == 5


def test_base_lasts_as_long_as_its_entry() -> None:
    state = filled(1, 1)
    state.start_over(Base(9, 4, 3), 1000, None)
    assert [state.term_at(i) for i in (7, 8, 9, 10)] == [None, 3, 4, None]
    state.append(10, 4, 2000, 5)
    state.drop_positions_below(500)
    assert state.base == Base(9, 4, 3)
    state.drop_positions_below(1500)
    assert (state.base, state.first_index) == (None, 10)


def test_memberships_by_index() -> None:
    state = filled(1, 1, 2, 2, 3)
    state.memberships = [(2, b"x"), (4, b"y")]
    assert [state.membership_at(index) for index in range(1, 6)] == [
        None, (2, b"x"), (2, b"x"), (4, b"y"), (4, b"y")
    ]  # fmt: skip
    state.drop_positions_below(250)
    assert state.memberships == [(2, b"x"), (4, b"y")]
    state.truncate(5)
    assert state.membership == (4, b"y")
    state.truncate(4)
    assert state.membership == (2, b"x")
    state.start_over(Base(9, 4, 3), 1000, b"z")
    assert state.membership == (9, b"z")
    state.start_over(Base(12, 4, 3), 1000, b"")
    assert state.membership is None


def test_dropping_keeps_the_membership_in_force() -> None:
    state = filled(1, 1, 1, 1)
    state.memberships = [(1, b"x"), (2, b"y"), (4, b"z")]
    state.drop_positions_below(250)
    assert state.memberships == [(2, b"y"), (4, b"z")]


def test_truncation_may_bring_back_what_older_segments_told() -> None:
    state = LogState()
    state.next_index = 100
    state.memberships = [(97, b"undone")]
    state.truncate(95, (60, b"before"))
    assert state.memberships == [(60, b"before")]
    state.truncate(95, (7, b"ignored, for it is known"))
    assert state.memberships == [(60, b"before")]
