"""A flat directory of files: the disk interface of the journal.

The journal and the identity file never call the operating system directly; they receive a `Disk`. `RealDisk`
is a directory of the operating system. `node.simulator.disk.SimulatedDisk` simulates power failures.

The interface guarantees only this: a write is durable after the next `sync` of its file; a name that was
created, renamed or removed is durable after the next `sync_dir`. Until then a power failure may keep, lose or
tear each write independently, in any order.

Every failure is a `DiskError`. After one, the operation must not be repeated: a kernel that failed to write a
page may mark it clean, so the next sync succeeds although the data was never written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from node.errors import DiskError

_BUFFERS_MAX = 1024
"""IOV_MAX of Linux: the maximum number of buffers of one gathered write."""


class File(Protocol):
    """An open file. Not safe for two threads, except `read` of bytes that are already written."""

    def size(self) -> int: ...

    def read(self, at: int, length: int) -> bytes:
        """Return the bytes from offset ``at``; fewer than ``length`` only at the end of the file."""

    def write(self, at: int, buffers: Sequence[bytes]) -> None:
        """Write all buffers, one after the other, from offset ``at``, as one gathered write."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def allocate(self, size: int) -> None:
        """Extend the file to at least ``size`` bytes; the added part reads as zeros."""

    def sync(self) -> None:
        """Make content and size durable (fdatasync)."""

    def close(self) -> None: ...


class Disk(Protocol):
    """A flat directory of files."""

    def names(self) -> list[str]:
        """Return the names of all files in the directory, sorted."""

    def open(self, name: str, *, create: bool = False) -> File:
        """Open a file for reading and writing; with ``create`` it must not exist yet."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file atomically; an existing file of the new name is replaced."""

    def unlink(self, name: str) -> None: ...

    def sync_dir(self) -> None:
        """Make all changes of names durable."""

    def describe(self, name: str) -> str:
        """Return the name of this file for messages to the operator."""


@contextlib.contextmanager
def _translated(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"{what} {path}: {error.strerror or error}") from error


def replace_file(disk: Disk, name: str, data: bytes) -> None:
    """Write the file ``name`` atomically; it is durable on return.

    Raises:
        DiskError: the write failed.
    """
    temporary = name + ".tmp"
    if temporary in disk.names():
        disk.unlink(temporary)  # left by a call that did not finish
    with contextlib.closing(disk.open(temporary, create=True)) as file:
        file.write(0, [data])
        file.sync()
    disk.rename(temporary, name)
    disk.sync_dir()


class RealDisk:
    """A directory of the operating system, created (durably) if it does not exist.

    Files are readable by their owner only, because they contain what clients published.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with _translated("create directory", self.path):
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for made in missing:
                _sync_directory(made.parent)

    def names(self) -> list[str]:
        with _translated("list", self.path):
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_file())

    def open(self, name: str, *, create: bool = False) -> RealFile:
        path = self.path / name
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        with _translated("open", path):
            return RealFile(path, os.open(path, flags, 0o600))

    def rename(self, old: str, new: str) -> None:
        with _translated("rename", self.path / old):
            (self.path / old).rename(self.path / new)

    def unlink(self, name: str) -> None:
        with _translated("unlink", self.path / name):
            (self.path / name).unlink()

    def sync_dir(self) -> None:
        with _translated("sync directory", self.path):
            _sync_directory(self.path)

    def describe(self, name: str) -> str:
        return str(self.path / name)


class RealFile:
    """A file descriptor that is read and written at given offsets."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def size(self) -> int:
        with _translated("stat", self._path):
            return os.fstat(self._fd).st_size

    def read(self, at: int, length: int) -> bytes:
        with _translated("read", self._path):
            data = os.pread(self._fd, length, at)
            while len(data) < length:  # a signal may cut a read short
                more = os.pread(self._fd, length - len(data), at + len(data))
                if not more:
                    break
                data += more
            return data

    def write(self, at: int, buffers: Sequence[bytes]) -> None:
        with _translated("write", self._path):
            for first in range(0, len(buffers), _BUFFERS_MAX):
                part = buffers[first : first + _BUFFERS_MAX]
                at = self._write_all(at, part)

    def _write_all(self, at: int, buffers: Sequence[bytes]) -> int:
        end = at + sum(map(len, buffers))
        at += os.pwritev(self._fd, buffers, at)
        while at < end:  # short write: the disk is nearly full, or more than 2 GiB at once
            rest = memoryview(b"".join(buffers))[at - end :]
            at += os.pwrite(self._fd, rest, at)
        return end

    def truncate(self, size: int) -> None:
        with _translated("truncate", self._path):
            os.ftruncate(self._fd, size)

    def allocate(self, size: int) -> None:
        with _translated("allocate", self._path):
            if size:
                os.posix_fallocate(self._fd, 0, size)

    def sync(self) -> None:
        with _translated("sync", self._path):
            os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with _translated("close", self._path):
                os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
