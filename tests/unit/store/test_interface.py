"""What every store promises, the real one and the fake one alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.encryption.keyring import Keyring
from node.store.interface import StoreInterface
from node.store.memory import MemoryStore
from node.store.store import Store

Reconfigurer = dict[bytes, bytes | None]


class Disk:
    """A store and its next life: ``reopen`` is what a process finds that starts after a crash."""

    def __init__(
        self, store: StoreInterface, after_crash: Callable[[StoreInterface], StoreInterface]
    ) -> None:
        self.store = store
        self._after_crash = after_crash

    def reopen(self) -> StoreInterface:
        self.store = self._after_crash(self.store)
        return self.store

    def checkpoint(self, index: int, changes: Reconfigurer | None = None) -> None:
        job = self.store.begin_checkpoint((index, 1), (index - 1, 1), (changes or {}).items())
        job.run()
        self.store.end_checkpoint(job)


@pytest.fixture(params=["lmdb", "lmdb without cache", "encrypted", "encrypted without cache", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, keyring: Callable[..., Keyring]) -> Iterator[Disk]:
    if request.param == "memory":
        made = Disk(MemoryStore(), lambda store: store.after_crash())
    else:
        cache_bytes = 0 if "without" in request.param else 1 << 20

        def opened() -> Store:
            value_cipher = keyring("n1").value_cipher("store") if "encrypted" in request.param else None
            return Store.open(tmp_path / "store", cache_bytes=cache_bytes, value_cipher=value_cipher)

        def reopened(store: StoreInterface) -> Store:
            store.close()
            return opened()

        made = Disk(opened(), reopened)
    yield made
    made.store.close()


def test_a_new_store_is_empty(disk: Disk) -> None:
    """Nothing applied, no record, no message."""
    store = disk.store
    assert store.applied == store.previous == (0, 0)
    assert list(store.records()) == []
    assert store.get(1, 1) is None
    assert store.get_many(7, [1, 2, 3]) == [None, None, None]
    assert (store.pending_bytes, store.pending_messages, store.has_garbage) == (0, 0, False)


def test_what_is_put_is_there_at_once(disk: Disk) -> None:
    """Before any checkpoint, in its channel only, at its sequence only."""
    store = disk.store
    store.put(1, 1, [b"a", b"bb"])
    store.put(1, 3, [b"ccc"])
    store.put(2, 1, [b"other"])
    assert store.get_many(1, [1, 2, 3, 4]) == [b"a", b"bb", b"ccc", None]
    assert store.get_many(1, [3, 1, 1]) == [b"ccc", b"a", b"a"]
    assert store.get(2, 1) == b"other"
    assert store.get(2, 2) is None
    assert store.get(1, 0) is None
    assert (store.pending_bytes, store.pending_messages) == (11, 4)


def test_the_caller_keeps_its_list(disk: Disk) -> None:
    """A list given to put may be changed afterwards."""
    messages = [b"a"]
    disk.store.put(1, 1, messages)
    messages[0] = b"changed"
    disk.store.put(1, 2, [b"b"])
    assert messages == [b"changed"]
    assert disk.store.get(1, 1) == b"a"


def test_a_checkpoint_survives(disk: Disk) -> None:
    """Messages, records, applied and previous of the last checkpoint; nothing that came after."""
    disk.store.put(1, 1, [b"a", b"b"])
    disk.checkpoint(5, {b"k": b"v", b"j": b"u"})
    disk.store.put(1, 3, [b"lost"])
    assert disk.store.applied == (5, 1)
    store = disk.reopen()
    assert (store.applied, store.previous) == ((5, 1), (4, 1))
    assert list(store.records()) == [(b"j", b"u"), (b"k", b"v")]
    assert store.get_many(1, [1, 2, 3]) == [b"a", b"b", None]
    assert store.pending_messages == 0


def test_nothing_survives_without_a_checkpoint(disk: Disk) -> None:
    """A job that was begun and not run leaves nothing."""
    disk.store.put(1, 1, [b"a"])
    assert disk.reopen().get(1, 1) is None


def test_records_are_replaced_and_deleted(disk: Disk) -> None:
    """A value of None deletes; deleting what isn't there is no error; empty values are values."""
    disk.checkpoint(1, {b"a": b"1", b"b": b"2", b"c": b"3"})
    disk.checkpoint(2, {b"a": b"11", b"b": None, b"never": None, b"d": b""})
    expected = [(b"a", b"11"), (b"c", b"3"), (b"d", b"")]
    assert list(disk.store.records()) == expected
    assert list(disk.reopen().records()) == expected


def test_puts_and_drops_go_on_while_a_checkpoint_runs(disk: Disk) -> None:
    """They belong to the next one, and what the running one stores is readable throughout."""
    store = disk.store
    store.put(1, 1, [b"a", b"b"])
    job = store.begin_checkpoint((1, 1), (0, 0), [])
    assert store.pending_messages == 0
    store.put(1, 3, [b"c"])
    store.drop(1, 1)
    assert store.get_many(1, [1, 2, 3]) == [None, b"b", b"c"]
    job.run()
    assert store.get_many(1, [1, 2, 3]) == [None, b"b", b"c"]
    store.end_checkpoint(job)
    assert store.get_many(1, [1, 2, 3]) == [None, b"b", b"c"]
    assert store.pending_messages == 1
    store = disk.reopen()
    assert store.get_many(1, [1, 2, 3]) == [b"a", b"b", None], "exactly the state at index 1"


def test_dropped_at_once_and_for_good(disk: Disk) -> None:
    """Dropped is dropped: in memory, in the store, in the next life."""
    disk.store.put(1, 1, [b"%d" % seq for seq in range(1, 11)])
    disk.checkpoint(1)
    disk.store.drop(1, 4)
    disk.store.drop(1, 2)
    expected = [None] * 4 + [b"%d" % seq for seq in range(5, 11)]
    assert disk.store.get_many(1, range(1, 11)) == expected
    disk.checkpoint(2)
    assert disk.store.get_many(1, range(1, 11)) == expected
    assert disk.reopen().get_many(1, range(1, 11)) == expected


def test_what_is_dropped_before_it_is_stored_is_never_pending(disk: Disk) -> None:
    """A channel that keeps one message doesn't make a checkpoint due by those it lost."""
    disk.store.put(1, 1, [b"a"] * 5)
    disk.store.drop(1, 5)
    assert (disk.store.pending_bytes, disk.store.pending_messages) == (0, 0)
    disk.store.put(1, 6, [b"b"])
    disk.checkpoint(1)
    assert disk.reopen().get_many(1, range(1, 8)) == [None] * 5 + [b"b", None]


def test_everything_dropped_goes_on_at_the_next_sequence(disk: Disk) -> None:
    """S2: an emptied channel continues; a sequence never returns."""
    disk.store.put(1, 1, [b"a", b"b"])
    disk.checkpoint(1)
    disk.store.drop(1, 2)
    disk.checkpoint(2)
    store = disk.reopen()
    store.put(1, 2, [b"again", b"c"])
    assert store.get_many(1, [1, 2, 3]) == [None, None, b"c"]


def test_dropped_ahead_of_what_was_put(disk: Disk) -> None:
    """A floor above the last sequence is where the channel goes on, also beside stored messages."""
    disk.store.put(1, 1, [b"a", b"b", b"c"])
    disk.checkpoint(1)
    disk.store.put(1, 4, [b"d", b"e"])
    disk.store.drop(1, 7)
    disk.store.put(1, 8, [b"h"])
    disk.checkpoint(2)
    expected = [None] * 7 + [b"h", None]
    assert disk.store.get_many(1, range(1, 10)) == expected
    assert disk.reopen().get_many(1, range(1, 10)) == expected


def test_a_dropped_channel_is_gone(disk: Disk) -> None:
    """Pending, stored or in the next life; its neighbours stay."""
    for channel in (1, 2, 3):
        disk.store.put(channel, 1, [b"a"])
    disk.checkpoint(1)
    disk.store.put(2, 2, [b"b"])
    disk.store.drop_channel(2)
    assert disk.store.get_many(2, [1, 2]) == [None, None]
    assert disk.store.pending_messages == 0
    disk.checkpoint(2)
    disk.checkpoint(3)
    assert not disk.store.has_garbage
    store = disk.reopen()
    assert store.get_many(2, [1, 2]) == [None, None]
    assert store.get(1, 1) == store.get(3, 1) == b"a"


def test_a_channel_dropped_while_its_messages_are_being_stored(disk: Disk) -> None:
    """The running checkpoint stores them, the next one takes them out again."""
    disk.store.put(1, 1, [b"a"])
    job = disk.store.begin_checkpoint((1, 1), (0, 0), [])
    disk.store.drop_channel(1)
    job.run()
    disk.store.end_checkpoint(job)
    assert disk.store.get(1, 1) is None
    disk.checkpoint(2)
    assert disk.reopen().get(1, 1) is None


def test_a_sequence_stored_twice_is_stored_once(disk: Disk) -> None:
    """S4: replay is harmless, whether the first is pending or stored or from an earlier life."""
    disk.store.put(1, 1, [b"a", b"b"])
    disk.store.put(1, 1, [b"x", b"x", b"c"])
    assert disk.store.get_many(1, [1, 2, 3]) == [b"a", b"b", b"c"]
    disk.checkpoint(1)
    disk.store.put(1, 3, [b"x"])
    store = disk.reopen()
    store.put(1, 2, [b"x", b"x", b"d"])
    assert store.get_many(1, [1, 2, 3, 4]) == [b"a", b"b", b"c", b"d"]
    assert store.pending_messages == 1


def test_a_gap_is_refused(disk: Disk) -> None:
    """S1: sequences have no gaps, so a gap is a bug of ours."""
    disk.store.put(1, 1, [b"a"])
    with pytest.raises(AssertionError):
        disk.store.put(1, 3, [b"c"])
    with pytest.raises(AssertionError):
        disk.store.put(2, 2, [b"b"])


def test_messages_of_any_size(disk: Disk) -> None:
    """Empty, around a block's size, and far beyond it."""
    messages = [b"", b"a" * 65_519, b"b" * 65_520, b"", b"c" * 3_000_000, b"d"]
    disk.store.put(1, 1, messages)
    disk.checkpoint(1)
    assert disk.reopen().get_many(1, range(1, 7)) == messages


def test_many_small_checkpoints(disk: Disk) -> None:
    """A message a checkpoint reads back as well as a thousand at once, dropped ones excepted."""
    for seq in range(1, 120):
        disk.store.put(1, seq, [b"message %d" % seq])
        if seq % 3 == 0:
            disk.store.put(2, seq // 3, [b"other"])
        if seq > 50:
            disk.store.drop(1, seq - 50)
        disk.checkpoint(seq)
        if seq % 40 == 0:
            disk.reopen()
    store = disk.reopen()
    expected = [None if seq <= 69 else b"message %d" % seq for seq in range(1, 120)]
    assert store.get_many(1, range(1, 120)) == expected
    assert store.get_many(2, range(1, 41)) == [b"other"] * 39 + [None]


def test_one_checkpoint_at_a_time(disk: Disk) -> None:
    """And none ends that hasn't run."""
    job = disk.store.begin_checkpoint((1, 1), (0, 0), [])
    with pytest.raises(AssertionError):
        disk.store.begin_checkpoint((2, 1), (1, 1), [])
    with pytest.raises(AssertionError):
        disk.store.end_checkpoint(job)
    job.run()
    disk.store.end_checkpoint(job)


def test_applied_never_goes_back(disk: Disk) -> None:
    """A checkpoint below the last one is a bug of ours."""
    disk.checkpoint(3)
    with pytest.raises(AssertionError):
        disk.store.begin_checkpoint((2, 1), (1, 1), [])
