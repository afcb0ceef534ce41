"""One flat directory of files, as the journal sees it: the disk as a parameter.

The journal and the identity file never touch the operating system themselves; they are handed a
`Disk`. `RealDisk` is a directory; `node.simulator.disk.SimulatedDisk` is the one that loses power.

What may be relied on, and nothing else: a write is durable after the file's next `sync`, a name
(created, renamed, unlinked) after the directory's next `sync_dir`. Until then a power cut may keep,
lose or tear each write by itself, in any order.

Every failure is a `DiskError`. After one nobody may try again: a kernel that failed to write a page
may call it clean, so that the next sync succeeds without the data being anywhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from node.errors import DiskError

_BUFFERS_MAX = 1024
"""IOV_MAX of Linux: so many buffers one gathered write may take."""


class File(Protocol):
    """An open file. Not safe for two threads, except `read` of what is already written."""

    def size(self) -> int: ...

    def read(self, at: int, length: int) -> bytes:
        """Bytes from offset ``at``; fewer than ``length`` only where the file ends."""

    def write(self, at: int, buffers: Sequence[bytes]) -> None:
        """Write all the buffers one behind the other from offset ``at``: one gathered write."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def allocate(self, size: int) -> None:
        """Reserve space up to ``size`` bytes; what the file did not have yet reads as zeros."""

    def sync(self) -> None:
        """Make content and size durable (fdatasync)."""

    def close(self) -> None: ...


class Disk(Protocol):
    """A flat directory of files."""

    def names(self) -> list[str]:
        """The names of all files in the directory, sorted."""

    def open(self, name: str, *, create: bool = False) -> File:
        """Open for reading and writing; with ``create`` the file must not exist yet."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, at once or not at all; a file of that name is replaced."""

    def unlink(self, name: str) -> None: ...

    def sync_dir(self) -> None:
        """Make the names durable."""

    def describe(self, name: str) -> str:
        """How messages to the operator call this file."""


@contextlib.contextmanager
def _translated(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"{what} {path}: {error.strerror or error}") from error


def replace_file(disk: Disk, name: str, data: bytes) -> None:
    """Have ``data`` under ``name``, at once or not at all, durable on return.

    Raises:
        DiskError: the disk refused.
    """
    temporary = name + ".tmp"
    if temporary in disk.names():
        disk.unlink(temporary)  # of a time that did not come to its end
    with contextlib.closing(disk.open(temporary, create=True)) as file:
        file.write(0, [data])
        file.sync()
    disk.rename(temporary, name)
    disk.sync_dir()


class RealDisk:
    """A directory of the operating system, created (and made durable) when it is missing.

    Files are for the owner's eyes only: they hold what clients published.
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
        while at < end:  # cut short: the disk is nearly full, or more than 2 GiB at once
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
