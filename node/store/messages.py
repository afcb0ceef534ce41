"""The payloads in memory, by channel and sequence.

Within a channel there are three kinds of messages, from old to new:

* *cached*: already in the store, kept so that a new message is delivered without reading it back. The oldest
  are dropped when all cached ones together exceed their bound.
* *frozen*: part of the running checkpoint.
* *pending*: put since that checkpoint began; the next one writes them.

All are kept in runs, which are lists of consecutive messages. A run costs a few hundred bytes, whereas a
dictionary entry per message would cost as much as the message. Only the newest pending run of a channel
grows. A frozen run never changes, so the worker thread may read it without a lock.

A channel's *floor* is the last dropped sequence. It hides messages at once, wherever they are, and is stored
by the next checkpoint. The store frees their space bit by bit. A dropped channel has the highest possible
floor, ``GONE``, until all its data is deleted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

GONE = (1 << 64) - 1
"""The floor of a dropped channel. Its id is never used again."""

OVERHEAD = 41
"""Bytes that a message takes in memory besides its own: an object header and a list element."""

RUN_OVERHEAD = 240
"""Bytes that a run takes besides its messages: the object, its list, its list element. Measured: 170 to 240.
Many channels with a few messages each have nearly as many runs as messages. (A channel's own list of runs
is not counted: about 300 bytes per channel.)"""

_RUN_MESSAGES = 256
"""Number of messages at which a run stops growing, because a run is freed as a whole."""


class _Stage(Enum):
    PENDING = auto()
    FROZEN = auto()
    CACHED = auto()
    DROPPED = auto()


class Run:
    """Consecutive messages of one channel; ``first`` is the sequence of the first."""

    __slots__ = ("channel", "first", "messages", "size", "stage")

    def __init__(self, channel: int, first: int, messages: Sequence[bytes], size: int) -> None:
        self.channel = channel
        self.first = first
        self.messages = list(messages)
        self.size = size
        """Bytes of payload."""
        self.stage = _Stage.PENDING

    @property
    def last(self) -> int:
        return self.first + len(self.messages) - 1

    @property
    def memory(self) -> int:
        """Approximate bytes of memory."""
        return self.size + OVERHEAD * len(self.messages) + RUN_OVERHEAD


class _Log:
    """The runs of one channel, without gaps up to ``last``.

    Invariant: each sequence above the floor and up to ``last`` is in a run or in the store. The first
    ``head`` elements are empty, and are deleted now and then.
    """

    __slots__ = ("firsts", "head", "last", "runs")

    def __init__(self, last: int) -> None:
        self.last = last
        self.firsts: list[int] = []
        self.runs: list[Run | None] = []
        self.head = 0

    def append(self, run: Run) -> None:
        self.firsts.append(run.first)
        self.runs.append(run)

    def oldest(self) -> Run | None:
        return self.runs[self.head] if self.head < len(self.runs) else None

    def pop_oldest(self) -> None:
        self.runs[self.head] = None
        self.head += 1
        if self.head >= 64 and self.head * 2 >= len(self.runs):
            del self.firsts[: self.head], self.runs[: self.head]
            self.head = 0

    def run_with(self, seq: int) -> Run | None:
        at = bisect_right(self.firsts, seq, self.head) - 1
        if at < self.head:
            return None
        run = self.runs[at]
        return run if run is not None and seq <= run.last else None


class Batch:
    """The data of one checkpoint: runs in the order in which they were put, and changed floors."""

    __slots__ = ("floors", "runs")

    def __init__(self, runs: list[Run], floors: dict[int, int]) -> None:
        self.runs = runs
        self.floors = floors


class Messages:
    """The messages in memory, and the floors of all channels.

    Args:
        cache_bytes: maximum memory for messages that are already in the store, overhead included.
        floors: every channel's floor, as stored.
        last_stored: returns the last sequence of a channel in the store, 0 if none; called once per channel.
    """

    def __init__(self, cache_bytes: int, floors: dict[int, int], last_stored: Callable[[int], int]) -> None:
        self._cache_bytes = cache_bytes
        self._last_stored = last_stored
        self._floors = floors
        self._logs: dict[int, _Log] = {}
        self._pending: list[Run] = []
        self._growing: dict[int, Run] = {}
        self._moved: dict[int, int] = {}
        self._cached: deque[Run] = deque()
        self._cached_dropped = 0
        self.cached_bytes = 0
        self.pending_bytes = 0
        self.pending_messages = 0
        self.frozen_bytes = 0
        """Payload bytes of the running checkpoint."""

    def put(self, channel: int, first: int, messages: Sequence[bytes]) -> None:
        """Add messages ``first``, ``first + 1``, …; those not above the channel's last sequence are ignored.

        So applying an entry twice is harmless (rule S4). There are no gaps (rule S1), so a message that is
        missing in the store is lost.
        """
        log = self._log(channel)
        assert first <= log.last + 1, "a gap in a channel"
        if first <= log.last:
            messages = messages[log.last + 1 - first :]
            first = log.last + 1
        if not messages:
            return
        size = sum(map(len, messages))
        run = self._growing.get(channel)
        if run is not None and len(run.messages) < _RUN_MESSAGES:
            run.messages.extend(messages)
            run.size += size
        else:
            run = self._growing[channel] = Run(channel, first, messages, size)
            log.append(run)
            self._pending.append(run)
        log.last = run.last
        self.pending_bytes += size
        self.pending_messages += len(messages)

    def drop(self, channel: int, up_to: int) -> None:
        """Drop everything up to and including ``up_to``. A dropped sequence never returns."""
        if up_to <= self._floor(channel):
            return
        self._floors[channel] = self._moved[channel] = up_to
        log = self._logs.get(channel)
        if log is None:
            return
        log.last = max(log.last, up_to)
        while (run := log.oldest()) is not None and run.last <= up_to:
            log.pop_oldest()
            self._release(run)
        if up_to == GONE:
            del self._logs[channel]

    def drop_channel(self, channel: int) -> None:
        """Drop a channel permanently."""
        self.drop(channel, GONE)

    def find(self, channel: int, seqs: Sequence[int]) -> tuple[list[bytes | None], list[int]]:
        """Return the messages in memory, and the positions in ``seqs`` of those in the store."""
        found: list[bytes | None] = []
        in_store: list[int] = []
        floor = self._floor(channel)
        if floor == GONE:
            return [None] * len(seqs), []
        log = self._log(channel)
        base = start = end = 0
        messages: list[bytes] = []
        for seq in seqs:
            if start <= seq < end:
                found.append(messages[seq - base])
                continue
            run = log.run_with(seq) if seq > floor else None
            if run is None:
                found.append(None)
                if floor < seq <= log.last:
                    in_store.append(len(found) - 1)
                continue
            messages, base, end = run.messages, run.first, run.last + 1
            start = max(base, floor + 1)
            found.append(messages[seq - base])
        return found, in_store

    def freeze(self) -> Batch:
        """Freeze all pending runs and return them for the checkpoint that begins now."""
        runs = [run for run in self._pending if run.stage is _Stage.PENDING]
        for run in runs:
            run.stage = _Stage.FROZEN
        batch = Batch(runs, self._moved)
        self._pending = []
        self._growing = {}
        self._moved = {}
        self.frozen_bytes = self.pending_bytes
        self.pending_bytes = self.pending_messages = 0
        return batch

    def settle(self, batch: Batch) -> None:
        """Turn the runs of a stored batch into cached ones, unless they were dropped meanwhile."""
        self.frozen_bytes = 0
        for run in batch.runs:
            if run.stage is _Stage.FROZEN:
                run.stage = _Stage.CACHED
                self._cached.append(run)
                self.cached_bytes += run.memory
        while self.cached_bytes > self._cache_bytes:
            run = self._cached.popleft()
            if run.stage is _Stage.DROPPED:
                self._cached_dropped -= 1
                continue
            log = self._logs[run.channel]
            assert log.oldest() is run, "runs are removed from a channel in the order of adding"
            log.pop_oldest()
            self.cached_bytes -= run.memory
        if self._cached_dropped * 2 > len(self._cached):
            self._cached = deque(run for run in self._cached if run.stage is _Stage.CACHED)
            self._cached_dropped = 0

    def floors_of(self, channels: Iterable[int]) -> dict[int, int]:
        """Return the floors of some channels, in ascending order of the channels."""
        return {channel: self._floors[channel] for channel in sorted(set(channels))}

    def forget(self, channel: int) -> None:
        """Remove the floor of a dropped channel, whose data was deleted from the store."""
        del self._floors[channel]

    def _floor(self, channel: int) -> int:
        return self._floors.get(channel, 0)

    def _log(self, channel: int) -> _Log:
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = _Log(max(self._floor(channel), self._last_stored(channel)))
        return log

    def _release(self, run: Run) -> None:
        stage, run.stage = run.stage, _Stage.DROPPED
        if stage is _Stage.FROZEN:
            return  # the running checkpoint still stores it, and the next one has the drop
        if stage is _Stage.PENDING:
            self.pending_bytes -= run.size
            self.pending_messages -= len(run.messages)
            if self._growing.get(run.channel) is run:
                del self._growing[run.channel]
        else:
            self.cached_bytes -= run.memory
            self._cached_dropped += 1
        run.messages = []  # the queue of cached runs may still contain it for a while
