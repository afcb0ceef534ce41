"""Opening an LMDB environment, translating its errors, and syncing its directory.

LMDB is a copy-on-write B-tree in one file, mapped into memory, with one writer and readers that never wait
for it. A commit writes new pages, syncs them, then writes one of two meta pages with ``O_DSYNC``. So a crash
at any moment leaves the last committed transaction. Its pages are file-backed and don't count as the
process's own memory.

Three things are missing in LMDB and added here:

* *Checksums.* Each value has a checksum over key and value (``values``; message blocks have their own header
  in ``blocks``), checked whenever it is read. LMDB detects some damage of the tree's own pages. Otherwise
  the process crashes, which also stops the node.
* *A truncated file kills the process* (SIGBUS on the first access to a missing page). So the file size is
  compared with LMDB's own last page number before any page is accessed.
* *The directory entry of a new file is not synced* by LMDB. It is here.

The map is opened at its full size. Growing it later would invalidate all readers. A large map costs nothing:
the file is as large as its contents, the map is only address space.

Don't put the environment on a network file system: LMDB's locks and its map need a local one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TypeAlias

import lmdb

from node.errors import CorruptionError, DiskError, NodeError

MAP_SIZE = 1 << 40
"""Bytes of address space for the map: the maximum size of a store."""

KEY_SIZE_MAX = 511
"""LMDB's maximum key size in bytes."""

FULL_BYTES = 1024 * 1024
"""A write failed for lack of space if the disk has less free bytes than this: LMDB writes up to a few
hundred KiB at once, and frees nothing when that fails."""

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"

ADVICE = (
    "The node stops: keep the directory for inspection and replace this node"
    " (`stanchion cluster replace`); it receives all data again from the other nodes."
)

Database: TypeAlias = lmdb._Database

fsync = os.fsync
"""All syncs of this package use it. The simulator replaces it to crash a process in a sync."""

_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)


def translate(path: Path, error: lmdb.Error) -> NodeError:
    """Return the node's error for an LMDB error."""
    if isinstance(error, _DAMAGED):
        return CorruptionError(f"{path}: the store is damaged: {error}. {ADVICE}")
    if isinstance(error, lmdb.MapFullError):
        return DiskError(
            f"{path}: the store has its maximum size of {MAP_SIZE >> 40} TiB: lower limits or purge channels"
        )
    if isinstance(error, lmdb.DiskError) or _is_full(path):
        return DiskError(f"{path}: no space left on the disk of the store: {error}")
    return DiskError(f"{path}: an operation on the store's disk failed: {error}")


def _is_full(path: Path) -> bool:
    """Return True if the file system of ``path`` has no space left.

    LMDB reports a write that a full disk cut short as EIO, the error of a broken disk (``mdb_page_flush``:
    "short write, filesystem full?").
    """
    with contextlib.suppress(OSError):
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize < FULL_BYTES
    return False


def open_environment(path: Path, map_size: int) -> lmdb.Environment:
    """Open the environment in the directory ``path``; create both if they don't exist.

    Raises:
        CorruptionError: the directory has no valid environment, or its file is truncated.
        DiskError: it can't be created, opened or mapped.
    """
    try:
        new = not path.exists()
        path.mkdir(mode=0o700, exist_ok=True)
        if new:
            sync_directory(path.parent)
    except OSError as error:
        raise DiskError(f"{path}: the store's directory can't be created: {error}") from error
    try:
        environment = lmdb.open(str(path), map_size=map_size, max_dbs=4, max_spare_txns=1, mode=0o600)
    except lmdb.MemoryError as error:
        raise DiskError(
            f"{path}: {map_size} bytes of address space for the store were refused ({error}):"
            " raise the limit (`ulimit -v unlimited`, LimitAS=infinity of systemd)"
        ) from error
    except lmdb.Error as error:
        raise translate(path, error) from error
    try:
        check_size(path, environment)
        sync_directory(path)
    except BaseException:
        environment.close()
        raise
    return environment


def check_size(path: Path, environment: lmdb.Environment) -> None:
    """Refuse an environment whose file is shorter than its last page, which would crash the process.

    Raises:
        CorruptionError: the file is too short.
    """
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (path / DATA_FILE).stat().st_size
    if size < needed:
        raise CorruptionError(f"{path}: {DATA_FILE} has {size} bytes and should have {needed}. {ADVICE}")


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's contents durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)
