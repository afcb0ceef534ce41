"""The cache keeps the newest payloads, and all that are not written yet, whatever their size."""

from __future__ import annotations

from node.raft.entry_cache import OVERHEAD, EntryCache

EACH = 10 + OVERHEAD
"""Memory of a payload of ten bytes."""


def test_the_oldest_written_go_first() -> None:
    payloads = EntryCache(3 * EACH)
    for index in range(1, 6):
        payloads.add(index, b"x" * 10, index - 1)
    assert [payloads.get(i) is not None for i in range(1, 6)] == [False, False, True, True, True]
    assert payloads.size == 3 * EACH


def test_unwritten_ones_stay() -> None:
    payloads = EntryCache(EACH * 3 // 2)
    for index in (1, 2, 3):
        payloads.add(index, b"x" * 10, 0)
    assert payloads.size == 3 * EACH
    payloads.shrink(1)
    assert payloads.size == 2 * EACH
    payloads.shrink(3)
    assert payloads.size == EACH
    assert payloads.get(3) == b"x" * 10


def test_discarding_either_end() -> None:
    payloads = EntryCache(10 * EACH)
    for index in range(1, 6):
        payloads.add(index, b"x" * 10, 0)
    payloads.discard_from(5)
    payloads.discard_before(3)
    assert payloads.size == 2 * EACH
    payloads.discard_from(1)
    assert (payloads.size, payloads.get(3)) == (0, None)
    payloads.add(2, b"again", 0)
    assert payloads.get(2) == b"again"
    payloads.clear()
    assert (payloads.size, payloads.get(2)) == (0, None)
    payloads.discard_before(100)
    payloads.shrink(100)
    assert payloads.size == 0
