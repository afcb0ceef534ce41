"""The interface of a store, implemented by ``Store`` and its fake ``MemoryStore``.

The caller is responsible for the order of calls: the effects of an entry are put and dropped when it is
applied, and a checkpoint names the last entry whose effects are in the store. ``begin_checkpoint`` and
``end_checkpoint`` are called on the event loop, ``run`` between them in a worker thread; one checkpoint at a
time. If ``run`` raises, the store must not be used any more: the node stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from node.units import Index, Term


class CheckpointJob(Protocol):
    def run(self) -> None:
        """Make the checkpoint durable. Call it once, in a worker thread.

        Raises:
            DiskError: the contents of the disk are unknown now; the node stops.
            CorruptionError: LMDB's pages are damaged; the node stops.
        """
        ...


class StoreInterface(Protocol):
    @property
    def applied(self) -> tuple[Index, Term]:
        """Index and term of the last entry in the last durable checkpoint; (0, 0) in a new store."""
        ...

    @property
    def previous(self) -> tuple[Index, Term]:
        """Index and term of the entry before ``applied``."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Payload bytes that the next checkpoint would write. They are the reason to begin one."""
        ...

    @property
    def pending_messages(self) -> int: ...

    @property
    def has_garbage(self) -> bool:
        """True while dropped messages still take space; each checkpoint frees a bounded part of it."""
        ...

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Return the core's records of the last durable checkpoint, in the order of their keys.

        Raises:
            CorruptionError: a record fails its checksum.
        """
        ...

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> None:
        """Store messages ``first``, ``first + 1``, ….

        Messages that the channel already had are ignored (S4). A gap before ``first`` is a bug of the caller
        (S1).
        """
        ...

    def drop(self, channel: int, up_to: int) -> None:
        """Drop a channel's messages up to and including ``up_to``."""
        ...

    def drop_channel(self, channel: int) -> None:
        """Drop a channel. Its id is never used again."""
        ...

    def get(self, channel: int, seq: int) -> bytes | None:
        """Return one message; None if it was dropped or never stored."""
        ...

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        """Return a message for each of ``seqs``, None if it does not exist. Ascending order is fastest.

        Raises:
            CorruptionError: stored messages fail their checksum.
        """
        ...

    def begin_checkpoint(
        self,
        applied: tuple[int, int],
        previous: tuple[int, int],
        changes: Iterable[tuple[bytes, bytes | None]],
    ) -> CheckpointJob:
        """Begin a checkpoint of all puts and drops until now, and of the changed records (None deletes)."""
        ...

    def end_checkpoint(self, job: CheckpointJob) -> None:
        """End a checkpoint that ran: ``applied`` and ``records`` now return what it made durable."""
        ...

    def close(self) -> None: ...
