"""A directory of files in memory, for a node that stores nothing.

It passes the tests of the real disk and keeps its content until the process ends; a sync has nothing to do.
Space that is only reserved takes no memory.

`node.simulator.disk.SimulatedDisk` simulates power failures; this class is for production. Reads and writes
may come from two threads, as the journal's do.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.errors import DiskError


class MemoryDisk:
    """A `Disk` in memory."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._files: dict[str, _Content] = {}

    def names(self) -> list[str]:
        return sorted(self._files)

    def open(self, name: str, *, create: bool = False) -> MemoryFile:
        if create:
            if name in self._files:
                raise DiskError(f"open {self.describe(name)}: File exists")
            self._files[name] = _Content()
        return MemoryFile(self._content("open", name))

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._content("rename", old)
        del self._files[old]

    def unlink(self, name: str) -> None:
        self._content("unlink", name)
        del self._files[name]

    def sync_dir(self) -> None:
        """Nothing to do."""

    def describe(self, name: str) -> str:
        return f"{self._name}/{name}"

    def _content(self, what: str, name: str) -> _Content:
        content = self._files.get(name)
        if content is None:
            raise DiskError(f"{what} {self.describe(name)}: No such file or directory")
        return content


class _Content:
    """The bytes that were written, and the size of the file; the space between reads as zeros."""

    __slots__ = ("size", "written")

    def __init__(self) -> None:
        self.written = bytearray()
        self.size = 0


class MemoryFile:
    """An open file. Closing it does nothing, because the directory owns the content."""

    __slots__ = ("_content",)

    def __init__(self, content: _Content) -> None:
        self._content = content

    def size(self) -> int:
        return self._content.size

    def read(self, at: int, length: int) -> bytes:
        content = self._content
        length = max(0, min(length, content.size - at))
        return bytes(content.written[at : at + length]).ljust(length, b"\0")

    def write(self, at: int, buffers: Sequence[bytes]) -> None:
        content = self._content
        data = b"".join(buffers)
        content.written.extend(bytes(max(0, at - len(content.written))))
        content.written[at : at + len(data)] = data
        content.size = max(content.size, at + len(data))

    def truncate(self, size: int) -> None:
        del self._content.written[size:]
        self._content.size = size

    def allocate(self, size: int) -> None:
        self._content.size = max(self._content.size, size)

    def sync(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
