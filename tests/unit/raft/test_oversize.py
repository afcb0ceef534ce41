"""Entries larger than a frame: only the first release wrote any."""

from __future__ import annotations

import pytest

from node.raft import oversize
from node.raft.membership import Member, Membership
from node.raft.oversize import drop_uncommitted
from node.raft.ports import EntryType
from node.simulator.journal import MemoryJournal, Tape

LARGE = b"\x01" * 101


def members(*names: str) -> Membership:
    return Membership(tuple(Member(name, "", True, "") for name in names))


def journal_of(*payloads: bytes) -> MemoryJournal:
    journal = MemoryJournal(Tape())
    for index, payload in enumerate(payloads, 1):
        journal.append(index, 1, payload)
    return journal


@pytest.fixture(autouse=True)
def _scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oversize, "SURELY_UNSENT_BYTES", 100)


def test_one_that_was_never_committed_goes_with_what_follows_it() -> None:
    """It blocked every later leader, also after restarts."""
    journal = journal_of(b"\x01", b"\x01", LARGE, b"\x01")
    assert drop_uncommitted(journal, members("a", "b"), applied=1) == 3
    assert journal.last_index == 2
    assert drop_uncommitted(journal, members("a", "b"), applied=1) is None


def test_one_that_fits_stays() -> None:
    journal = journal_of(b"\x01", LARGE[:-1])
    assert drop_uncommitted(journal, members("a", "b", "c"), applied=1) is None
    assert journal.last_index == 2


def test_one_that_was_applied_stays() -> None:
    journal = journal_of(b"\x01", LARGE, b"\x01")
    assert drop_uncommitted(journal, members("a", "b"), applied=2) is None
    assert journal.last_index == 3


def test_a_node_alone_commits_what_it_never_has_to_send() -> None:
    journal = journal_of(b"\x01", LARGE)
    assert drop_uncommitted(journal, members("a"), applied=1) is None
    assert journal.last_index == 2


def test_a_node_that_has_become_its_clusters_only_voter_has_committed_it() -> None:
    """A majority is computed from the last membership in the log."""
    alone = bytes([EntryType.MEMBERSHIP]) + members("a").encode()
    journal = journal_of(b"\x01", LARGE, alone)
    assert drop_uncommitted(journal, members("a", "b"), applied=1) is None
    grown = bytes([EntryType.MEMBERSHIP]) + members("a", "b").encode()
    journal = journal_of(grown, LARGE)
    assert drop_uncommitted(journal, members("a"), applied=1) == 2
