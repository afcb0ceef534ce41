"""The real store of a simulated machine: LMDB in a directory. No other simulated part has files.

The directory is in memory if the system has such a file system, and is deleted after the run. A kill or a
power cut leaves exactly what LMDB and the file system guarantee:

* A commit writes pages that nothing refers to, syncs them, and then writes one of two meta pages. So a power
  cut during a commit leaves either any subset of the new pages, possibly torn, and the old meta page; or all
  of them and the new meta page.
* A job of a worker thread may end at any of its syncs, as the process may.
* The received part of an incomplete snapshot was never synced: any of it may be missing.
* A file name that wasn't synced may be lost: then the old store is back in its place.

Bits flip only within values, wherever they are stored: LMDB doesn't verify its own pages, and damage there
may crash the process, which here is the whole simulation.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.errors import CorruptionError, DiskError, RemoteProtocolError, UnavailableError
from node.simulator.disk import SECTOR_BYTES, PowerCutError
from node.simulator.sim_store import Copied, WorkUnderWay
from node.store import environment
from node.store.environment import DATA_FILE
from node.store.interface import CheckpointJob
from node.store.parts import DirectoryParts, Parts
from node.store.snapshot import Snapshot, chunks, describe, install, install_note_of, produce
from node.store.store import Store

CHUNK_BYTES = 8192
CACHE_BYTES = 2048
"""So small that most messages are read from LMDB."""
MAP_SIZE = 1 << 26

_MEMORY = Path("/dev/shm")  # noqa: S108  # each store creates its own directory there


class _Parts(DirectoryParts):
    def __init__(self, directory: Path, machine_store: LmdbMachineStore) -> None:
        super().__init__(directory)
        self._machine_store = machine_store

    def free_bytes(self) -> int:
        return 0 if self._machine_store.full else super().free_bytes()


class LmdbMachineStore(WorkUnderWay):
    """Keeps a machine's store in files. It outlives processes; call `close` when the run is over.

    Args:
        rng: decides what survives a crash.
        name: the name of the machine.
    """

    chunk_bytes = CHUNK_BYTES

    def __init__(self, rng: random.Random, name: str) -> None:
        super().__init__()
        self.full = False
        self._name = name
        self._rng = rng
        parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self._directory = Path(tempfile.mkdtemp(prefix="stanchion-simulator-", dir=parent))
        self._path = self._directory / "store"
        self._store: Store | None = None
        self._installing: tuple[Snapshot, bytes] | None = None

    @property
    def store(self) -> Store:
        """The store of the current process."""
        assert self._store is not None
        return self._store

    # --- for the process ----------------------------------------------------------------------------

    def open(self) -> Store:
        """Open what the last process left.

        Raises:
            CorruptionError: the store is damaged.
        """
        self._let_go()
        self._store = Store.open(self._path, map_size=MAP_SIZE, cache_bytes=CACHE_BYTES)
        return self._store

    def note(self) -> bytes:
        """Return the note with which the store's snapshot was installed; empty if there is none."""
        return install_note_of(self._path, self.store.applied)

    def run_checkpoint(self, job: CheckpointJob) -> None:
        """Raises: DiskError: the disk is full."""
        if self.full:
            raise DiskError(f"{self._name}: the store: No space left on device")
        job.run()

    def copy(self, context: bytes) -> Copied:
        """Make a consistent copy for another node.

        Raises:
            CorruptionError: stored data is damaged.
            UnavailableError: there is not enough free space for a copy.
        """
        if self.full:
            raise UnavailableError(f"{self._name}: no space for a snapshot")
        made = produce(self.store, self._directory / "snapshots")
        manifest = made.manifest
        applied = (manifest.index, manifest.term)
        small = describe(chunks(made.data, CHUNK_BYTES), applied, manifest.previous, context, CHUNK_BYTES)
        assert small.sha256 == manifest.sha256
        data = made.data.read_bytes()
        return Copied(small, lambda offset, size: data[offset : offset + size])

    def parts(self) -> Parts:
        """Return the place where snapshots are received."""
        return _Parts(self._directory / "received", self)

    def begin_install(self, received: Snapshot, note: bytes) -> None:
        """Start the job that replaces the store with a snapshot, as a worker thread does."""
        self._installing = (received, note)

    def install(self) -> Store:
        """Run the whole job. Returns the new store.

        Raises:
            RemoteProtocolError: the snapshot doesn't match its manifest; the old store is untouched.
            CorruptionError: the snapshot was damaged after it was received.
        """
        assert self._installing is not None
        (received, note), self._installing = self._installing, None
        self._let_go()
        self._store = install(received, self._path, map_size=MAP_SIZE, cache_bytes=CACHE_BYTES, note=note)
        return self._store

    # --- the end of a process -----------------------------------------------------------------------

    def stop(self, *, power: bool) -> None:
        """End the process with a kill, perhaps during a job; with ``power`` it is a power cut."""
        job, self._under_way = self._under_way, None
        if job is not None and self._rng.random() < 0.7:
            self._die_in(job)
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None and self._rng.random() < 0.7:
            self._commit(checkpoint, power=power)
        if self._installing is not None:
            self._install_in_part(power=power)
        self._let_go()
        if power:
            self._lose_parts()

    def close(self) -> None:
        """Delete the files of the machine."""
        self._let_go()
        shutil.rmtree(self._directory)

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _die_in(self, job: Callable[[], object]) -> bool:
        """Run a job and crash at one of the next syncs. Returns True if the job finished before."""
        left = self._rng.randrange(5)
        sync = environment.fsync

        def fsync(fd: Any) -> None:
            nonlocal left
            if not left:
                raise PowerCutError
            left -= 1
            sync(fd)

        environment.fsync = fsync
        try:
            with contextlib.suppress(PowerCutError, DiskError, RemoteProtocolError, CorruptionError):
                job()
                return True
        finally:
            environment.fsync = sync
        return False

    def _commit(self, checkpoint: Callable[[], object], *, power: bool) -> None:
        file = self._path / DATA_FILE
        before = file.read_bytes()
        page = int(self.store._environment.stat()["psize"])
        with contextlib.suppress(DiskError):
            checkpoint()
        self._let_go()
        if self._rng.random() < 0.5:
            return  # the commit is complete
        after = file.read_bytes()
        torn = bytearray(after)
        torn[: 2 * page] = before[: 2 * page]
        step = SECTOR_BYTES if power else len(torn)
        for at in range(2 * page, len(torn), step):
            if self._rng.random() < 0.5:
                torn[at : at + step] = before[at : at + step].ljust(min(step, len(torn) - at), b"\0")
        file.write_bytes(torn)

    def _install_in_part(self, *, power: bool) -> None:
        file = self._path / DATA_FILE
        before = file.read_bytes()
        whole = self._die_in(self.install)
        if power and not whole and file.read_bytes() != before and self._rng.random() < 0.5:
            file.write_bytes(before)

    def _lose_parts(self) -> None:
        for part in sorted((self._directory / "received").glob(f"*.part/{DATA_FILE}")):
            data = bytearray(part.read_bytes())
            lost = self._rng.choice((0.0, 0.02, 0.3))
            for at in range(0, len(data), SECTOR_BYTES):
                if self._rng.random() < lost:
                    data[at : at + SECTOR_BYTES] = bytes(len(data[at : at + SECTOR_BYTES]))
            part.write_bytes(data[: self._rng.randint(0, len(data))])

    # --- failures -----------------------------------------------------------------------------------

    def fill(self, _free_bytes: int) -> None:
        """Make all further writes fail: the disk is full."""
        self.full = True

    def empty(self) -> None:
        """Free space on the disk again."""
        self.full = False

    def rot(self, rng: random.Random) -> bool:
        """Flip a bit of a value. Returns False if nothing is stored yet."""
        if self._store is None:
            return False
        values: list[bytes] = []
        with self._store._environment.begin() as transaction:
            for database in self._store._databases[:3]:
                values += [bytes(value) for _, value in transaction.cursor(database)]
        if not values:
            return False
        value = rng.choice(values)
        _flip(self._path / DATA_FILE, value, rng.randrange(len(value)), 1 << rng.randrange(8))
        return True

    def rot_received(self, rng: random.Random) -> bool:
        """Flip a bit in a received part of a snapshot. Returns False if there is none."""
        for part in sorted((self._directory / "received").glob(f"*/{DATA_FILE}")):
            data = part.read_bytes()
            if data and part.parent.suffix:
                _flip(part, data, rng.randrange(len(data)), 1 << rng.randrange(8))
                return True
        return False


def _flip(file: Path, value: bytes, at: int, mask: int) -> None:
    """Flip bits of a value at every place of the file where it occurs: free pages contain copies, too."""
    data = file.read_bytes()
    with file.open("r+b") as opened:
        found = data.find(value)
        while found >= 0:
            opened.seek(found + at)
            opened.write(bytes([data[found + at] ^ mask]))
            found = data.find(value, found + 1)
