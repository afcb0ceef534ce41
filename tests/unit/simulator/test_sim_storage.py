"""What a simulated machine's storage keeps and loses, and the errors that its process gets."""

from __future__ import annotations

import random

import pytest

from node.errors import CorruptionError, DiskError
from node.simulator.sim_storage import ProbedJournal, SimStorage
from node.simulator.sim_store import RottingStore
from node.simulator.world import World


def opened(storage: SimStorage) -> ProbedJournal:
    journal = storage.open_journal()
    journal.watcher = lambda index, term, payload, before: None
    return journal


def written(storage: SimStorage, entries: int, *, flush: bool = True) -> ProbedJournal:
    journal = opened(storage)
    for _ in range(entries):
        journal.append(journal.last_index + 1, 1, b"x" * 100)
    if flush:
        running = storage.begin_flush()
        storage.run_flush(running)
        journal.end_flush(running)
    return journal


def checkpointed(store: RottingStore, index: int, messages: list[bytes]) -> None:
    store.put(1, 1, messages)
    job = store.begin_checkpoint((index, 1), (index - 1, 1), [(b"key", b"value")])
    job.run()
    store.end_checkpoint(job)


def read(store: RottingStore) -> None:
    """Read the whole content."""
    assert list(store.records())
    assert store.get_many(1, [1, 2])


@pytest.mark.parametrize("power", [False, True])
def test_flushed_entries_survive(power: bool) -> None:
    storage = SimStorage(World(1), "n1")
    written(storage, 200)
    storage.stop(power=power)
    assert opened(storage).last_index == 200


def test_unflushed_entries_may_be_lost_in_a_power_cut() -> None:
    left = set()
    for seed in range(20):
        storage = SimStorage(World(seed), "n1")
        written(storage, 3, flush=False)
        storage.begin_flush()
        storage.stop(power=True)
        left.add(opened(storage).last_index)
    assert len(left) > 1


def test_a_failing_or_full_disk_raises_until_it_is_mended() -> None:
    for trouble in (SimStorage.fail_sync, SimStorage.fail_write, lambda storage: storage.fill(0)):
        storage = SimStorage(World(1), "n1")
        written(storage, 200, flush=False)
        trouble(storage)
        assert storage.has_faults
        with pytest.raises(DiskError):
            storage.run_flush(storage.begin_flush())
        storage.mend()
        storage.stop(power=False)
        assert opened(storage).last_index <= 200


def test_a_full_disk_accepts_no_checkpoint() -> None:
    storage = SimStorage(World(1), "n1")
    storage.fill(0)
    kept = storage.machine_store
    kept.store.put(1, 1, [b"a"])
    with pytest.raises(DiskError, match="No space"):
        kept.run_checkpoint(kept.store.begin_checkpoint((1, 1), (0, 0), []))


def test_damage_in_the_journal_is_found_at_the_next_start() -> None:
    """Damage in the last flush is found too: its end is marked in the journal."""
    for seed in range(20):
        storage = SimStorage(World(1), "n1")
        assert not storage.rot_journal(random.Random(seed))
        written(storage, 100)
        journal = opened(storage)
        journal.append(101, 1, b"y")
        running = storage.begin_flush()
        storage.run_flush(running)
        assert storage.rot_journal(random.Random(seed))
        storage.stop(power=False)
        with pytest.raises(CorruptionError):
            opened(storage)


def test_the_last_flush_is_not_damaged_together_with_its_end_record() -> None:
    """Otherwise it would be cut off like a torn flush."""
    for seed in range(40):
        storage = SimStorage(World(seed), "n1")
        written(storage, 5)
        assert storage.rot_journal(random.Random(seed))
        storage.stop(power=True)
        assert opened(storage).last_index == 5


def test_damage_in_the_store_is_found_by_the_next_process_and_never_copied() -> None:
    store = RottingStore()
    assert not store.rot(random.Random(1))
    checkpointed(store, 5, [b"a", b"b"])
    for seed in range(10):
        rotten = store.after_crash()
        assert rotten.rot(random.Random(seed))
        assert rotten.get_many(1, [1, 2]) == [b"a", b"b"]  # the copies in memory are intact
        assert list(rotten.records())
        with pytest.raises(CorruptionError):
            rotten.packed()
        again = rotten.after_crash()
        with pytest.raises(CorruptionError):
            read(again)
