"""The check of an append: accepted, refused, or evidence of a broken log."""

from __future__ import annotations

import pytest

from node.errors import CorruptionError
from node.raft.append_check import Accept, Refuse, check_append
from node.raft.frames import Append
from node.simulator.journal import MemoryJournal, Tape


def _log(*terms: int, first: int = 1) -> MemoryJournal:
    """A log with entries of these terms; those before ``first`` are dropped."""
    journal = MemoryJournal(Tape())
    for index, term in enumerate(terms, start=1):
        journal.append(index, term, b"\x01%d" % index)
    journal.drop_before(first)
    return journal


def _append(term: int, prev: int, prev_term: int, *terms: int, commit: int = 0) -> Append:
    entries = [(prev + 1 + offset, of, b"\x01") for offset, of in enumerate(terms)]
    return Append(term, prev, prev_term, commit, entries, True, None)


def test_new_entries_are_taken() -> None:
    verdict = check_append(_append(2, 3, 1, 2, 2, commit=4), _log(0, 1, 1), 1)
    assert verdict == Accept(match=5, commit=4, prev=3, entries=[(4, 2, b"\x01"), (5, 2, b"\x01")])


def test_entries_that_are_there_are_passed_over() -> None:
    log = _log(0, 1, 1, 1, 1)
    assert check_append(_append(1, 1, 0, 1, 1, commit=9), log, 1) == Accept(3, 3, 3, [])
    assert check_append(_append(1, 3, 1, 1, 1, 1), log, 1) == Accept(6, 0, 5, [(6, 1, b"\x01")])


def test_conflict_starts_where_the_terms_differ() -> None:
    verdict = check_append(_append(3, 1, 0, 1, 3, 3), _log(0, 1, 1, 2), 2)
    assert verdict == Accept(4, 0, 2, [(3, 3, b"\x01"), (4, 3, b"\x01")])


def test_gap_is_refused_with_the_end_of_the_log() -> None:
    assert check_append(_append(2, 9, 2, 2), _log(0, 1, 1), 1) == Refuse(refused=9, next=4)


def test_other_term_is_refused_with_the_start_of_that_term() -> None:
    assert check_append(_append(4, 6, 3), _log(0, 1, 2, 2, 2, 2), 2) == Refuse(refused=6, next=3)
    assert check_append(_append(4, 6, 3), _log(0, 1, 2, 2, 2, 2), 4) == Refuse(refused=6, next=5)


def test_what_was_dropped_is_taken_for_granted() -> None:
    log = _log(0, 1, 1, 1, 1, 1, first=4)
    assert check_append(_append(1, 1, 0, 1, 1, 1, 1, 1, 1, commit=7), log, 4) == Accept(
        7, 7, 6, [(7, 1, b"\x01")]
    )
    assert check_append(_append(1, 1, 0, 1), log, 4) == Accept(2, 0, 4, [])
    assert check_append(_append(1, 2, 77, 1, 1), log, 4) == Accept(4, 0, 4, [])


def test_contradiction_of_committed_entries_is_corruption() -> None:
    log = _log(0, 1, 1, 1)
    with pytest.raises(CorruptionError, match="committed entry 3"):
        check_append(_append(2, 3, 2, 2), log, 3)
    with pytest.raises(CorruptionError, match="committed entry 3"):
        check_append(_append(2, 2, 1, 2), log, 3)
