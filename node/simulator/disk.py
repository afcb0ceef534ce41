"""A disk in memory that loses unsynced data in a power cut, and fails on demand.

It passes the same tests as `node.raft.disk.RealDisk` and guarantees no more than that: between two
syncs every operation is only *pending*. `power_cut` decides the fate of each pending operation separately:
kept, lost, or torn in sectors of 512 bytes, in any combination. Pending changes of the directory are treated
the same way, except that none is torn; a file whose name did not survive is gone, synced or not. `kill`
(the process is killed) loses only the open files: written data stays readable and pending.

All randomness comes from the generator that the caller passes, so one seed decides everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from node.errors import DiskError

SECTOR_BYTES = 512

_Change = Callable[[bytearray], None]


class PowerCutError(Exception):
    """The machine stopped inside a disk operation. This is not a disk error: no code may handle it."""


@dataclass(slots=True)
class _Inode:
    seen: bytearray = field(default_factory=bytearray)
    """The content that reads return."""
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Pending] = field(default_factory=list)
    rotten: list[tuple[int, int]] = field(default_factory=list)
    """Position and mask of the bits flipped since the last sync."""

    def do(self, pending: _Pending) -> None:
        pending.apply(self.seen)
        self.pending.append(pending)

    def flip(self, at: int, mask: int) -> None:
        """Flip bits of one byte, both in the content that reads return and in the durable content."""
        for content in (self.seen, self.durable):
            if at < len(content):
                content[at] ^= mask

    def settle(self) -> None:
        for pending in self.pending:
            pending.apply(self.durable)
        self.pending.clear()
        self.rotten.clear()


@dataclass(slots=True)
class _Pending:
    """A change of one file's bytes that no sync has made durable yet."""

    at: int
    data: bytes | None = None
    """The bytes written at ``at``; None: the file was resized to ``at`` bytes."""
    grow_only: bool = False

    def apply(self, content: bytearray) -> None:
        end = self.at if self.data is None else self.at + len(self.data)
        content.extend(bytes(max(0, end - len(content))))
        if self.data is not None:
            content[self.at : end] = self.data
        elif not self.grow_only:
            del content[end:]

    def survive(self, content: bytearray, rng: random.Random) -> None:
        """Apply all of the change, none of it, or some sectors: the power was cut before the sync."""
        fate = rng.random()
        if fate < 0.4:
            self.apply(content)
        elif fate < 0.8 and self.data is not None:
            self._tear(content, rng)

    def _tear(self, content: bytearray, rng: random.Random) -> None:
        data, start = self.data or b"", self.at
        end = start + len(data)
        while start < end:
            stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
            if rng.random() < 0.5:
                _Pending(start, data[start - self.at : stop - self.at]).apply(content)
            start = stop


class SimulatedDisk:
    """A simulated directory. Use it as a `Disk`; inject failures with the methods at the end."""

    def __init__(self, rng: random.Random, *, name: str = "disk", capacity: int | None = None) -> None:
        """Create an empty directory.

        Args:
            rng: decides which pending operations survive a power cut.
            name: for error messages.
            capacity: total bytes of all files before the disk is full; None: unlimited.
        """
        self._rng = rng
        self._name = name
        self._files: dict[str, _Inode] = {}
        self._durable_files: dict[str, _Inode] = {}
        self._pending_names: list[Callable[[dict[str, _Inode]], object]] = []
        self._last_write: tuple[_Inode | None, int] = (None, 0)
        self._epoch = 0  # file handles of earlier epochs are invalid
        self._operations_left: int | None = None
        self._sync_failures = 0
        self._write_failures = 0
        self.capacity = capacity
        self.operations = 0
        """Number of operations requested so far that change or sync something."""
        self.syncs = 0
        self.bytes_written = 0

    # --- Disk -------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self._files)

    def open(self, name: str, *, create: bool = False) -> SimulatedFile:
        if create:
            self._operation()
            if name in self._files:
                raise DiskError(f"open {self.describe(name)}: File exists")
            inode = _Inode()
            self._change_names(lambda files: files.__setitem__(name, inode))
        if name not in self._files:
            raise DiskError(f"open {self.describe(name)}: No such file or directory")
        return SimulatedFile(self, name, self._files[name])

    def rename(self, old: str, new: str) -> None:
        self._operation()
        if old not in self._files:
            raise DiskError(f"rename {self.describe(old)}: No such file or directory")
        inode = self._files[old]

        def change(files: dict[str, _Inode]) -> None:
            files.pop(old, None)
            files[new] = inode

        self._change_names(change)

    def unlink(self, name: str) -> None:
        self._operation()
        if name not in self._files:
            raise DiskError(f"unlink {self.describe(name)}: No such file or directory")
        self._change_names(lambda files: files.pop(name, None))

    def sync_dir(self) -> None:
        self._operation()
        self._fail_sync(self._name)
        self._durable_files = dict(self._files)
        self._pending_names.clear()

    def describe(self, name: str) -> str:
        return f"{self._name}/{name}"

    def _change_names(self, change: Callable[[dict[str, _Inode]], object]) -> None:
        change(self._files)
        self._pending_names.append(change)

    # --- for SimulatedFile ------------------------------------------------------------------------

    def _operation(self) -> None:
        if self._operations_left is not None:
            if self._operations_left == 0:
                raise PowerCutError
            self._operations_left -= 1
        self.operations += 1

    def _fail_sync(self, what: str) -> None:
        self.syncs += 1
        if self._sync_failures:
            self._sync_failures -= 1
            raise DiskError(f"sync {what}: Input/output error")

    @property
    def used(self) -> int:
        """Total bytes of all files."""
        return sum(len(inode.seen) for inode in self._files.values())

    def _grow(self, what: str, by: int) -> None:
        if by > 0 and self.capacity is not None and self.used + by > self.capacity:
            raise DiskError(f"write {what}: No space left on device")

    def _write(self, inode: _Inode, what: str, at: int, data: bytes) -> None:
        self._operation()
        self._grow(what, at + len(data) - len(inode.seen))
        if self._write_failures:
            self._write_failures -= 1
            inode.do(_Pending(at, data[: self._rng.randrange(len(data) + 1)]))
            raise DiskError(f"write {what}: Input/output error")
        self.bytes_written += len(data)
        self._last_write = (inode, at)
        inode.do(_Pending(at, data))

    def _resize(self, inode: _Inode, what: str, size: int, *, grow_only: bool) -> None:
        self._operation()
        self._grow(what, size - len(inode.seen))
        inode.do(_Pending(size, grow_only=grow_only))

    def _sync(self, inode: _Inode, what: str) -> None:
        self._operation()
        try:
            self._fail_sync(what)
        except DiskError:
            # As on Linux: the pages are marked clean, reads still return them, and no later sync
            # writes them.
            inode.pending.clear()
            raise
        inode.settle()

    def _check_alive(self, epoch: int, what: str) -> None:
        assert epoch == self._epoch, f"{what} was opened before the last kill or power cut"

    # --- failures ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """Simulate a killed process: close its open files, keep what it wrote."""
        self._epoch += 1
        self._operations_left = None

    def power_cut(self) -> None:
        """Simulate a power failure: lose a random part of the unsynced changes."""
        self.kill()
        names = dict(self._durable_files)
        for change in self._pending_names:
            if self._rng.random() < 0.5:
                change(names)
        self._pending_names.clear()
        reachable = [*self._files.values(), *self._durable_files.values()]
        for inode in {id(inode): inode for inode in reachable}.values():
            for at, mask in inode.rotten:
                inode.flip(at, mask)
            inode.rotten.clear()
            for pending in inode.pending:
                pending.survive(inode.durable, self._rng)
        for inode in names.values():
            inode.pending.clear()
            inode.seen = bytearray(inode.durable)
        self._files = names
        self._durable_files = dict(names)

    def stop_after(self, operations: int) -> None:
        """Raise `PowerCutError` after ``operations`` more operations, until `kill` or `power_cut`."""
        self._operations_left = operations

    def fail_syncs(self, count: int = 1) -> None:
        """Fail the next syncs, of files or the directory, with EIO."""
        self._sync_failures = count

    def fail_writes(self, count: int = 1) -> None:
        """Fail the next writes with EIO, each after a random part was written."""
        self._write_failures = count

    def rot_somewhere(self, rng: random.Random) -> bool:
        """Flip a random bit before the last write: in the last file with probability 1/2, else in any file.

        Data that no sync has followed is spared: it is not flipped, and a power cut reverts the flip.
        Otherwise the last flush of a journal would look torn because the proof of its sync is lost, which is
        indistinguishable from a real torn write. Returns False if there is nothing to flip.
        """
        last, end = self._last_write
        sizes: dict[str, int] = {}
        for name, inode in sorted(self._files.items()):
            sizes[name] = end if inode is last else len(inode.seen)
            if inode is last:
                break
        names = [name for name, size in sizes.items() if size]
        if not names:
            return False
        name = names[-1] if rng.random() < 0.5 else rng.choice(names)
        at, mask = rng.randrange(sizes[name]), 1 << rng.randrange(8)
        self.rot(name, at, mask)
        self._files[name].rotten.append((at, mask))
        return True

    def rot(self, name: str, at: int, mask: int) -> None:
        """Flip the bits of ``mask`` in one byte of a file, both as read and as durable."""
        self._files[name].flip(at, mask)

    def content(self, name: str) -> bytes:
        """Return the content of a file as reads see it."""
        return bytes(self._files[name].seen)


class SimulatedFile:
    """An open file of a `SimulatedDisk`."""

    __slots__ = ("_closed", "_disk", "_epoch", "_inode", "_name")

    def __init__(self, disk: SimulatedDisk, name: str, inode: _Inode) -> None:
        self._disk = disk
        self._name = disk.describe(name)
        self._inode = inode
        self._epoch = disk._epoch
        self._closed = False

    def size(self) -> int:
        self._check()
        return len(self._inode.seen)

    def read(self, at: int, length: int) -> bytes:
        self._check()
        return bytes(self._inode.seen[at : at + length])

    def write(self, at: int, buffers: Sequence[bytes]) -> None:
        self._check()
        self._disk._write(self._inode, self._name, at, b"".join(buffers))

    def truncate(self, size: int) -> None:
        self._check()
        self._disk._resize(self._inode, self._name, size, grow_only=False)

    def allocate(self, size: int) -> None:
        self._check()
        self._disk._resize(self._inode, self._name, size, grow_only=True)

    def sync(self) -> None:
        self._check()
        self._disk._sync(self._inode, self._name)

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        assert not self._closed, f"{self._name} is closed"
        self._disk._check_alive(self._epoch, self._name)
