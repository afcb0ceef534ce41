"""Violations that the log checker finds: different entries, different histories, incomplete leaders."""

from __future__ import annotations

import pytest

from node.simulator.journal import MemoryJournal, Tape
from node.simulator.log_checks import LogChecker
from node.simulator.raft_checks import ViolationError


def journal(checker: LogChecker, name: str, *entries: tuple[int, bytes]) -> MemoryJournal:
    made = MemoryJournal(Tape())
    for index, (term, payload) in enumerate(entries, 1):
        checker.appended(name, index, term, payload, made.term_at(index - 1))
        made.append(index, term, payload)
    return made


def test_equal_logs_match() -> None:
    checker = LogChecker()
    for name in ("n1", "n2"):
        checker.reopened(name, journal(checker, name, (1, b"a"), (1, b"b"), (2, b"c")))


def test_another_entry_of_the_same_term() -> None:
    checker = LogChecker()
    journal(checker, "n1", (1, b"a"))
    with pytest.raises(ViolationError, match="log matching"):
        journal(checker, "n2", (1, b"b"))


def test_another_history() -> None:
    checker = LogChecker()
    journal(checker, "n1", (1, b"a"), (3, b"c"))
    with pytest.raises(ViolationError, match="log matching"):
        journal(checker, "n2", (2, b"b"), (3, b"c"))


def test_an_entry_that_no_journal_had() -> None:
    found = journal(LogChecker(), "n1", (1, b"a"))
    with pytest.raises(ViolationError, match="no journal ever had"):
        LogChecker().reopened("n1", found)


def test_a_leader_without_a_committed_entry() -> None:
    checker = LogChecker()
    whole = journal(checker, "n1", (1, b"a"), (1, b"b"))
    checker.committed("n1", 1, whole, 0, 2)
    checker.elected("n1", 2, whole)
    with pytest.raises(ViolationError, match="leader completeness"):
        checker.elected("n2", 3, journal(checker, "n2", (1, b"a")))


def test_a_leader_of_an_earlier_term_needs_no_later_entries() -> None:
    checker = LogChecker()
    checker.committed("n1", 4, journal(checker, "n1", (4, b"a")), 0, 1)
    checker.elected("n2", 3, journal(checker, "n2"))


def test_two_commits_at_one_index() -> None:
    checker = LogChecker()
    checker.committed("n1", 1, journal(checker, "n1", (1, b"a")), 0, 1)
    with pytest.raises(ViolationError, match="state machine safety"):
        checker.committed("n2", 2, journal(checker, "n2", (2, b"b")), 0, 1)
