"""A store that keeps nothing still keeps its messages for as long as the process lives."""

from __future__ import annotations

from node.store.volatile import VolatileStore


def test_what_is_put_is_there_until_it_is_dropped() -> None:
    store = VolatileStore()
    store.put(1, 1, [b"a", b"b", b"c"])
    store.put(1, 2, [b"again", b"again"])  # S4
    store.put(2, 1, [b"other"])
    assert store.get_many(1, [1, 2, 3, 4]) == [b"a", b"b", b"c", None]
    store.drop(1, 2)
    assert store.get_many(1, [1, 2, 3]) == [None, None, b"c"]
    store.put(1, 4, [b"d"])
    assert store.get(1, 4) == b"d"
    assert store.get(2, 1) == b"other"
    assert store.get(3, 1) is None


def test_a_dropped_channel_leaves_nothing() -> None:
    """Channel ids never come again: what is kept of each would add up for ever."""
    store = VolatileStore()
    for channel in range(100):
        store.put(channel, 1, [b"a"])
        store.drop(channel, 1)
        store.drop_channel(channel)
    contents = store._contents
    assert contents.messages == contents.floors == contents.lasts == {}


def test_a_checkpoint_moves_what_is_applied_and_writes_nothing() -> None:
    """The journal may forget what is applied; nobody will ever read a record."""
    store = VolatileStore()
    assert store.applied == store.previous == (0, 0)
    store.put(1, 1, [b"a"])
    job = store.begin_checkpoint((5, 2), (4, 1), [(b"key", b"value")])
    job.run()
    store.end_checkpoint(job)
    assert (store.applied, store.previous) == ((5, 2), (4, 1))
    assert list(store.records()) == []
    assert (store.pending_bytes, store.pending_messages, store.has_garbage) == (0, 0, False)
    assert store.get(1, 1) == b"a"
    store.close()
