"""The real store in a simulated machine: LMDB in a directory of files, the one exception to the rule of none.

The directory lies in memory where the system has such a place, and goes with the run. What a kill or a power
cut leaves of it is what LMDB and the file system promise, no more:

* A commit writes pages that nothing refers to, syncs them, and then one of two meta pages. So a power cut in
  the middle leaves any of the new pages, torn perhaps, and the old meta page; or all of them and the new one.
* Whatever is done in a worker thread ends at any of its syncs, as the process does.
* What was received of a snapshot and isn't whole was never synced: any of it may be missing.
* A name that wasn't synced may be gone: the old store is back in its place then.

A bit flips only within values, wherever they lie: LMDB doesn't look at its own pages, and damage there may be
the end of the process, which here is everybody's.
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
from node.store.snapshot import Snapshot, chunks, describe, heartbeat_payload_of, install, produce
from node.store.store import Store

CHUNK_BYTES = 8192
CACHE_BYTES = 2048
"""So few that most messages are read back."""
MAP_SIZE = 1 << 26

_MEMORY = Path("/dev/shm")  # noqa: S108  # a directory of its own is made there


class _Parts(DirectoryParts):
    def __init__(self, directory: Path, machine_store: LmdbMachineStore) -> None:
        super().__init__(directory)
        self._machine_store = machine_store

    def room(self) -> int:
        return 0 if self._machine_store.full else super().room()


class LmdbMachineStore(WorkUnderWay):
    """Keeps a machine's store in files. It outlives processes; `close` it in the end.

    Args:
        rng: decides what survives a crash.
        name: the machine's.
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
        """Of the present process."""
        assert self._store is not None
        return self._store

    # --- for the process ----------------------------------------------------------------------------

    def open(self) -> Store:
        """What is left of it.

        Raises:
            CorruptionError: it is damaged.
        """
        self._let_go()
        self._store = Store.open(self._path, map_size=MAP_SIZE, cache_bytes=CACHE_BYTES)
        return self._store

    def note(self) -> bytes:
        """With what the snapshot was installed that the store is; empty: it is none."""
        return heartbeat_payload_of(self._path, self.store.applied)

    def run_checkpoint(self, job: CheckpointJob) -> None:
        """Raises: DiskError: the disk refused."""
        if self.full:
            raise DiskError(f"{self._name}: the store: No space left on device")
        job.run()

    def copy(self, context: bytes) -> Copied:
        """A consistent copy for another node.

        Raises:
            CorruptionError: something has rotted.
            UnavailableError: there is no room for a copy.
        """
        if self.full:
            raise UnavailableError(f"{self._name}: no room for a snapshot")
        made = produce(self.store, self._directory / "snapshots")
        manifest = made.manifest
        applied = (manifest.index, manifest.term)
        small = describe(chunks(made.data, CHUNK_BYTES), applied, manifest.previous, context, CHUNK_BYTES)
        assert small.sha256 == manifest.sha256
        data = made.data.read_bytes()
        return Copied(small, lambda offset, size: data[offset : offset + size])

    def parts(self) -> Parts:
        """Where snapshots are received."""
        return _Parts(self._directory / "received", self)

    def begin_install(self, received: Snapshot, note: bytes) -> None:
        """A worker thread begins to put a snapshot in the store's place."""
        self._installing = (received, note)

    def install(self) -> Store:
        """It does so now, all of it. Returns the store that there is now.

        Raises:
            RemoteProtocolError: the snapshot isn't what it says; the old store is untouched.
            CorruptionError: it has rotted since it was received.
        """
        assert self._installing is not None
        (received, note), self._installing = self._installing, None
        self._let_go()
        self._store = install(received, self._path, map_size=MAP_SIZE, cache_bytes=CACHE_BYTES, note=note)
        return self._store

    # --- the end of a process -----------------------------------------------------------------------

    def stop(self, *, power: bool) -> None:
        """The process was killed, perhaps in the middle of something; or its power was cut."""
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
        """The machine is taken out of service."""
        self._let_go()
        shutil.rmtree(self._directory)

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _die_in(self, job: Callable[[], object]) -> bool:
        """The process dies in one of the next syncs. Returns whether the job came to its end before."""
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
            return  # it came to its end
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

    # --- what goes wrong ----------------------------------------------------------------------------

    def fill(self, _room: int) -> None:
        """Nothing can be written any more."""
        self.full = True

    def empty(self) -> None:
        """There is room again."""
        self.full = False

    def rot(self, rng: random.Random) -> bool:
        """Flip a bit of a value. False: there is nothing yet."""
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
        """Flip a bit of what was received of a snapshot. False: there is nothing."""
        for part in sorted((self._directory / "received").glob(f"*/{DATA_FILE}")):
            data = part.read_bytes()
            if data and part.parent.suffix:
                _flip(part, data, rng.randrange(len(data)), 1 << rng.randrange(8))
                return True
        return False


def _flip(file: Path, value: bytes, at: int, mask: int) -> None:
    """Flip bits of a value, wherever it lies in the file: pages that are free now hold it, too."""
    data = file.read_bytes()
    with file.open("r+b") as opened:
        found = data.find(value)
        while found >= 0:
            opened.seek(found + at)
            opened.write(bytes([data[found + at] ^ mask]))
            found = data.find(value, found + 1)
