"""Snapshots: a consistent copy of the store, its manifest, and putting one in the store's place.

A snapshot is a directory ``<term>-<index>`` that holds a copy of the environment's file and a manifest:
what it is a copy of, how long the file is, its SHA-256 and the CRC-32 of every 256 KiB of it. It is
made under another name and renamed when it is on the disk, so that a snapshot that has its name is whole.
LMDB copies while checkpoints go on. Everything here blocks on the disk: it is for a worker thread.

Installing needs no more than one rename. The environment is one file; its lock file has no meaning
once nobody has the environment open, and is made anew. So a crash leaves the old store or the new
one, and in between, at most, the old one without its lock file. Whoever installs has closed the old
store, and tells the journal afterwards where the log now begins. If the process dies before that is
durable, the next start has to tell it; what it needs and no store knows lies beside the store from
before the rename on, as a *note* (`heartbeat_payload_of`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgpack

from node.errors import CorruptionError, DiskError, RemoteProtocolError
from node.store.environment import (
    DATA_FILE,
    LOCK_FILE,
    MAP_SIZE,
    sync_directory,
    sync_file,
)
from node.store.layout import applied_in, records_in
from node.store.store import CACHE_BYTES, Store
from node.store.values import Values, verified, with_checksum
from node.units import Index, Term

if TYPE_CHECKING:
    from node.encryption.value_cipher import ValueCipher

CHUNK_BYTES = 256 * 1024
"""Bytes that are verified, sent and resumed as one."""

CONTEXT_BYTES_MAX = 64 * 1024
"""Bytes of what the shell adds to a manifest."""

MANIFEST_FILE = "manifest"
NOTE_FILE = "installed"
"""Beside the environment's file: the note of the snapshot installed last."""
_MANIFEST_VERSION = 1
_HEAD_VERSION = 2
"""Of what is offered of a snapshot whose checksums take more than a frame: all but those."""
_NAME = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is, and how to know that one has all of it."""

    index: Index
    """Of the last entry applied in it."""
    term: Term
    previous: tuple[Index, Term]
    """Of the entry before."""
    size: int
    """Bytes of the file."""
    sha256: bytes
    crcs: bytes
    """CRC-32, 4 bytes big-endian, of each ``CHUNK_BYTES`` of the file."""
    context: bytes = b""
    """The shell's own: what it takes to read it, if it is encrypted. Opaque here."""
    chunk_bytes: int = CHUNK_BYTES
    """Both sides know: it is no part of what travels."""

    @property
    def snapshot_id(self) -> str:
        """Names exactly these bytes: two nodes' copies of the same state differ in theirs."""
        return f"{self.term}-{self.index}-{self.sha256[:12].hex()}"

    def chunk_size(self, offset: int) -> int:
        return min(self.chunk_bytes, self.size - offset)

    def crc(self, offset: int) -> int:
        at = offset // self.chunk_bytes * 4
        return int.from_bytes(self.crcs[at : at + 4], "big")

    def to_plain(self) -> list[Any]:
        """Values that msgpack takes."""
        return [
            _MANIFEST_VERSION,
            self.index,
            self.term,
            list(self.previous),
            self.size,
            self.sha256,
            self.crcs,
            self.context,
        ]

    def head_to_plain(self) -> list[Any]:
        """The same without the checksums of its parts, which follow by themselves."""
        _, *before, _crcs, context = self.to_plain()
        return [_HEAD_VERSION, *before, context]

    @classmethod
    def head_from_plain(
        cls, value: object, size_max: int = MAP_SIZE, chunk_bytes: int = CHUNK_BYTES
    ) -> tuple[Manifest, int]:
        """A manifest that lacks its checksums, and how many bytes they take.

        Raises:
            RemoteProtocolError: it is none, or of a file larger than ``size_max`` bytes.
        """
        match value:
            case [2, index, term, previous, int(size), sha, context] if 0 < size <= size_max:
                crcs_bytes = -(-size // chunk_bytes) * 4
                plain = [_MANIFEST_VERSION, index, term, previous, size, sha, bytes(crcs_bytes), context]
                return cls.from_plain(plain, size_max, chunk_bytes), crcs_bytes
            case _:
                raise RemoteProtocolError("the head of a snapshot's manifest that is none")

    @classmethod
    def from_plain(cls, value: object, size_max: int = MAP_SIZE, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
        """The manifest that became ``value``.

        Raises:
            RemoteProtocolError: it is none, or of a file larger than ``size_max`` bytes.
        """
        match value:
            case [
                1,
                int(index),
                int(term),
                [int(before), int(term_before)],
                int(size),
                bytes(sha),
                bytes(crcs),
                bytes(context),
            ]:
                pass
            case _:
                raise RemoteProtocolError("a snapshot's manifest that is none")
        if min(index, term, before, term_before) < 0 or before > index or len(sha) != 32:
            raise RemoteProtocolError("a snapshot's manifest that contradicts itself")
        if not 0 < size <= size_max:
            raise RemoteProtocolError(f"a snapshot of {size} bytes; at most {size_max} are taken")
        if len(crcs) != -(-size // chunk_bytes) * 4 or len(context) > CONTEXT_BYTES_MAX:
            raise RemoteProtocolError("a snapshot's manifest whose parts don't fit its size")
        previous = (Index(before), Term(term_before))
        return cls(Index(index), Term(term), previous, size, sha, crcs, context, chunk_bytes)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole snapshot on this node's disk."""

    path: Path
    """The directory with the copy and its manifest."""
    manifest: Manifest

    @property
    def data(self) -> Path:
        return self.path / DATA_FILE


def produce(store: Store, directory: Path, *, context: bytes = b"", keep: int = 2) -> Snapshot:
    """Copy the store's last durable checkpoint into ``directory``; keep the newest ``keep`` there.

    In a worker thread. Costs one reading and one writing of all the store holds. If there is a snapshot
    of the same index and context already, that one is returned.

    Raises:
        DiskError: there is no room for the copy, or it can't be written. Nothing is left of it.
        CorruptionError: the store is damaged.
    """
    assert len(context) <= CONTEXT_BYTES_MAX
    temporary = directory / "copy.tmp"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        return _produce(store, directory, temporary, context, keep)
    except OSError as error:
        raise DiskError(f"{directory}: a snapshot can't be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _produce(store: Store, directory: Path, temporary: Path, context: bytes, keep: int) -> Snapshot:
    # As much again must be left: a copy that fills the disk would stop the node.
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < 2 * store.bytes_on_disk:
        raise DiskError(f"{directory}: no room for a snapshot of {store.bytes_on_disk} bytes")
    temporary.mkdir(mode=0o700)
    store.copy_to(temporary)
    manifest = _describe(store.values_in(temporary), context)
    write_manifest(temporary, manifest)
    sync_file(temporary / DATA_FILE)
    final = directory / f"{manifest.term}-{manifest.index}"
    existing = load(final)
    if existing is not None and existing.manifest.context == context:
        return existing
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync_directory(directory)
    for old in find_all(directory)[keep:]:
        shutil.rmtree(old.path)
    return Snapshot(final, manifest)


def find_all(directory: Path) -> list[Snapshot]:
    """The whole snapshots in a directory, newest first; anything else is passed over."""
    if not directory.is_dir():
        return []
    loaded = [load(path) for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    whole = [snapshot for snapshot in loaded if snapshot is not None]
    return sorted(whole, key=lambda snapshot: (snapshot.manifest.index, snapshot.manifest.term), reverse=True)


def load(path: Path) -> Snapshot | None:
    """The snapshot in a directory, or None if there is no whole one."""
    manifest = load_manifest(path)
    data = path / DATA_FILE
    if manifest is None or not data.exists() or data.stat().st_size != manifest.size:
        return None
    return Snapshot(path, manifest)


def load_manifest(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Manifest | None:
    """The manifest in a snapshot's directory, or None if there is no good one: it is only a copy's."""
    try:
        stored = (path / MANIFEST_FILE).read_bytes()
        plain = msgpack.unpackb(verified(path, b"", stored))
        return Manifest.from_plain(plain, chunk_bytes=chunk_bytes)
    except (FileNotFoundError, CorruptionError, RemoteProtocolError, ValueError):
        return None


def verify(received: Snapshot, value_cipher: ValueCipher | None = None) -> None:
    """See whether a received snapshot is a store, and the one its manifest speaks of. In a worker thread.

    Raises:
        RemoteProtocolError: it isn't. That is the fault of who has sent it: no store of ours is damaged.
    """
    _verified_records(received, value_cipher, records=False)


def verified_records(
    received: Snapshot, value_cipher: ValueCipher | None = None
) -> list[tuple[bytes, bytes]]:
    """`verify`, and return the core's records: whether they can be read is for the core to say.

    Raises:
        RemoteProtocolError: as `verify`.
    """
    return _verified_records(received, value_cipher, records=True)


def _verified_records(
    received: Snapshot, value_cipher: ValueCipher | None, *, records: bool
) -> list[tuple[bytes, bytes]]:
    manifest, found_records = received.manifest, []
    values = Values(received.path, value_cipher)
    try:
        found = applied_in(values)
        if records:
            found_records = records_in(values)
    except CorruptionError as error:
        raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} is none: {error}") from error
    if found != ((manifest.index, manifest.term), manifest.previous):
        raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} holds another index than it says")
    return found_records


def install(
    received: Snapshot,
    store_path: Path,
    *,
    map_size: int = MAP_SIZE,
    cache_bytes: int = CACHE_BYTES,
    value_cipher: ValueCipher | None = None,
    note: bytes = b"",
) -> Store:
    """Put a received snapshot in the place of the store, and open it.

    The store at ``store_path``, if there is one, is closed; it lies on the same file system. In a worker
    thread. A crash at any point leaves the old store or the new, and the new one not without its note.

    Raises:
        RemoteProtocolError: the snapshot isn't what its manifest says; the old store is untouched.
        DiskError: the disk refused.
    """
    manifest = received.manifest
    verify(received, value_cipher)
    try:
        sync_file(received.data)
        store_path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(store_path.parent)
        if note:
            _write_note(store_path, (manifest.index, manifest.term), note)
        (store_path / LOCK_FILE).unlink(missing_ok=True)
        received.data.rename(store_path / DATA_FILE)
        sync_directory(store_path)
        shutil.rmtree(received.path)
    except OSError as error:
        raise DiskError(f"{store_path}: a snapshot can't be installed: {error}") from error
    return Store.open(store_path, map_size=map_size, cache_bytes=cache_bytes, value_cipher=value_cipher)


def _write_note(store_path: Path, of: tuple[Index, Term], note: bytes) -> None:
    temporary = store_path / f"{NOTE_FILE}.tmp"
    temporary.write_bytes(with_checksum(b"", msgpack.packb([*of, note])))
    sync_file(temporary)
    temporary.rename(store_path / NOTE_FILE)
    sync_directory(store_path)


def heartbeat_payload_of(store_path: Path, applied: tuple[Index, Term]) -> bytes:
    """The note that the snapshot of this index and term was installed with; empty if there is none.

    Raises:
        CorruptionError: it isn't what was written.
    """
    path = store_path / NOTE_FILE
    if not path.exists():
        return b""
    index, term, note = msgpack.unpackb(verified(path, b"", path.read_bytes()))
    return bytes(note) if (index, term) == applied else b""


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest into a snapshot's directory, durably."""
    target = path / MANIFEST_FILE
    target.write_bytes(with_checksum(b"", msgpack.packb(manifest.to_plain())))
    sync_file(target)
    sync_directory(path)


def chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """A file, so many bytes at a time."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(chunk_bytes):
            yield chunk


def _describe(values: Values, context: bytes) -> Manifest:
    # All of it is read first: damage in a leader's store must not travel to those who have none.
    applied, previous = applied_in(values, whole=True)
    return describe(chunks(values.path / DATA_FILE), applied, previous, context)


def describe(
    chunks: Iterable[bytes],
    applied: tuple[Index, Term],
    previous: tuple[Index, Term],
    context: bytes,
    chunk_bytes: int = CHUNK_BYTES,
) -> Manifest:
    """The manifest of a file that consists of these chunks."""
    sha, crcs, size = hashlib.sha256(), bytearray(), 0
    for chunk in chunks:
        sha.update(chunk)
        crcs += crc32(chunk).to_bytes(4, "big")
        size += len(chunk)
    return Manifest(*applied, previous, size, sha.digest(), bytes(crcs), context, chunk_bytes)


def open_reader(snapshot: Snapshot) -> SnapshotReader:
    """A reader that stays good even if the snapshot is pruned meanwhile.

    Raises:
        DiskError: the snapshot is gone.
    """
    return SnapshotReader(snapshot.data)


class SnapshotReader:
    """Reads a snapshot's file at any offset: what a ``SnapshotSender`` wants. Close it, or use ``with``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DiskError(f"{path}: the snapshot can't be read: {error}") from error

    def __call__(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise DiskError(f"{self._path}: the snapshot can't be read: {error}") from error

    def __enter__(self) -> SnapshotReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)
