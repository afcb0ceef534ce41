from __future__ import annotations

import tracemalloc

import pytest

from node.store.messages import GONE, OVERHEAD, RUN_OVERHEAD, Messages


def settled(messages: Messages) -> None:
    messages.settle(messages.freeze())


def empty(cache_bytes: int = 1 << 20) -> Messages:
    return Messages(cache_bytes, {}, lambda channel: 0)


def test_the_cache_is_bounded() -> None:
    """The oldest leave first, over all channels; what isn't stored yet never leaves."""
    each = 10 * (100 + OVERHEAD) + RUN_OVERHEAD
    messages = empty(cache_bytes=each * 5 // 2)
    for channel in (1, 2, 3):
        messages.put(channel, 1, [b"x" * 100] * 10)
        settled(messages)
    assert messages.cached_bytes == 2 * each
    assert messages.find(1, range(1, 11)) == ([None] * 10, list(range(10)))
    assert messages.find(2, [1, 10])[1] == []
    messages.put(1, 11, [b"y" * 100] * 100)
    assert messages.find(1, range(11, 111))[1] == []


@pytest.mark.parametrize(("channels", "together", "rounds"), [(400, 1, 20), (400, 2, 10), (10, 100, 5)])
def test_what_the_cache_counts_is_what_it_takes(channels: int, together: int, rounds: int) -> None:
    """160,000 messages of 10 bytes on 4,000 channels took 537 bytes each and were counted as 51."""
    messages = Messages(1 << 30, {}, lambda _channel: 1_000_000)  # small numbers take no memory
    for channel in range(channels):
        messages.find(channel, [1_000_001])
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(rounds):
        for channel in range(channels):
            first = 1_000_001 + number * together
            messages.put(channel, first, [b"%010d" % seq for seq in range(together)])
        settled(messages)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert messages.cached_bytes == pytest.approx(after - before, rel=0.15)


def test_dropped_messages_leave_the_cache() -> None:
    """They free their memory, and what the queue of cached runs keeps of them stays small."""
    messages = empty()
    messages.put(1, 1, [b"stays"])
    settled(messages)
    before = messages.cached_bytes
    for seq in range(1, 500):
        messages.put(2, seq, [b"x" * 1000])
        settled(messages)
        messages.drop(2, seq)
        assert messages.cached_bytes == before
        assert len(messages._cached) < 5
    messages.drop_channel(1)
    assert messages.cached_bytes == 0


def test_last_stored_is_asked_once_a_channel() -> None:
    """And never of a channel that is gone."""
    asked: list[int] = []

    def last_stored(channel: int) -> int:
        asked.append(channel)
        return 7

    messages = Messages(1000, {5: GONE}, last_stored)
    assert messages.find(1, [6, 7, 8]) == ([None, None, None], [0, 1])
    messages.put(1, 8, [b"a"])
    messages.put(1, 9, [b"b"])
    assert messages.find(5, [1]) == ([None], [])
    assert asked == [1]


def test_a_floor_inside_a_run_hides_its_beginning() -> None:
    """In any order of asking."""
    messages = empty()
    messages.put(1, 1, [b"a", b"b", b"c"])
    messages.drop(1, 2)
    assert messages.find(1, [3, 2, 1, 3]) == ([b"c", None, None, b"c"], [])


def test_a_frozen_run_never_changes() -> None:
    """The worker reads it while the loop puts and drops."""
    messages = empty()
    messages.put(1, 1, [b"a"])
    batch = messages.freeze()
    messages.put(1, 2, [b"b"])
    messages.drop(1, 2)
    assert [(run.first, run.messages) for run in batch.runs] == [(1, [b"a"])]
    assert batch.floors == {}
    messages.settle(batch)
    assert messages.cached_bytes == 0
    assert messages.freeze().floors == {1: 2}


def test_many_small_puts_share_runs() -> None:
    """A run for each would cost more than the messages; and a long history of drops costs nothing."""
    messages = empty()
    for seq in range(1, 5001):
        messages.put(1, seq, [b"x"])
        if seq > 1000:
            messages.drop(1, seq - 1000)
    assert 4 <= len(messages.freeze().runs) <= 6
    assert messages.find(1, [4000, 4001, 5000]) == ([None, b"x", b"x"], [])
