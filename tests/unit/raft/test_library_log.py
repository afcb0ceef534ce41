"""The journal with the interface of the list that the library expects."""

from __future__ import annotations

import pytest

from node.raft.library_log import LibraryLog, Received
from node.simulator.journal import MemoryJournal, Tape


class Desk:
    def __init__(self, entries: int) -> None:
        self.now = 0.0
        self.readable = 99
        self.journal = MemoryJournal(Tape())
        self.log = LibraryLog(
            self.journal, readable=lambda: self.readable, clock=lambda: self.now, budget_s=1.0
        )
        for index in range(1, entries + 1):
            self.log.add(Received(b"\x01%d" % index), index, 1)


def test_commands_of_the_library_become_no_ops() -> None:
    desk = Desk(0)
    assert len(desk.log) == 0
    desk.log.add(b"\x01", 1, 0)
    assert desk.journal.payload_at(1) == b"\x00"
    assert (desk.log[0][1], desk.log[-1][2], len(desk.log)) == (1, 0, 1)


def test_holes_are_impossible() -> None:
    with pytest.raises(AssertionError, match="gap"):
        Desk(3).log.add(Received(b"\x01"), 5, 1)


def test_positions_count_from_the_first_entry() -> None:
    desk = Desk(10)
    desk.journal.drop_before(4)
    assert desk.log[0][1] == 4
    assert desk.log[-1][1] == 10
    assert [entry[1] for entry in desk.log[2:4]] == [6, 7]
    desk.log.deleteEntriesFrom(3)
    assert desk.log[-1][1] == 6


@pytest.mark.parametrize("position", [10, -11])
def test_outside_is_outside(position: int) -> None:
    with pytest.raises(IndexError):
        Desk(10).log[position]


def test_bounded_slices_end_where_reading_is_allowed() -> None:
    desk = Desk(10)
    desk.readable = 6
    assert len(desk.log[4:9]) == 2
    assert len(desk.log[7:9]) == 0
    assert len(desk.log[4:]) == 6  # the tail that an append is compared with


def test_iteration_stops_when_the_time_is_up() -> None:
    desk = Desk(10)
    seen = []
    for entry in desk.log[0:10]:
        seen.append(entry[0])
        desk.now += 0.4
    assert seen == [b"\x011", b"\x012", b"\x013"]


def test_payloads_are_read_when_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(5)
    monkeypatch.setattr(desk.journal, "payload_at", None)
    assert [entry[2] for entry in desk.log[0:5]] == [1] * 5


def test_commit_index_is_not_kept() -> None:
    """PS-3: a stored commit index could be greater than what survived."""
    desk = Desk(5)
    desk.log.setRaftCommitIndex(5)
    assert desk.log.getRaftCommitIndex() == 1


def test_term_and_vote_are_the_journals() -> None:
    desk = Desk(1)
    desk.log.setCurrentTerm(3, "b")
    assert (desk.log.getCurrentTerm(), desk.log.getVotedForNodeId()) == (3, "b")
    assert (desk.journal.term, desk.journal.voted_for) == (3, "b")
