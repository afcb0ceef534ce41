"""The storage of a simulated machine with its faults: the journal on its disk, and the store.

The journal is the real one, on a `SimulatedDisk`: a killed process loses what it was about to write; a power
cut keeps, loses or tears each write that no sync has covered. Syncs and writes fail on demand, the disk
fills up and empties again, bits flip. The store has its own module (`sim_store`).

Bits flip in the last flush as in all others, but not together with a power cut before the next write. If the
power cut also destroys the proof that the flush was synced (`node.raft.records`), a damaged flush looks like
a torn one, and a torn flush must be cut off because no other node was promised it. No checksum can protect
against this one kind of damage, so the simulation leaves it out.
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
"""The duration of a journal flush is drawn from these."""

SEGMENT_BYTES = 8192
CACHE_BYTES = 4096
"""Small, so that logs of a few seconds fill many segments and are also read from the disk."""


class ProbedJournal(Journal):
    """A journal that reports appended and truncated entries to the checkers."""

    watcher: Callable[[int, int, bytes, int | None], None]
    truncated: Callable[[int], None] = staticmethod(lambda entries: None)
    """Called with the number of removed entries; does nothing when a tool opens the journal."""

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
        world: provides the generators that decide what survives a power cut.
        name: the name of the machine.
        files: use the real store, in files.
    """

    def __init__(self, world: World, name: str, *, files: bool = False) -> None:
        store_class = LmdbMachineStore if files else MemoryMachineStore
        self.machine_store: MemoryMachineStore | LmdbMachineStore = store_class(
            world.stream(f"{name} store"), name
        )
        """The store's part of the storage."""
        self.slowness = 1.0
        self.has_faults = False
        """Whether a fault was injected: disk errors are expected."""
        self.rotten = False
        self._name = name
        self._rng = world.stream(f"{name} disk")
        self._disk = SimulatedDisk(self._rng, name=name)
        self.last_journal: ProbedJournal | None = None
        """The journal of the current or the last process. What it calls durable is on this disk."""
        self._journal: ProbedJournal | None = None
        self._flush: Any = None

    # --- for the process ----------------------------------------------------------------------------

    def open_journal(self) -> ProbedJournal:
        """Open the journal that the last process left.

        Raises:
            CorruptionError: stored data is damaged.
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
        """Begin a flush of the journal. Returns None if there is nothing to write, or if one is running."""
        journal = self._journal
        assert journal is not None
        if journal.written > journal.durable and (flush := journal.begin_flush()) is not None:
            self._flush = flush
            return flush
        return None

    def flush_s(self) -> float:
        """Draw the duration of a flush."""
        return self._rng.choice(FLUSH_S) * self.slowness

    def run_flush(self, flush: Any) -> None:
        """Raises: DiskError: the sync or write failed."""
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
        """End the process with a kill, perhaps during a flush; with ``power`` it is a power cut."""
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
        self.machine_store.stop(power=power)

    # --- failures -------------------------------------------------------------------------------------

    def fail_sync(self) -> None:
        self.has_faults = True
        self._disk.fail_syncs()

    def fail_write(self) -> None:
        self.has_faults = True
        self._disk.fail_writes()

    def fill(self, free_bytes: int) -> None:
        """Limit the free space to ``free_bytes`` bytes."""
        self.has_faults = True
        self._disk.capacity = self._disk.used + free_bytes
        self.machine_store.fill(free_bytes)

    def empty(self) -> None:
        """Free space on the disk again."""
        self._disk.capacity = None
        self.machine_store.empty()

    def quicken(self) -> None:
        """Restore normal speed."""
        self.slowness = 1.0

    def mend(self) -> None:
        """End all faults. Damaged data stays damaged."""
        self.empty()
        self.quicken()
        self._disk.fail_syncs(0)
        self._disk.fail_writes(0)

    def rot_journal(self, rng: random.Random) -> bool:
        """Flip a bit in the journal. Returns False if nothing is stored yet."""
        self.rotten = self._disk.rot_somewhere(rng)
        return self.rotten

    def rot_store(self, rng: random.Random) -> bool:
        """Flip a bit of a value in the store. Returns False if nothing is stored yet."""
        self.rotten = self.machine_store.rot(rng)
        return self.rotten
