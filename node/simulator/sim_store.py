"""A simulated machine's store: what of it outlives processes, is copied for other nodes, and replaced.

The store is the fake that passes the tests of the real one (`node.store.memory`), and what is on its disk
is what LMDB would leave there: the last checkpoint, whole, or the one before it; also where the process
died in the middle of one, and never learnt what became of it. Single values of it rot. A snapshot is the
bytes of all of it, in chunks so small that there are many; it is received on a disk that can be broken,
and takes the store's place in as many steps as the real one does.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack

from node.errors import CorruptionError, DiskError, RemoteProtocolError, UnavailableError
from node.simulator.disk import PowerCutError, SimulatedDisk
from node.simulator.sim_parts import SimulatedParts
from node.store.interface import CheckpointJob
from node.store.memory import MemoryCheckpoint, MemoryStore
from node.store.parts import Parts
from node.store.snapshot import Manifest, Snapshot, describe
from node.store.values import verified, with_checksum

CHUNK_BYTES = 512
"""So small that there are many."""


class Copied(NamedTuple):
    """A snapshot to be sent."""

    manifest: Manifest
    read: Callable[[int, int], bytes]


class RottingStore(MemoryStore):
    """A store of which single values rot on the disk. It notices when they are read from there."""

    def __init__(self) -> None:
        super().__init__()
        self._rotten: set[object] = set()
        self._unread: set[object] = set()
        """What has rotted since this process read it."""

    def rot(self, rng: random.Random) -> bool:
        """Flip a bit of something. False: there is nothing yet."""
        durable = self._durable
        found: list[object] = [*sorted(durable.records)]
        for channel, messages in sorted(durable.contents.messages.items()):
            found += [(channel, seq) for seq in messages]
        if found:
            self._unread.add(rng.choice(found))
        return bool(found)

    def after_crash(self) -> RottingStore:
        other = super().after_crash()
        other._rotten = self._rotten | self._unread
        return other

    def packed(self) -> bytes:
        """All that is durable; all of it is verified.

        Raises:
            CorruptionError: something has rotted.
        """
        for what in sorted(self._rotten | self._unread, key=repr)[:1]:
            self._damaged(what, b"")
        durable = self._durable
        contents = durable.contents
        packed: bytes = msgpack.packb(
            [
                durable.applied,
                durable.previous,
                sorted(durable.records.items()),
                [[channel, *messages.items()] for channel, messages in sorted(contents.messages.items())],
                sorted(contents.floors.items()),
                sorted(contents.lasts.items()),
            ]
        )
        return with_checksum(b"", packed)

    @classmethod
    def unpacked(cls, packed: bytes) -> RottingStore:
        """What was packed.

        Raises:
            CorruptionError: it isn't, as the real one would find by its values' checksums.
        """
        body = verified(Path("received"), b"", packed)
        applied, previous, records, messages, floors, lasts = msgpack.unpackb(body, use_list=False)
        found = cls()
        durable = found._durable
        durable.applied, durable.previous = tuple(applied), tuple(previous)
        durable.records = dict(records)
        for channel, *kept in messages:
            durable.contents.messages[channel] = dict(kept)
        durable.contents.floors = dict(floors)
        durable.contents.lasts = dict(lasts)
        return found.after_crash()

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().records():
            yield key, value if key not in self._rotten else self._damaged(key, value)

    def get(self, channel: int, seq: int) -> bytes | None:
        return self.get_many(channel, (seq,))[0]

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        found = super().get_many(channel, seqs)
        if self._rotten:
            for at, (seq, value) in enumerate(zip(seqs, found, strict=True)):
                if value is not None and (channel, seq) in self._rotten:
                    found[at] = self._damaged((channel, seq), value)
        return found

    def begin_checkpoint(
        self,
        applied: tuple[int, int],
        previous: tuple[int, int],
        changes: Iterable[tuple[bytes, bytes | None]],
    ) -> MemoryCheckpoint:
        written = dict(changes)
        for rotten in (self._rotten, self._unread):
            rotten.difference_update(written)
        return super().begin_checkpoint(applied, previous, written.items())

    def _damaged(self, what: object, _value: bytes) -> bytes:
        raise CorruptionError(f"the store's {what!r} fails its checksum")


class WorkUnderWay:
    """What worker threads of a process are doing when it dies, as far as its store is concerned."""

    def __init__(self) -> None:
        self._under_way: Callable[[], object] | None = None
        self._checkpoint: Callable[[], object] | None = None

    def begin(self, job: Callable[[], object]) -> None:
        """A worker thread begins with something. A crash may let it happen, in part or not at all."""
        self._under_way = job

    def end(self) -> None:
        """The process does it now, and all of it."""
        self._under_way = None

    def begin_checkpoint(self, job: Callable[[], object]) -> None:
        """The same for a checkpoint."""
        self._checkpoint = job

    def end_checkpoint(self) -> None:
        """It is done now."""
        self._checkpoint = None


class MemoryMachineStore(WorkUnderWay):
    """Keeps a machine's store in memory. It outlives processes.

    Args:
        rng: decides what survives a crash.
        name: the machine's.
    """

    chunk_bytes = CHUNK_BYTES

    def __init__(self, rng: random.Random, name: str) -> None:
        super().__init__()
        self.store = RottingStore()
        """Of the present process or, after a crash, of the next."""
        self.full = False
        self._name = name
        self._rng = rng
        self._disk = SimulatedDisk(rng, name=f"{name}/received")
        self._note: tuple[tuple[int, int], bytes] | None = None
        self._installing: tuple[Snapshot, bytes] | None = None

    # --- for the process ----------------------------------------------------------------------------

    def open(self) -> RottingStore:
        """What is left of it."""
        return self.store

    def note(self) -> bytes:
        """With what the snapshot was installed that the store is; empty: it is none."""
        return self._note[1] if self._note is not None and self._note[0] == self.store.applied else b""

    def run_checkpoint(self, job: CheckpointJob) -> None:
        """Raises: DiskError: the disk refused."""
        assert isinstance(job, MemoryCheckpoint)
        if self.full:
            job.fail = DiskError(f"{self._name}: the store: No space left on device")
        job.run()

    def copy(self, context: bytes) -> Copied:
        """A consistent copy for another node.

        Raises:
            CorruptionError: something has rotted.
            UnavailableError: there is no room for a copy.
        """
        if self.full:
            raise UnavailableError(f"{self._name}: no room for a snapshot")
        data = self.store.packed()
        durable = self.store._durable
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        manifest = describe(chunks, durable.applied, durable.previous, context, CHUNK_BYTES)
        return Copied(manifest, lambda offset, size: data[offset : offset + size])

    def parts(self) -> Parts:
        """Where snapshots are received."""
        return SimulatedParts(self._disk, CHUNK_BYTES)

    def begin_install(self, received: Snapshot, note: bytes) -> None:
        """A worker thread begins to put a snapshot in the store's place."""
        self._installing = (received, note)

    def install(self) -> RottingStore:
        """It does so now, all of it. Returns the store that there is now.

        Raises:
            RemoteProtocolError: the snapshot isn't what it says; the old store is untouched.
            CorruptionError: it has rotted since it was received.
        """
        for step in self._steps():
            step()
        return self.store

    def _steps(self) -> list[Callable[[], None]]:
        """In which a snapshot takes the store's place; a crash comes between any two."""
        assert self._installing is not None
        (received, note), self._installing = self._installing, None
        manifest = received.manifest
        store = RottingStore.unpacked(self._disk.content(str(received.path)))
        if (store.applied, store.previous) != ((manifest.index, manifest.term), manifest.previous):
            raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} holds another index than it says")

        def write_note() -> None:
            self._note = (store.applied, note)

        def replace() -> None:
            self.store = store

        def clear() -> None:
            for name in self._disk.names():
                self._disk.unlink(name)

        return [write_note, replace, clear]

    # --- the end of a process -----------------------------------------------------------------------

    def stop(self, *, power: bool) -> None:
        """The process was killed, perhaps in the middle of something; or its power was cut."""
        job, self._under_way = self._under_way, None
        if job is not None and self._rng.random() < 0.7:
            self._disk.stop_after(self._rng.randrange(6))
            with contextlib.suppress(PowerCutError, DiskError, RemoteProtocolError):
                job()
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None and self._rng.random() < 0.5:
            with contextlib.suppress(DiskError):
                checkpoint()
        if self._installing is not None:
            with contextlib.suppress(PowerCutError, CorruptionError):
                steps = self._steps()
                for step in steps[: self._rng.randrange(len(steps) + 1)]:
                    step()
        if power:
            self._disk.power_cut()
        else:
            self._disk.kill()
        self.store = self.store.after_crash()

    def close(self) -> None:
        """The machine is taken out of service."""

    # --- what goes wrong ----------------------------------------------------------------------------

    def fill(self, room: int) -> None:
        """Only so many bytes are left."""
        self.full = True
        self._disk.capacity = self._disk.used + room

    def empty(self) -> None:
        """There is room again."""
        self.full = False
        self._disk.capacity = None

    def rot(self, rng: random.Random) -> bool:
        """Flip a bit of a value. False: there is nothing yet."""
        return self.store.rot(rng)

    def rot_received(self, rng: random.Random) -> bool:
        """Flip a bit of what was received of a snapshot. False: there is nothing."""
        return self._disk.rot_somewhere(rng)
