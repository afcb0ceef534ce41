"""What a node keeps is opened whole, or not at all; in memory there is no directory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest

from node.config.model import Cluster, Config, Node, Store
from node.config.values import Address
from node.errors import DiskError, IdentityError
from node.raft.identity import Identity, save_identity
from node.server.storage import open_storage


def config(directory: Path, kind: str = "file") -> Config:
    nodes = MappingProxyType({"n1": Node(Address("127.0.0.1", 4222))})
    return Config(cluster=Cluster(nodes=nodes), store=Store(store=kind, dir=directory))


def test_a_directory_is_made_and_kept(tmp_path: Path) -> None:
    """Identity, journal and store are found again; nobody else may open them meanwhile."""
    here = config(tmp_path / "data")
    identity = Identity("test-cluster", "f", "t", "n1")
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        assert storage.identity is None
        save_identity(storage.disk, identity)
        storage.journal.append(1, 1, b"entry")
        flush = storage.journal.begin_flush()
        assert flush is not None
        flush.run()
        storage.journal.end_flush(flush)
        with ExitStack() as other, pytest.raises(IdentityError, match="another process"):
            open_storage(here, "n1", other)
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        assert storage.identity == identity
        assert storage.journal.payload_at(1) == b"entry"
        assert storage.store.applied == (0, 0)
    with ExitStack() as stack, pytest.raises(IdentityError, match="n1"):
        open_storage(here, "n2", stack)


def test_a_snapshot_whose_journal_did_not_follow(tmp_path: Path) -> None:
    """The process died between the two; the journal goes on behind what is in the store."""
    here = config(tmp_path)
    with ExitStack() as stack:
        store = open_storage(here, "n1", stack).store
        job = store.begin_checkpoint((7, 3), (6, 2), [(b"key", b"value")])
        job.run()
        store.end_checkpoint(job)
    with ExitStack() as stack:
        storage = open_storage(here, "n1", stack)
        assert storage.journal.term_at(7) == 3
        assert storage.journal.term_at(6) == 2
        assert storage.journal.last_index == 7


def test_in_memory_nothing_is_written_and_nothing_is_found(tmp_path: Path) -> None:
    here = config(tmp_path / "never", "memory")
    for _ in range(2):
        with ExitStack() as stack:
            storage = open_storage(here, "n1", stack)
            assert storage.identity is None
            assert storage.journal.last_index == 0
            storage.journal.append(1, 1, b"entry")
            save_identity(storage.disk, Identity("test-cluster", "f", "t", "n1"))
            storage.store.put(1, 1, [b"message"])
    assert list(tmp_path.iterdir()) == []


def test_what_was_opened_is_closed_when_something_after_it_fails(tmp_path: Path) -> None:
    """A store that can't be opened leaves neither a lock nor an open journal behind."""
    (tmp_path / "store").write_text("not a directory")
    for _ in range(2):
        with ExitStack() as stack, pytest.raises(DiskError, match="store"):
            open_storage(config(tmp_path), "n1", stack)
    (tmp_path / "store").unlink()
    with ExitStack() as stack:
        open_storage(config(tmp_path), "n1", stack)
