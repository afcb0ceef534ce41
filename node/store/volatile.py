"""The store of a node without a disk: messages in memory until they are dropped, and no records.

The journal is truncated by checkpoints, so there are checkpoints here too; they write nothing. No later
process reads records back. (`memory` is the fake with durable data, for tests.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from node.store.interface import CheckpointJob
from node.store.memory import Contents
from node.store.messages import GONE
from node.units import Index, Term


class NoCheckpoint:
    """A checkpoint up to an entry that writes nothing."""

    __slots__ = ("applied", "previous")

    def __init__(self, applied: tuple[int, int], previous: tuple[int, int]) -> None:
        self.applied = (Index(applied[0]), Term(applied[1]))
        self.previous = (Index(previous[0]), Term(previous[1]))

    def run(self) -> None:
        """Nothing to write."""


class VolatileStore:
    """``StoreInterface`` that lasts as long as the process."""

    def __init__(self) -> None:
        self._contents = Contents()
        self._applied = self._previous = (Index(0), Term(0))

    def close(self) -> None:
        """Nothing to close."""

    @property
    def applied(self) -> tuple[Index, Term]:
        return self._applied

    @property
    def previous(self) -> tuple[Index, Term]:
        return self._previous

    @property
    def pending_bytes(self) -> int:
        """Always 0: nothing will be written."""
        return 0

    @property
    def pending_messages(self) -> int:
        return 0

    @property
    def has_garbage(self) -> bool:
        return False

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> None:
        self._contents.put(channel, first, messages)

    def drop(self, channel: int, up_to: int) -> None:
        assert 0 <= up_to < GONE
        self._contents.drop(channel, up_to)

    def drop_channel(self, channel: int) -> None:
        self._contents.forget(channel)

    def get(self, channel: int, seq: int) -> bytes | None:
        return self._contents.messages.get(channel, {}).get(seq)

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        return list(map(self._contents.messages.get(channel, {}).get, seqs))

    def begin_checkpoint(
        self,
        applied: tuple[int, int],
        previous: tuple[int, int],
        changes: Iterable[tuple[bytes, bytes | None]],
    ) -> NoCheckpoint:
        return NoCheckpoint(applied, previous)

    def end_checkpoint(self, job: CheckpointJob) -> None:
        assert isinstance(job, NoCheckpoint)
        self._applied, self._previous = job.applied, job.previous
