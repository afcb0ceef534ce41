"""One LMDB environment: how it is opened, what its errors mean, how its directory is made durable.

What LMDB gives: a copy-on-write B-tree in one file, mapped into memory, with one writer and readers
that never wait for it. A commit writes new pages, syncs them, then writes one of two meta pages with
``O_DSYNC``; so a crash at any moment leaves the last committed transaction. Its pages are file-backed
and don't count as the process's own memory.

What it lacks, and what is done about it:

* *No checksums.* Every value of ours carries one over key and value (``values``; message blocks have
  their own header in ``blocks``), checked whenever it is read. Damage to the tree's own pages is found
  by LMDB where it can; where it can't the process dies of it, which is also a way to stop rather than
  guess.
* *A file that lost its end kills the process* (SIGBUS on the first touch of a missing page). The size
  is held against LMDB's own last page number before any page is touched.
* *The directory entry of a new file isn't synced.* It is here.

The map is opened at its full size once and for all. Growing it in use would invalidate every reader,
and costs nothing to avoid: the file is as large as its contents, the map is address space.

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
"""Bytes of address space for the map: the most a store may ever hold."""

KEY_SIZE_MAX = 511
"""Bytes. LMDB's limit for a key."""

FULL_BYTES = 1024 * 1024
"""A disk with less free space than this has refused a write for want of it: LMDB writes up to a few hundred
KiB at once, and gives nothing back when that fails."""

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"

ADVICE = (
    "Stop here rather than guess: keep the directory for inspection and replace this node"
    " (`stanchion cluster replace`); it gets everything again from the others."
)

Database: TypeAlias = lmdb._Database

fsync = os.fsync
"""Every sync of ours. The simulator's processes die in one now and then."""

_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)


def translate(path: Path, error: lmdb.Error) -> NodeError:
    """The error of ours that says what LMDB's means for the node."""
    if isinstance(error, _DAMAGED):
        return CorruptionError(f"{path}: the store is damaged: {error}. {ADVICE}")
    if isinstance(error, lmdb.MapFullError):
        return DiskError(
            f"{path}: the store has {MAP_SIZE >> 40} TiB, the most it can: lower the limits, or purge"
        )
    if isinstance(error, lmdb.DiskError) or _is_full(path):
        return DiskError(f"{path}: no space left on the disk of the store: {error}")
    return DiskError(f"{path}: the store's disk refused an operation: {error}")


def _is_full(path: Path) -> bool:
    """Whether the file system of ``path`` has no space left.

    LMDB reports a write that a full disk cut short as EIO, the error of a broken disk
    (``mdb_page_flush``: "short write, filesystem full?").
    """
    with contextlib.suppress(OSError):
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize < FULL_BYTES
    return False


def open_environment(path: Path, map_size: int) -> lmdb.Environment:
    """Open the environment in the directory ``path``; make both if they are not there.

    Raises:
        CorruptionError: what is there is no environment, or has lost its end.
        DiskError: it can't be created, opened or mapped.
    """
    try:
        new = not path.exists()
        path.mkdir(mode=0o700, exist_ok=True)
        if new:
            sync_directory(path.parent)
    except OSError as error:
        raise DiskError(f"{path}: the store's directory can't be made: {error}") from error
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
    """Refuse an environment whose file is shorter than its last page: touching that would kill us.

    Raises:
        CorruptionError: it is.
    """
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (path / DATA_FILE).stat().st_size
    if size < needed:
        raise CorruptionError(f"{path}: {DATA_FILE} has {size} bytes and should have {needed}. {ADVICE}")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
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
