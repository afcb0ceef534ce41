"""A simulated machine's store: how it survives processes, is copied for other nodes, and is replaced.

The store is the fake that passes the tests of the real one (`node.store.memory`). After a crash, its content
is what LMDB would leave: the last completed checkpoint, or the one before it if the process died during a
checkpoint, whose outcome the process never learned. Single values can be damaged. A snapshot is the bytes of
the whole store, in so small chunks that there are many. It is received on a disk that can fail, and replaces
the store in as many steps as in the real one.
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
"""So small that a snapshot has many chunks."""


class Copied(NamedTuple):
    """A snapshot that can be sent."""

    manifest: Manifest
    read: Callable[[int, int], bytes]


class RottingStore(MemoryStore):
    """A store in which single values can be damaged. It raises `CorruptionError` when it reads them."""

    def __init__(self) -> None:
        super().__init__()
        self._rotten: set[object] = set()
        self._unread: set[object] = set()
        """Values that were damaged after this process had read them."""

    def rot(self, rng: random.Random) -> bool:
        """Damage one value. Returns False if nothing is stored yet."""
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
        """Return the whole durable content, after verifying it.

        Raises:
            CorruptionError: a value is damaged.
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
        """Return the store with this content.

        Raises:
            CorruptionError: the bytes are damaged, which the real store finds by the checksums of its values.
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
    """The jobs of worker threads that a crash of the process interrupts."""

    def __init__(self) -> None:
        self._under_way: Callable[[], object] | None = None
        self._checkpoint: Callable[[], object] | None = None

    def begin(self, job: Callable[[], object]) -> None:
        """Start a job of a worker thread. A crash before `end` runs it partly or not at all."""
        self._under_way = job

    def end(self) -> None:
        """End the job: the caller runs it completely now."""
        self._under_way = None

    def begin_checkpoint(self, job: Callable[[], object]) -> None:
        """Start a checkpoint job. A crash before `end_checkpoint` may run it."""
        self._checkpoint = job

    def end_checkpoint(self) -> None:
        """End the checkpoint job: the caller runs it completely now."""
        self._checkpoint = None


class MemoryMachineStore(WorkUnderWay):
    """Keeps a machine's store in memory. It outlives processes.

    Args:
        rng: decides what survives a crash.
        name: the name of the machine.
    """

    chunk_bytes = CHUNK_BYTES

    def __init__(self, rng: random.Random, name: str) -> None:
        super().__init__()
        self.store = RottingStore()
        """The store of the current process or, after a crash, of the next one."""
        self.full = False
        self._name = name
        self._rng = rng
        self._disk = SimulatedDisk(rng, name=f"{name}/received")
        self._note: tuple[tuple[int, int], bytes] | None = None
        self._installing: tuple[Snapshot, bytes] | None = None

    # --- for the process ----------------------------------------------------------------------------

    def open(self) -> RottingStore:
        """Return the store that the last process left."""
        return self.store

    def note(self) -> bytes:
        """Return the note with which the store's snapshot was installed; empty if there is none."""
        return self._note[1] if self._note is not None and self._note[0] == self.store.applied else b""

    def run_checkpoint(self, job: CheckpointJob) -> None:
        """Raises: DiskError: the disk is full."""
        assert isinstance(job, MemoryCheckpoint)
        if self.full:
            job.fail = DiskError(f"{self._name}: the store: No space left on device")
        job.run()

    def copy(self, context: bytes) -> Copied:
        """Make a consistent copy for another node.

        Raises:
            CorruptionError: stored data is damaged.
            UnavailableError: there is not enough free space for a copy.
        """
        if self.full:
            raise UnavailableError(f"{self._name}: no space for a snapshot")
        data = self.store.packed()
        durable = self.store._durable
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        manifest = describe(chunks, durable.applied, durable.previous, context, CHUNK_BYTES)
        return Copied(manifest, lambda offset, size: data[offset : offset + size])

    def parts(self) -> Parts:
        """Return the place where snapshots are received."""
        return SimulatedParts(self._disk, CHUNK_BYTES)

    def begin_install(self, received: Snapshot, note: bytes) -> None:
        """Start the job that replaces the store with a snapshot, as a worker thread does."""
        self._installing = (received, note)

    def install(self) -> RottingStore:
        """Run the whole job. Returns the new store.

        Raises:
            RemoteProtocolError: the snapshot doesn't match its manifest; the old store is untouched.
            CorruptionError: the snapshot was damaged after it was received.
        """
        for step in self._steps():
            step()
        return self.store

    def _steps(self) -> list[Callable[[], None]]:
        """Return the steps that replace the store with the snapshot. A crash may come between any two."""
        assert self._installing is not None
        (received, note), self._installing = self._installing, None
        manifest = received.manifest
        store = RottingStore.unpacked(self._disk.content(str(received.path)))
        if (store.applied, store.previous) != ((manifest.index, manifest.term), manifest.previous):
            raise RemoteProtocolError(f"snapshot {manifest.snapshot_id} has another index than its manifest")

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
        """End the process with a kill, perhaps during a job; with ``power`` it is a power cut."""
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
        """Do nothing: there are no files to delete."""

    # --- failures -----------------------------------------------------------------------------------

    def fill(self, free_bytes: int) -> None:
        """Limit the free space to ``free_bytes`` bytes."""
        self.full = True
        self._disk.capacity = self._disk.used + free_bytes

    def empty(self) -> None:
        """Free space on the disk again."""
        self.full = False
        self._disk.capacity = None

    def rot(self, rng: random.Random) -> bool:
        """Damage one value. Returns False if nothing is stored yet."""
        return self.store.rot(rng)

    def rot_received(self, rng: random.Random) -> bool:
        """Flip a bit in a received part of a snapshot. Returns False if there is none."""
        return self._disk.rot_somewhere(rng)
