"""A store without a disk, for tests and the simulator. It passes the tests of the real store.

It keeps durable data apart from other data. So after a simulated power loss, ``after_crash`` has exactly
what the real store would find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from node.store.interface import CheckpointJob
from node.store.messages import GONE
from node.units import Index, Term


class Contents:
    """Messages and floors. The same operations change those in memory and, later, the durable ones."""

    def __init__(self) -> None:
        self.messages: dict[int, dict[int, bytes]] = {}
        self.floors: dict[int, int] = {}
        self.lasts: dict[int, int] = {}

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> int:
        """Store messages and return how many were new."""
        last = max(self.lasts.get(channel, 0), self.floors.get(channel, 0))
        assert first <= last + 1, "a gap in a channel"
        new = {seq: message for seq, message in enumerate(messages, first) if seq > last}
        self.messages.setdefault(channel, {}).update(new)
        self.lasts[channel] = max([last, *new])
        return len(new)

    def drop(self, channel: int, up_to: int) -> None:
        floor = self.floors.get(channel, 0)
        if up_to <= floor:
            return
        self.floors[channel] = up_to
        kept = self.messages.get(channel, {})
        if up_to - floor > len(kept):
            self.messages[channel] = {seq: message for seq, message in kept.items() if seq > up_to}
        else:
            for seq in range(floor + 1, up_to + 1):
                kept.pop(seq, None)

    def forget(self, channel: int) -> None:
        """Remove all data of a dropped channel, including its floor."""
        for kept in (self.messages, self.floors, self.lasts):
            kept.pop(channel, None)

    def copy(self) -> Contents:
        other = Contents()
        other.messages = {channel: dict(messages) for channel, messages in self.messages.items()}
        other.floors = dict(self.floors)
        other.lasts = dict(self.lasts)
        return other


class _Durable:
    def __init__(self) -> None:
        self.applied = self.previous = (Index(0), Term(0))
        self.contents = Contents()
        self.records: dict[bytes, bytes] = {}


class MemoryCheckpoint:
    """Changes that ``run`` makes durable, unless ``fail`` is set: then ``run`` raises that error."""

    def __init__(
        self,
        durable: _Durable,
        applied: tuple[Index, Term],
        previous: tuple[Index, Term],
        changes: dict[bytes, bytes | None],
        operations: list[Callable[[Contents], object]],
    ) -> None:
        self._durable = durable
        self._applied = applied
        self._previous = previous
        self._changes = changes
        self._operations = operations
        self.fail: Exception | None = None
        self.done = False

    def run(self) -> None:
        assert not self.done
        if self.fail is not None:
            raise self.fail
        durable = self._durable
        for operation in self._operations:
            operation(durable.contents)
        for key, value in self._changes.items():
            if value is None:
                durable.records.pop(key, None)
            else:
                durable.records[key] = value
        durable.applied, durable.previous = self._applied, self._previous
        self.done = True


class MemoryStore:
    """``StoreInterface`` in memory."""

    def __init__(self) -> None:
        self._durable = _Durable()
        self._contents = Contents()
        self._operations: list[Callable[[Contents], object]] = []
        self._fresh: list[tuple[int, int, int]] = []
        self._job: MemoryCheckpoint | None = None
        self._applied = self._previous = (Index(0), Term(0))

    def after_crash(self) -> Self:
        """Return the store that a process would open now; it is independent of this one."""
        other = type(self)()
        other._durable.contents = self._durable.contents.copy()
        other._durable.records = dict(self._durable.records)
        other._durable.applied = other._applied = self._durable.applied
        other._durable.previous = other._previous = self._durable.previous
        other._contents = other._durable.contents.copy()
        return other

    def close(self) -> None:
        self._job = None

    @property
    def applied(self) -> tuple[Index, Term]:
        return self._applied

    @property
    def previous(self) -> tuple[Index, Term]:
        return self._previous

    @property
    def pending_bytes(self) -> int:
        return sum(size for _, _, size in self._wanted())

    @property
    def pending_messages(self) -> int:
        return len(self._wanted())

    @property
    def has_garbage(self) -> bool:
        return False

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(self._durable.records.items())

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> None:
        kept = list(messages)
        new = self._contents.put(channel, first, kept)
        start = first + len(kept) - new
        self._fresh += [
            (channel, seq, len(message)) for seq, message in enumerate(kept, first) if seq >= start
        ]
        self._operations.append(lambda contents: contents.put(channel, first, kept))

    def drop(self, channel: int, up_to: int) -> None:
        assert 0 <= up_to < GONE
        self._drop(channel, up_to)

    def drop_channel(self, channel: int) -> None:
        self._drop(channel, GONE)

    def get(self, channel: int, seq: int) -> bytes | None:
        return self._contents.messages.get(channel, {}).get(seq)

    def get_many(self, channel: int, seqs: Sequence[int]) -> list[bytes | None]:
        return list(map(self._contents.messages.get(channel, {}).get, seqs))

    def begin_checkpoint(
        self,
        applied: tuple[int, int],
        previous: tuple[int, int],
        changes: Iterable[tuple[bytes, bytes | None]],
    ) -> MemoryCheckpoint:
        assert self._job is None, "one checkpoint at a time"
        assert applied >= self._applied, "the applied index never goes back"
        self._job = MemoryCheckpoint(
            self._durable,
            (Index(applied[0]), Term(applied[1])),
            (Index(previous[0]), Term(previous[1])),
            dict(changes),
            self._operations,
        )
        self._operations = []
        self._fresh = []
        return self._job

    def end_checkpoint(self, job: CheckpointJob) -> None:
        assert job is self._job, "not the checkpoint that was begun"
        assert self._job.done, "after a failed checkpoint the node must stop"
        self._job = None
        self._applied, self._previous = self._durable.applied, self._durable.previous

    def _drop(self, channel: int, up_to: int) -> None:
        self._contents.drop(channel, up_to)
        self._operations.append(lambda contents: contents.drop(channel, up_to))

    def _wanted(self) -> list[tuple[int, int, int]]:
        floors = self._contents.floors
        return [fresh for fresh in self._fresh if fresh[1] > floors.get(fresh[0], 0)]
