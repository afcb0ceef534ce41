"""The newest payloads of the log in memory, bounded in bytes."""

from __future__ import annotations

OVERHEAD = 120
"""Bytes that an entry takes in memory beside its payload: the object's head, its index, its place in the
dict. Measured: 117."""


class EntryCache:
    """The payloads of the newest entries, without gaps up to the last one in the log.

    The oldest go first, and never one that is not written yet: the bound gives way to those.

    Invariant: held are exactly the entries from ``_first`` on. (Asking the dict for its first key
    would walk over the holes that the oldest ones left.)
    """

    __slots__ = ("_by_index", "_bytes_max", "_first", "size")

    def __init__(self, bytes_max: int) -> None:
        self._by_index: dict[int, bytes] = {}
        self._bytes_max = bytes_max
        self._first = 0
        self.size = 0
        """Bytes held, ``OVERHEAD`` included."""

    def get(self, index: int) -> bytes | None:
        return self._by_index.get(index)

    def add(self, index: int, payload: bytes, written_index: int) -> None:
        """Hold the payload of the next entry; entries up to ``written_index`` may go for it."""
        if not self._by_index:
            self._first = index
        self._by_index[index] = payload
        self.size += len(payload) + OVERHEAD
        if self.size > self._bytes_max:
            self.shrink(written_index)

    def shrink(self, written_index: int) -> None:
        """Let entries up to ``written_index`` go, oldest first, until the bound is kept."""
        held = self._by_index
        while self.size > self._bytes_max and self._first <= written_index and held:
            self.size -= len(held.pop(self._first)) + OVERHEAD
            self._first += 1

    def discard_from(self, index: int) -> None:
        """Forget entry ``index`` and all later ones: they were replaced."""
        held = self._by_index
        for later in range(max(index, self._first), self._first + len(held)):
            self.size -= len(held.pop(later)) + OVERHEAD

    def discard_before(self, index: int) -> None:
        """Forget the entries before ``index``: they were dropped."""
        held = self._by_index
        while self._first < index and held:
            self.size -= len(held.pop(self._first)) + OVERHEAD
            self._first += 1

    def clear(self) -> None:
        self._by_index.clear()
        self.size = 0
