"""A store within its log, beside it, and ahead of it."""

from __future__ import annotations

import random

import pytest

from node.raft.journal import Journal
from node.server.disk.continuity import contradiction, follow
from node.simulator.disk import SimulatedDisk
from node.store.memory import MemoryStore


def journal(last: int, *, dropped: int = 0) -> Journal:
    """A log of so many entries of term 1."""
    found = Journal.open(SimulatedDisk(random.Random(1)), segment_bytes=1024)
    for index in range(1, last + 1):
        found.append(index, 1, bytes(100))
    flush = found.begin_flush()
    if flush is not None:
        flush.run()
        found.end_flush(flush)
    found.drop_before(dropped)
    return found


def store(index: int, term: int = 1) -> MemoryStore:
    found = MemoryStore()
    if index:
        job = found.begin_checkpoint((index, term), (index - 1, term), [])
        job.run()
        found.end_checkpoint(job)
    return found


@pytest.mark.parametrize(
    ("last", "dropped", "applied"), [(0, 0, 0), (1, 0, 1), (90, 0, 0), (90, 60, 70), (90, 60, 90)]
)
def test_a_store_is_within_its_log(last: int, dropped: int, applied: int) -> None:
    log = journal(last, dropped=dropped)
    assert contradiction(log, store(applied), bytes) is None
    assert not follow(log, store(applied), bytes)
    assert log.last_index == last


@pytest.mark.parametrize("applied", [0, 20])
def test_before_its_beginning_there_is_a_gap(applied: int) -> None:
    problem = contradiction(journal(90, dropped=60), store(applied), bytes)
    assert problem is not None
    assert "starts after entry" in problem


def test_beyond_its_end_it_is_a_snapshot_or_a_journal_that_lost_what_it_had() -> None:
    log, ahead = journal(90), store(95)
    assert contradiction(log, ahead, bytes) == "the journal ends at entry 90, but the store has entry 95"
    assert contradiction(log, ahead, lambda: b"note") is None
    assert contradiction(log, ahead, bytes, relaxed=True) is None


def test_another_term_is_another_log() -> None:
    """What a store has applied is committed and on the disk: no journal replaces it."""
    problem = contradiction(journal(90), store(50, term=2), bytes)
    assert problem == "entry 50 is of term 1 in the journal, of term 2 in the store"
    assert contradiction(journal(90), store(50, term=2), lambda: b"note") is None


@pytest.mark.parametrize("snapshot", [store(95), store(50, term=2)])
def test_the_log_goes_on_behind_a_snapshot(snapshot: MemoryStore) -> None:
    """Also behind one that ends where this log has something else. Who the members are, its note says."""
    log = journal(90)
    assert follow(log, snapshot, lambda: b"members")
    index = snapshot.applied[0]
    assert (log.last_index, log.membership) == (index, (index, b"members"))
    assert not follow(log, snapshot, lambda: b"members")
