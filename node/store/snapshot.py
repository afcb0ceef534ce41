"""Snapshots: copy the store, describe the copy in a manifest, and install a snapshot.

A snapshot is a directory ``<term>-<index>`` with a copy of the environment's file and a manifest: applied
index and term, file size, SHA-256, and the CRC-32 of each 256 KiB. It is created under another name and
renamed when it is durable. So a directory with a snapshot's name is complete. LMDB makes a consistent copy
while checkpoints continue. All functions here block on the disk: call them in a worker thread.

Installing needs one rename only. The environment is one file. Its lock file has no meaning while no process
has the environment open, and is created again. So a crash leaves the old store or the new one; in between,
at most, the old one without its lock file. The caller has closed the old store, and afterwards resets the
journal to the new first index. If the process crashes before that reset is durable, the next start must do
it. The data that it needs for that, and that no store contains, is written beside the store before the
rename, as an *install note* (`install_note_of`).
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
"""Bytes that are verified, sent and resumed as a unit."""

CONTEXT_BYTES_MAX = 64 * 1024
"""Maximum bytes of the caller's data in a manifest."""

MANIFEST_FILE = "manifest"
NOTE_FILE = "installed"
"""Beside the environment's file: the install note of the last installed snapshot."""
_MANIFEST_VERSION = 1
_HEAD_VERSION = 2
"""Version of an offer without checksums, used if they take more than a frame."""
_NAME = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a snapshot, with the checksums that verify its file."""

    index: Index
    """Index of the last entry that is applied in it."""
    term: Term
    previous: tuple[Index, Term]
    """Index and term of the entry before."""
    size: int
    """Bytes of its file."""
    sha256: bytes
    crcs: bytes
    """CRC-32, 4 bytes big-endian, of each ``CHUNK_BYTES`` of the file."""
    context: bytes = b""
    """Data of the caller, opaque here: the keys needed to read the snapshot if it is encrypted."""
    chunk_bytes: int = CHUNK_BYTES
    """The same on both sides, so it is not sent."""

    @property
    def snapshot_id(self) -> str:
        """Identifies these exact bytes: two nodes' copies of the same state have different ids."""
        return f"{self.term}-{self.index}-{self.sha256[:12].hex()}"

    def chunk_size(self, offset: int) -> int:
        return min(self.chunk_bytes, self.size - offset)

    def crc(self, offset: int) -> int:
        at = offset // self.chunk_bytes * 4
        return int.from_bytes(self.crcs[at : at + 4], "big")

    def to_plain(self) -> list[Any]:
        """Return the manifest as plain values for msgpack."""
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
        """Return the plain values without the checksums of the chunks, which are sent separately."""
        _, *before, _crcs, context = self.to_plain()
        return [_HEAD_VERSION, *before, context]

    @classmethod
    def head_from_plain(
        cls, value: object, size_max: int = MAP_SIZE, chunk_bytes: int = CHUNK_BYTES
    ) -> tuple[Manifest, int]:
        """Return a manifest without its checksums, and the number of bytes that they take.

        Raises:
            RemoteProtocolError: it is not a manifest, or its file is larger than ``size_max`` bytes.
        """
        match value:
            case [2, index, term, previous, int(size), sha, context] if 0 < size <= size_max:
                crcs_bytes = -(-size // chunk_bytes) * 4
                plain = [_MANIFEST_VERSION, index, term, previous, size, sha, bytes(crcs_bytes), context]
                return cls.from_plain(plain, size_max, chunk_bytes), crcs_bytes
            case _:
                raise RemoteProtocolError("not the head of a snapshot's manifest")

    @classmethod
    def from_plain(cls, value: object, size_max: int = MAP_SIZE, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
        """Return the manifest that `to_plain` converted to ``value``.

        Raises:
            RemoteProtocolError: it is not a manifest, or its file is larger than ``size_max`` bytes.
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
                raise RemoteProtocolError("not a snapshot's manifest")
        if min(index, term, before, term_before) < 0 or before > index or len(sha) != 32:
            raise RemoteProtocolError("a snapshot's manifest that contradicts itself")
        if not 0 < size <= size_max:
            raise RemoteProtocolError(f"a snapshot of {size} bytes; at most {size_max} are accepted")
        if len(crcs) != -(-size // chunk_bytes) * 4 or len(context) > CONTEXT_BYTES_MAX:
            raise RemoteProtocolError("a snapshot's manifest whose checksums don't match its size")
        previous = (Index(before), Term(term_before))
        return cls(Index(index), Term(term), previous, size, sha, crcs, context, chunk_bytes)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot on this node's disk."""

    path: Path
    """The directory with the copy and its manifest."""
    manifest: Manifest

    @property
    def data(self) -> Path:
        return self.path / DATA_FILE


def produce(store: Store, directory: Path, *, context: bytes = b"", keep: int = 2) -> Snapshot:
    """Copy the store's last durable checkpoint into ``directory``; keep the newest ``keep`` snapshots there.

    In a worker thread. Costs one read and one write of the whole store. If a snapshot of the same index and
    context exists, it is returned instead.

    Raises:
        DiskError: there is no space for the copy, or it can't be written. No part of it remains.
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
    # The same amount must remain free: a copy that fills the disk would stop the node.
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < 2 * store.bytes_on_disk:
        raise DiskError(f"{directory}: no space for a snapshot of {store.bytes_on_disk} bytes")
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
    """Return the complete snapshots in a directory, newest first, and ignore everything else."""
    if not directory.is_dir():
        return []
    loaded = [load(path) for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    whole = [snapshot for snapshot in loaded if snapshot is not None]
    return sorted(whole, key=lambda snapshot: (snapshot.manifest.index, snapshot.manifest.term), reverse=True)


def load(path: Path) -> Snapshot | None:
    """Return the snapshot in a directory, or None if there is no complete one."""
    manifest = load_manifest(path)
    data = path / DATA_FILE
    if manifest is None or not data.exists() or data.stat().st_size != manifest.size:
        return None
    return Snapshot(path, manifest)


def load_manifest(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Manifest | None:
    """Return the manifest in a snapshot's directory, or None if there is no valid one.

    An invalid manifest is no error, because a snapshot is only a copy.
    """
    try:
        stored = (path / MANIFEST_FILE).read_bytes()
        plain = msgpack.unpackb(verified(path, b"", stored))
        return Manifest.from_plain(plain, chunk_bytes=chunk_bytes)
    except (FileNotFoundError, CorruptionError, RemoteProtocolError, ValueError):
        return None


def verify(received: Snapshot, value_cipher: ValueCipher | None = None) -> None:
    """Check that a received snapshot is a valid store with the index of its manifest. In a worker thread.

    Raises:
        RemoteProtocolError: it is not. This is the sender's fault: no store of this node is damaged.
    """
    _verified_records(received, value_cipher, records=False)


def verified_records(
    received: Snapshot, value_cipher: ValueCipher | None = None
) -> list[tuple[bytes, bytes]]:
    """Verify a snapshot like `verify` and return the core's records, which only the core can check.

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
        raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} is not a valid store: {error}") from error
    if found != ((manifest.index, manifest.term), manifest.previous):
        raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} has another index than its manifest")
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
    """Replace the store by a received snapshot, and open it.

    The store at ``store_path``, if there is one, is closed and on the same file system. In a worker thread.
    A crash at any point leaves the old store, or the new one with its install note.

    Raises:
        RemoteProtocolError: the snapshot does not match its manifest; the old store is unchanged.
        DiskError: a disk operation failed.
    """
    manifest = received.manifest
    verify(received, value_cipher)
    try:
        sync_file(received.data)
        store_path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(store_path.parent)
        if note:
            _write_install_note(store_path, (manifest.index, manifest.term), note)
        (store_path / LOCK_FILE).unlink(missing_ok=True)
        received.data.rename(store_path / DATA_FILE)
        sync_directory(store_path)
        shutil.rmtree(received.path)
    except OSError as error:
        raise DiskError(f"{store_path}: a snapshot can't be installed: {error}") from error
    return Store.open(store_path, map_size=map_size, cache_bytes=cache_bytes, value_cipher=value_cipher)


def _write_install_note(store_path: Path, of: tuple[Index, Term], note: bytes) -> None:
    temporary = store_path / f"{NOTE_FILE}.tmp"
    temporary.write_bytes(with_checksum(b"", msgpack.packb([*of, note])))
    sync_file(temporary)
    temporary.rename(store_path / NOTE_FILE)
    sync_directory(store_path)


def install_note_of(store_path: Path, applied: tuple[Index, Term]) -> bytes:
    """Return the install note of the snapshot with this index and term; empty if there is none.

    Raises:
        CorruptionError: it is not what was written.
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
    """Yield a file's contents, ``chunk_bytes`` at a time."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(chunk_bytes):
            yield chunk


def _describe(values: Values, context: bytes) -> Manifest:
    # Read all of it first: damage in a leader's store must not spread to nodes without one.
    applied, previous = applied_in(values, whole=True)
    return describe(chunks(values.path / DATA_FILE), applied, previous, context)


def describe(
    chunks: Iterable[bytes],
    applied: tuple[Index, Term],
    previous: tuple[Index, Term],
    context: bytes,
    chunk_bytes: int = CHUNK_BYTES,
) -> Manifest:
    """Return the manifest of a file that consists of these chunks."""
    sha, crcs, size = hashlib.sha256(), bytearray(), 0
    for chunk in chunks:
        sha.update(chunk)
        crcs += crc32(chunk).to_bytes(4, "big")
        size += len(chunk)
    return Manifest(*applied, previous, size, sha.digest(), bytes(crcs), context, chunk_bytes)


def open_reader(snapshot: Snapshot) -> SnapshotReader:
    """Return a reader that stays valid if the snapshot is deleted meanwhile.

    Raises:
        DiskError: the snapshot no longer exists.
    """
    return SnapshotReader(snapshot.data)


class SnapshotReader:
    """Reads a snapshot's file at any offset, for ``SnapshotSender``. Close it, or use ``with``."""

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
