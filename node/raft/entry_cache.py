"""A cache of the newest payloads of the log, bounded in bytes."""

from __future__ import annotations

OVERHEAD = 120
"""Bytes of memory per entry beside its payload: object header, index, slot in the dict. Measured: 117."""


class EntryCache:
    """The payloads of the newest entries, without gaps, up to the last entry of the log.

    The oldest entries are evicted first. Entries that are not written yet are never evicted: the cache
    exceeds its bound instead.

    Invariant: the cache holds exactly the entries from ``_first`` on. (``_first`` is stored because asking
    the dict for its first key would scan the slots of all removed entries.)
    """

    __slots__ = ("_by_index", "_bytes_max", "_first", "size")

    def __init__(self, bytes_max: int) -> None:
        self._by_index: dict[int, bytes] = {}
        self._bytes_max = bytes_max
        self._first = 0
        self.size = 0
        """Bytes in the cache, ``OVERHEAD`` included."""

    def get(self, index: int) -> bytes | None:
        return self._by_index.get(index)

    def add(self, index: int, payload: bytes, written_index: int) -> None:
        """Add the payload of the next entry; entries up to ``written_index`` may be evicted for it."""
        if not self._by_index:
            self._first = index
        self._by_index[index] = payload
        self.size += len(payload) + OVERHEAD
        if self.size > self._bytes_max:
            self.shrink(written_index)

    def shrink(self, written_index: int) -> None:
        """Evict entries up to ``written_index``, oldest first, until the cache is within its bound."""
        held = self._by_index
        while self.size > self._bytes_max and self._first <= written_index and held:
            self.size -= len(held.pop(self._first)) + OVERHEAD
            self._first += 1

    def discard_from(self, index: int) -> None:
        """Remove entry ``index`` and all later ones: they were replaced."""
        held = self._by_index
        for later in range(max(index, self._first), self._first + len(held)):
            self.size -= len(held.pop(later)) + OVERHEAD

    def discard_before(self, index: int) -> None:
        """Remove the entries before ``index``: they were dropped from the log."""
        held = self._by_index
        while self._first < index and held:
            self.size -= len(held.pop(self._first)) + OVERHEAD
            self._first += 1

    def clear(self) -> None:
        self._by_index.clear()
        self.size = 0
