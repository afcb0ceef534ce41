"""What several tests of the store need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from node.encryption import document
from node.encryption.keyring import Keyring
from node.store.store import Store


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Keyring]:
    """The keys of a directory, made or opened: ``keyring("n1")``. The pass phrase costs nothing here."""
    monkeypatch.setattr(document, "_N", 16)

    def opened(name: str, phrase: str = "pass") -> Keyring:
        directory = tmp_path / f"keys-{name}"
        new = not directory.exists()
        directory.mkdir(exist_ok=True)
        return Keyring.open(directory, [phrase], cipher="aes-256-gcm", empty=new)

    return opened


def run(store: Store, index: int, changes: dict[bytes, bytes | None] | None = None) -> None:
    job = store.begin_checkpoint((index, 1), (index - 1, 1), (changes or {}).items())
    job.run()
    store.end_checkpoint(job)


def blocks_in(path: Path, database: bytes = b"messages") -> int:
    with lmdb.open(str(path), max_dbs=4) as environment, environment.begin() as transaction:
        return int(transaction.stat(environment.open_db(database, transaction, create=False))["entries"])


@contextmanager
def opened(path: Path, **options: int) -> Iterator[Store]:
    store = Store.open(path, **options)
    try:
        yield store
    finally:
        store.close()
