"""Writes the applied state to the store, behind the log (architecture, "Where the state is").

The journal makes entries durable; the store is a checkpoint of the state that they led to. Every few hundred
milliseconds, or few MiB, the changes are collected on the event loop and written in a worker thread. A
checkpoint is written only when this node's own journal is durable up to its index: the store never holds an
entry that the journal might lose. After a checkpoint the journal may delete its older segments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from node.core.records import take_changes
from node.core.state import State
from node.store.interface import StoreInterface
from node.store.messages import OVERHEAD

log = logging.getLogger("stanchion.store")

PENDING_BYTES_MAX = 4 * 1024 * 1024
"""A checkpoint starts early when memory holds this many bytes that the store doesn't have yet."""

JOURNAL_BYTES_MAX = 1024 * 1024 * 1024
"""The most that the journal keeps before a checkpoint, whatever ``trailing_logs`` says and however far a
follower lags. A follower that needs older entries needs a snapshot. The journal may have one segment more,
and has every entry that isn't in a checkpoint yet."""


class Sweep(Protocol):
    """Deletes the journal's unused files."""

    def run(self) -> None: ...


class Journal(Protocol):
    """The journal, as used here."""

    @property
    def durable_index(self) -> int: ...
    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def bytes_on_disk(self) -> int: ...
    def term_at(self, index: int) -> int | None: ...
    def first_index_within(self, bytes_max: int) -> int: ...
    def drop_before(self, index: int) -> None: ...
    def begin_sweep(self) -> Sweep | None: ...


class Checkpointer:
    """Writes checkpoints while the node runs.

    Args: store: is written to; replaced when a snapshot is installed. journal: this node's log. state:
        returns the replicated state. applied: index of the last applied entry, including the engine's own
        entries. matches: for each connected peer, the last entry that is known to be on its disk. durable:
        waits until the journal has an index on disk. interval_s: the longest time between two checkpoints.
        trailing_entries: number of entries that the journal keeps before the checkpoint, for lagging
        followers.
    """

    def __init__(
        self,
        store: StoreInterface,
        journal: Journal,
        state: Callable[[], State],
        *,
        applied: Callable[[], int],
        matches: Callable[[], Mapping[str, int]],
        durable: Callable[[int], Any],
        interval_s: float,
        trailing_entries: Callable[[], int],
    ) -> None:
        self.store = store
        self._journal = journal
        self._state = state
        self._applied = applied
        self._matches = matches
        self._durable = durable
        self._interval_s = interval_s
        self._trailing_entries = trailing_entries
        self._pressed = trio.Event()
        self._lock = trio.Lock()

    def pressed(self) -> None:
        """Start a checkpoint early if memory holds much. Called after an entry was applied."""
        if self.store.pending_bytes + OVERHEAD * self.store.pending_messages >= PENDING_BYTES_MAX:
            self._pressed.set()

    async def run(self) -> None:
        """Write checkpoints until cancelled.

        Raises:
            DiskError: a write failed; the node stops.
        """
        while True:
            with trio.move_on_after(self._interval_s):
                await self._pressed.wait()
            self._pressed = trio.Event()
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write a checkpoint now, if an entry was applied since the last one."""
        async with self._lock:
            index = self._applied()
            if index <= self.store.applied[0] and not self.store.has_garbage:
                return
            term, before = self._journal.term_at(index), self._journal.term_at(index - 1)
            assert term is not None, index
            # No await up to here and on to the next line: the changes are exactly those up to index.
            job = self.store.begin_checkpoint(
                (index, term), (index - 1, before or 0), take_changes(self._state())
            )
            await self._durable(index)
            await trio.to_thread.run_sync(job.run)
            self.store.end_checkpoint(job)
            await self._drop()

    async def shrink(self) -> None:
        """Delete journal segments that are no longer needed, without a checkpoint: the disk is nearly full.

        A running checkpoint does the same at its end, so this method doesn't wait for it.
        """
        if self._lock.locked():
            return
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        self._trim()
        sweep = self._journal.begin_sweep()
        if sweep is not None:
            await trio.to_thread.run_sync(sweep.run)

    def paused(self) -> trio.Lock:
        """Return the lock that prevents checkpoints, to be held while a snapshot is installed."""
        return self._lock

    def _trim(self) -> None:
        checkpointed = self.store.applied[0]
        keep = min([checkpointed - self._trailing_entries(), *self._matches().values()])
        if self._journal.bytes_on_disk > JOURNAL_BYTES_MAX:
            keep = min(checkpointed, max(keep, self._journal.first_index_within(JOURNAL_BYTES_MAX)))
        if keep > self._journal.first_index:
            self._journal.drop_before(keep)
