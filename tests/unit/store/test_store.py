"""What the real store does beyond its interface: bounds, layout, and damage of every kind."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from node.errors import CorruptionError, DiskError
from node.store import environment
from node.store import store as store_module
from node.store.layout import META_KEY
from node.store.store import Store
from node.store.values import with_checksum

from .conftest import opened, run


@contextmanager
def limited(kind: int, bytes_max: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (bytes_max, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


# --- bounds ------------------------------------------------------------------------------------


def test_a_block_that_grew_is_read_again(tmp_path: Path) -> None:
    """A block read back before later messages joined it doesn't hide them."""
    with opened(tmp_path / "store", cache_bytes=0) as store:
        for seq in range(1, 6):
            store.put(1, seq, [b"%d" % seq])
            run(store, seq)
            assert store.get_many(1, range(1, seq + 1)) == [b"%d" % n for n in range(1, seq + 1)]


def test_blocks_read_back_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying a long channel keeps no more of it than the bound."""
    monkeypatch.setattr(store_module, "BLOCK_CACHE_BYTES", 200_000)
    with opened(tmp_path / "store", cache_bytes=0) as store:
        store.put(1, 1, [b"x" * 1000] * 1000)
        run(store, 1)
        for seq in range(1, 1001):
            assert store.get(1, seq) == b"x" * 1000
            assert store._blocks_bytes <= 200_000
        assert store._blocks_bytes == sum(block.size for block in store._blocks.values())


# --- a disk or machine that refuses --------------------------------------------------------------


def test_a_full_map_is_a_disk_error(tmp_path: Path) -> None:
    """And the end of the store: what failed can't be ended."""
    with opened(tmp_path / "store", map_size=1 << 20) as store:
        store.put(1, 1, [b"x" * 1000] * 2000)
        job = store.begin_checkpoint((1, 1), (0, 0), [])
        with pytest.raises(DiskError, match=r"lower limits or purge channels"):
            job.run()
        with pytest.raises(AssertionError):
            store.end_checkpoint(job)
    with opened(tmp_path / "store") as store:
        assert store.applied == (0, 0)


def test_a_full_disk_is_a_disk_error(tmp_path: Path) -> None:
    """The last checkpoint stays whole."""
    with opened(tmp_path / "store") as store:
        store.put(1, 1, [b"kept"])
        run(store, 1)
        store.put(1, 2, [b"x" * 1000] * 2000)
        job = store.begin_checkpoint((2, 1), (1, 1), [])
        with limited(resource.RLIMIT_FSIZE, 1 << 20), pytest.raises(DiskError, match="disk"):
            job.run()
    with opened(tmp_path / "store") as store:
        assert store.applied == (1, 1)
        assert store.get_many(1, [1, 2]) == [b"kept", None]


def test_write_cut_short_by_a_full_disk_is_no_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB says EIO for a short write: an operator would look for a broken disk."""
    error = lmdb.Error("mdb_txn_commit: Input/output error")
    assert "an operation on the store's disk failed" in str(environment.translate(tmp_path, error))
    full = os.statvfs_result((4096, 4096, 1000, 255, 255, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    assert "no space left on the disk" in str(environment.translate(tmp_path, error))


def test_unwritten_bytes_are_of_both_checkpoints(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.put(1, 1, [b"x" * 100] * 3)
        job = store.begin_checkpoint((1, 1), (0, 0), [])
        store.put(1, 4, [b"x" * 10])
        assert store.unwritten_bytes == 310
        job.run()
        store.end_checkpoint(job)
        assert store.unwritten_bytes == 10
        run(store, 2)
        assert store.unwritten_bytes == 0


def test_too_little_address_space_is_said(tmp_path: Path) -> None:
    """The message names the limit, and no setting that doesn't exist."""
    with limited(resource.RLIMIT_AS, 1 << 38), pytest.raises(DiskError, match="ulimit -v unlimited"):
        Store.open(tmp_path / "store")


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    """A file in the way, or no parent."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="file"):
        Store.open(tmp_path / "file")
    with pytest.raises(DiskError, match="missing"):
        Store.open(tmp_path / "missing" / "store")


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a message, a record, a floor and a checkpoint, and nothing in it twice."""
    path = tmp_path / "store"
    with opened(path) as store:
        store.put(1, 1, [b"dropped", b"the-payload" * 10])
        store.drop(1, 1)
        run(store, 0x5152535455565758, {b"the-key": b"the-value"})
    return path


def damage(path: Path, bytes_there: bytes) -> None:
    """Flip a bit in every copy of something in the file."""
    file = path / "data.mdb"
    stored = file.read_bytes()
    assert bytes_there in stored
    file.write_bytes(stored.replace(bytes_there, bytes([bytes_there[0] ^ 4]) + bytes_there[1:]))


@pytest.mark.parametrize("part", [b"the-payload", b"\x01\0\0\0\x02\0\0\0"])
def test_a_damaged_message_is_found_when_it_is_read(path: Path, part: bytes) -> None:
    """Its payload or its block's head: never delivered, and the error says what to do."""
    damage(path, part)
    with opened(path) as store, pytest.raises(CorruptionError, match=r"channel 1 .*replace"):
        store.get_many(1, [1, 2])


@pytest.mark.parametrize("part", [b"the-key", b"the-value"])
def test_a_damaged_record_is_found_when_it_is_read(path: Path, part: bytes) -> None:
    damage(path, part)
    with opened(path) as store, pytest.raises(CorruptionError, match=r"checksum.*replace"):
        list(store.records())


@pytest.mark.parametrize(
    "part", [b"QRSTUVWX", b"stanchn", with_checksum(b"\0" * 7 + b"\1", b"\0" * 7 + b"\1")]
)
def test_a_damaged_checkpoint_record_or_floor_stops_the_opening(path: Path, part: bytes) -> None:
    damage(path, part)
    with pytest.raises(CorruptionError, match=r"checksum.*replace"):
        Store.open(path)


def test_a_file_that_lost_its_end(path: Path) -> None:
    """It would kill the process on the first touch of what is missing."""
    file = path / "data.mdb"
    with file.open("r+b") as data:
        data.truncate(file.stat().st_size - 4096)
    with pytest.raises(CorruptionError, match="should have"):
        Store.open(path)


@pytest.mark.parametrize("contents", [b"not an environment" * 1000, b"short"])
def test_a_file_that_is_something_else(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / "data.mdb").write_bytes(contents)
    with pytest.raises(CorruptionError, match="damaged"):
        Store.open(path)


def test_a_missing_block_is_a_lost_message(path: Path) -> None:
    """Sequences have no gaps: a message that is neither dropped nor there has been lost."""
    with opened(path) as store:
        for seq in range(3, 10):
            store.put(1, seq, [b"x" * 30_000])
        run(store, 0x6152535455565758)
    with lmdb.open(str(path), max_dbs=4) as environment:
        messages = environment.open_db(b"messages", create=False)
        with environment.begin(messages, write=True) as transaction, transaction.cursor() as cursor:
            assert cursor.first()
            assert cursor.next()
            assert cursor.delete()
    with opened(path) as store, pytest.raises(CorruptionError, match="missing"):
        store.get_many(1, range(2, 10))


def test_another_format_is_refused_by_name(path: Path) -> None:
    """A store of a later release says so."""
    with lmdb.open(str(path), max_dbs=4) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(meta, write=True) as transaction:
            later = with_checksum(META_KEY, b"stanchn\0\0\2 and what format 2 has here")
            transaction.put(META_KEY, later)
    with pytest.raises(CorruptionError, match=r"format 2, .*: use the release .* or replace the node"):
        Store.open(path)


def test_an_environment_of_another_program(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "store")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"theirs", b"data")
    with pytest.raises(CorruptionError, match="missing"):
        Store.open(tmp_path / "store")
