"""Checkpoints: what one does at a time, and that it does so beside the loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.store import checkpoint as module

from .conftest import blocks_in, opened, run


def test_a_channel_is_deleted_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks it has, a checkpoint deletes a bounded number; a crash between is no matter."""
    monkeypatch.setattr(module, "GARBAGE_BLOCKS_MAX", 3)
    path = tmp_path / "store"
    with opened(path) as store:
        store.put(1, 1, [b"a"])
        store.put(2, 1, [b"x" * 60_000] * 8)
        store.put(3, 1, [b"x" * 60_000] * 2)
        run(store, 1)
        store.drop_channel(2)
        run(store, 2)
        assert store.has_garbage
        assert store.get_many(2, [1, 8]) == [None, None]
    assert blocks_in(path) == 1 + 5 + 2
    with opened(path) as store:
        assert store.has_garbage
        assert store.get_many(2, [1, 8]) == [None, None]
        run(store, 3)
        run(store, 4)
        assert not store.has_garbage
        run(store, 5)
        assert store.get(1, 1) == b"a"
        assert store.get(3, 2) == b"x" * 60_000
    assert blocks_in(path) == 1 + 2
    assert blocks_in(path, b"floors") == 0


def test_space_below_a_floor_is_given_back(tmp_path: Path) -> None:
    """Blocks wholly dropped go, the one with the floor in it stays, the last one too when all is dropped."""
    path = tmp_path / "store"
    with opened(path) as store:
        store.put(1, 1, [b"x" * 30_000] * 8)
        run(store, 1)
        store.drop(1, 5)
        run(store, 2)
        assert store.get_many(1, [5, 6]) == [None, b"x" * 30_000]
    assert blocks_in(path) == 2
    with opened(path) as store:
        store.drop(1, 8)
        run(store, 3)
    assert blocks_in(path) == 0
    with opened(path) as store:
        store.put(1, 9, [b"next"])
        run(store, 4)
        assert store.get_many(1, [8, 9]) == [None, b"next"]


def test_small_checkpoints_share_blocks(tmp_path: Path) -> None:
    """A message now and then doesn't make a block each."""
    path = tmp_path / "store"
    with opened(path) as store:
        for seq in range(1, 201):
            store.put(1, seq, [b"x" * 100])
            run(store, seq)
    assert blocks_in(path) < 12
    with opened(path) as store:
        assert store.get_many(1, range(1, 201)) == [b"x" * 100] * 200


def test_checkpoints_run_in_another_thread(tmp_path: Path) -> None:
    """While they do, the loop puts, drops and reads, and always sees the same."""
    with opened(tmp_path / "store", cache_bytes=0) as store, ThreadPoolExecutor(1) as worker:
        seq = 0
        for index in range(1, 21):
            store.put(1, seq + 1, [b"%d" % n for n in range(seq + 1, seq + 301)])
            seq += 300
            job = store.begin_checkpoint((index, 1), (index - 1, 1), [(b"seq", b"%d" % seq)])
            running = worker.submit(job.run)
            store.put(1, seq + 1, [b"%d" % (seq + 1)])
            seq += 1
            store.drop(1, seq // 2)
            while True:
                finished = running.done()
                wanted = range(1, seq + 1, 7)
                expected = [None if n <= seq // 2 else b"%d" % n for n in wanted]
                assert store.get_many(1, wanted) == expected
                if finished:
                    break
            running.result()
            store.end_checkpoint(job)
