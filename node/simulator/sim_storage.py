"""What a simulated machine keeps, and what is wrong with it: the journal on its disk, and the store.

The journal is the real one, on a `SimulatedDisk`: a process that is killed loses what it was about to
write, a power cut keeps, loses or tears each write that no sync had covered. Syncs and writes fail on
demand, the disk fills up and empties again, bytes rot. The store is a module of its own (`sim_store`).

The last flush rots like all others. But not together with a power cut, before anything else is
written: if that takes what says that the flush was synced (`node.raft.records`), one that rotted and one
that was torn look alike, and what no other node was promised must be cut off. Of this one damage nobody
can be saved by a checksum, and the simulated operator is spared it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

from node.errors import DiskError
from node.raft.journal import Journal
from node.simulator.disk import PowerCutError, SimulatedDisk
from node.simulator.lmdb_machine_store import LmdbMachineStore
from node.simulator.raft_checks import ViolationError
from node.simulator.sim_store import MemoryMachineStore
from node.simulator.world import World

FLUSH_S = (0.0005, 0.002, 0.002, 0.01, 0.04)
"""How long a flush of the journal may take: one of these."""

SEGMENT_BYTES = 8192
CACHE_BYTES = 4096
"""Small, so that logs of a few seconds fill many segments and are read from the disk too."""


class ProbedJournal(Journal):
    """The journal, with the checkers told of what is appended."""

    watcher: Callable[[int, int, bytes, int | None], None]
    truncated: Callable[[int], None] = staticmethod(lambda entries: None)
    """Told how many entries were removed; a tool that opens the journal asks nobody."""

    def append(self, index: int, term: int, payload: bytes) -> None:
        before = self.term_at(index - 1)
        super().append(index, term, payload)
        self.watcher(index, term, payload, before)

    def truncate(self, from_index: int) -> None:
        removed = self.last_index + 1 - from_index
        kept = [(at, self.term_at(at)) for at in range(max(self.first_index, from_index - 3), from_index)]
        super().truncate(from_index)
        self.truncated(removed)
        if self.last_index != from_index - 1 or kept != [(at, self.term_at(at)) for at, _ in kept]:
            raise ViolationError("log", f"cut from entry {from_index}, the log ends at {self.last_index}")


class SimStorage:
    """A machine's disk. It outlives processes.

    Args:
        world: decides what survives a power cut.
        name: the machine's.
        files: the store is the real one, in files.
    """

    def __init__(self, world: World, name: str, *, files: bool = False) -> None:
        machine_store = LmdbMachineStore if files else MemoryMachineStore
        self.kept: MemoryMachineStore | LmdbMachineStore = machine_store(world.stream(f"{name} store"), name)
        """The store's side of it."""
        self.slowness = 1.0
        self.troubled = False
        """Something was wrong with it: errors of the disk are to be expected."""
        self.rotten = False
        self._name = name
        self._rng = world.stream(f"{name} disk")
        self._disk = SimulatedDisk(self._rng, name=name)
        self.last_journal: ProbedJournal | None = None
        """Of the present process or the last one; what it calls durable is on this disk."""
        self._journal: ProbedJournal | None = None
        self._flush: Any = None

    # --- for the process ----------------------------------------------------------------------------

    def open_journal(self) -> ProbedJournal:
        """What is left of it.

        Raises:
            CorruptionError: something has rotted.
            DiskError: the disk is full.
        """
        self._journal = self._flush = None
        journal = ProbedJournal.open(
            self._disk,
            segment_bytes=SEGMENT_BYTES,
            cache_bytes=CACHE_BYTES,
            journal_id=self._name.encode().ljust(16),
        )
        assert isinstance(journal, ProbedJournal)
        self._journal = self.last_journal = journal
        return journal

    def begin_flush(self) -> Any:
        """A flush of the journal; None if there is nothing to write, or one is running."""
        journal = self._journal
        assert journal is not None
        if journal.written > journal.durable and (flush := journal.begin_flush()) is not None:
            self._flush = flush
            return flush
        return None

    def flush_s(self) -> float:
        """How long it takes."""
        return self._rng.choice(FLUSH_S) * self.slowness

    def run_flush(self, flush: Any) -> None:
        """Raises: DiskError: the disk refused."""
        self._flush = None
        flush.run()

    def sweep(self) -> None:
        """Delete the journal's old files."""
        assert self._journal is not None
        job = self._journal.begin_sweep()
        if job is not None:
            job.run()

    # --- the end of a process -----------------------------------------------------------------------

    def stop(self, *, power: bool) -> None:
        """The process was killed, perhaps in the middle of a flush; or its power was cut."""
        flush, self._flush = self._flush, None
        if flush is not None and self._rng.random() < 0.7:
            self._disk.stop_after(self._rng.randrange(4))
            with contextlib.suppress(PowerCutError, DiskError):
                flush.run()
        if power:
            self._disk.power_cut()
        else:
            self._disk.kill()
        self._journal = None
        self.kept.stop(power=power)

    # --- what goes wrong ------------------------------------------------------------------------------

    def fail_sync(self) -> None:
        self.troubled = True
        self._disk.fail_syncs()

    def fail_write(self) -> None:
        self.troubled = True
        self._disk.fail_writes()

    def fill(self, room: int) -> None:
        """Only so many bytes are left."""
        self.troubled = True
        self._disk.capacity = self._disk.used + room
        self.kept.fill(room)

    def empty(self) -> None:
        """There is room again."""
        self._disk.capacity = None
        self.kept.empty()

    def quicken(self) -> None:
        """It is no longer slow."""
        self.slowness = 1.0

    def mend(self) -> None:
        """Nothing is wrong any more. What has rotted stays so."""
        self.empty()
        self.quicken()
        self._disk.fail_syncs(0)
        self._disk.fail_writes(0)

    def rot_journal(self, rng: random.Random) -> bool:
        """Flip a bit somewhere. False: there is nothing yet."""
        self.rotten = self._disk.rot_somewhere(rng)
        return self.rotten

    def rot_store(self, rng: random.Random) -> bool:
        """Flip a bit of a value in the store. False: there is nothing yet."""
        self.rotten = self.kept.rot(rng)
        return self.rotten
