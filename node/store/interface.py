"""What the shell needs of a store; ``Store`` and its fake ``MemoryStore`` both have it.

The order of calls is the shell's duty: effects of an entry are put and dropped as it is applied, and a
checkpoint names the last entry whose effects are in. ``begin_checkpoint`` and ``end_checkpoint`` are
called on the loop, ``run`` between them in a worker thread; one checkpoint at a time. If ``run``
raises, the store is not to be used any more: the node stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from node.units import Index, Term


class CheckpointJob(Protocol):
    def run(self) -> None:
        """Make the checkpoint durable. In a worker thread, once.

        Raises:
            DiskError: nothing is known of what is on the disk now; the node stops.
            CorruptionError: so does it here.
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
        """Payload bytes that the next checkpoint would write: the reason to begin one."""
        ...

    @property
    def pending_messages(self) -> int: ...

    @property
    def has_garbage(self) -> bool:
        """Dropped messages still take space; each checkpoint gives a bounded part of it back."""
        ...

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """The core's records as of the last durable checkpoint, in the order of their keys.

        Raises:
            CorruptionError: a record fails its checksum.
        """
        ...

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> None:
        """Keep messages ``first``, ``first + 1``, ….

        Any that the channel already had are ignored (S4); a gap above them is a bug of the caller (S1).
        """
        ...

    def drop(self, channel: int, up_to: int) -> None:
        """Forget a channel's messages up to and including ``up_to``."""
        ...

    def drop_channel(self, channel: int) -> None:
        """Forget everything of a channel. Its id never comes again."""
        ...

    def get(self, channel: int, seq: int) -> bytes | None:
        """One message; None if it was dropped or never stored."""
        ...

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        """A message for each of ``seqs``, None where there is none; ascending order is fastest.

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
        """Take everything put and dropped until now, and the records that changed (None deletes)."""
        ...

    def end_checkpoint(self, job: CheckpointJob) -> None:
        """The job ran: ``applied`` and ``records`` are what it made durable."""
        ...

    def close(self) -> None: ...
