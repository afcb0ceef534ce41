"""What crashes leave of a simulated machine's store, fake or LMDB: the old state or the new one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from node.errors import CorruptionError, DiskError, UnavailableError
from node.simulator.lmdb_machine_store import LmdbKeeper
from node.simulator.sim_store import Copied, MemoryKeeper
from node.store.transfer import SnapshotReceiver, SnapshotSender

Keeper = MemoryKeeper | LmdbKeeper
Make = Callable[[int], Keeper]


@pytest.fixture(params=[MemoryKeeper, LmdbKeeper], ids=["memory", "lmdb"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """A machine, by seed."""
    made: list[Keeper] = []

    def make(seed: int) -> Keeper:
        made.append(request.param(random.Random(seed), "n1"))
        return made[-1]

    yield make
    for keeper in made:
        keeper.close()


def fill(keeper: Keeper, index: int) -> Callable[[], None]:
    """Twenty messages and a record more; what is left to do for them to be durable."""
    store = keeper.store
    store.put(1, index - 19, [b"%d" % seq * 50 for seq in range(index - 19, index + 1)])
    job = store.begin_checkpoint((index, 1), (index - 1, 1), [(b"index", b"%d" % index)])
    keeper.begin_checkpoint(lambda: keeper.run_checkpoint(job))

    def finish() -> None:
        keeper.end_checkpoint()
        keeper.run_checkpoint(job)
        store.end_checkpoint(job)

    return finish


def found(keeper: Keeper) -> int:
    """What the next process finds: an index, and all that belongs to it."""
    store = keeper.open()
    index = store.applied[0]
    assert dict(store.records()) == ({b"index": b"%d" % index} if index else {})
    seqs = range(1, index + 1)
    assert store.get_many(1, seqs) == [b"%d" % seq * 50 for seq in seqs]
    assert index == 100 or store.get(1, index + 1) is None
    return index


@pytest.mark.parametrize("power", [False, True])
def test_a_checkpoint_that_was_being_written_is_there_or_is_not(make: Make, power: bool) -> None:
    left = set()
    for seed in range(12):
        keeper = make(seed)
        keeper.open()
        fill(keeper, 20)()
        fill(keeper, 40)
        keeper.stop(power=power)
        left.add(found(keeper))
        fill(keeper, found(keeper) + 20)()
        keeper.stop(power=power)
        found(keeper)
    assert left == {20, 40}


def snapshot(make: Make) -> Copied:
    keeper = make(1)
    keeper.open()
    for index in range(20, 101, 20):
        fill(keeper, index)()
    return keeper.copy(b"members")


def carry(copied: Copied, keeper: Keeper, values_max: int = 10_000) -> SnapshotReceiver:
    """As many values as that; the last one is under way."""
    sender = SnapshotSender(copied.manifest, copied.read)
    receiver = SnapshotReceiver(keeper.parts(), chunk_bytes=keeper.chunk_bytes)
    while values_max and (value := sender.next_value()) is not None:
        values_max -= 1
        if not values_max:
            keeper.begin(lambda: receiver.receive(value))
            break
        for answer in receiver.receive(value):
            sender.receive(answer)
    return receiver


@pytest.mark.parametrize("power", [False, True])
def test_a_snapshot_that_was_being_received_is_gone_on_with(make: Make, power: bool) -> None:
    """Whatever is left of it; and it arrives in the end."""
    copied = snapshot(make)
    assert copied.manifest.size > 2 * copied.manifest.chunk_bytes
    resumed = set()
    for seed in range(10):
        keeper = make(seed)
        keeper.open()
        carry(copied, keeper, 2 + seed % 4)
        keeper.stop(power=power)
        assert found(keeper) == 0
        receiver = SnapshotReceiver(keeper.parts(), chunk_bytes=keeper.chunk_bytes)
        resumed.add(receiver.receive(["offer", copied.manifest.to_plain()])[0][2] > 0)
        receiver.close()
        received = carry(copied, keeper).received
        assert received is not None
        keeper.begin_install(received, b"members")
        assert keeper.install().applied == (100, 1)
        assert found(keeper) == 100
    assert True in resumed


@pytest.mark.parametrize("power", [False, True])
def test_a_snapshot_that_was_being_installed_is_there_or_is_not(make: Make, power: bool) -> None:
    """And if it is, so is its note."""
    copied = snapshot(make)
    left = set()
    for seed in range(16):
        keeper = make(seed)
        keeper.open()
        fill(keeper, 20)()
        received = carry(copied, keeper).received
        assert received is not None
        keeper.begin_install(received, b"members")
        keeper.stop(power=power)
        left.add(index := found(keeper))
        assert keeper.note() == (b"members" if index == 100 else b"")
    assert left == {20, 100}


def test_what_rots_is_found_and_not_copied(make: Make) -> None:
    keeper = make(1)
    keeper.open()
    assert not keeper.rot(random.Random(1))
    fill(keeper, 20)()
    for seed in range(8):
        keeper = make(seed)
        keeper.open()
        fill(keeper, 20)()
        assert keeper.rot(random.Random(seed))
        with pytest.raises(CorruptionError):
            keeper.copy(b"")
        keeper.stop(power=False)
        with pytest.raises(CorruptionError):
            found(keeper)


def test_what_rots_of_a_part_is_sent_again(make: Make) -> None:
    copied = snapshot(make)
    keeper = make(2)
    keeper.open()
    assert not keeper.rot_received(random.Random(1))
    carry(copied, keeper, 4).close()
    keeper.stop(power=False)
    keeper.open()
    assert keeper.rot_received(random.Random(1))
    received = carry(copied, keeper).received
    assert received is not None
    keeper.begin_install(received, b"")
    keeper.install()
    assert found(keeper) == 100


def test_a_full_disk_takes_nothing(make: Make) -> None:
    copied = snapshot(make)
    keeper = make(2)
    keeper.open()
    finish = fill(keeper, 20)
    keeper.fill(100)
    with pytest.raises(DiskError):
        finish()
    with pytest.raises(UnavailableError):
        keeper.copy(b"")
    with pytest.raises(DiskError):
        carry(copied, keeper)
    keeper.stop(power=False)
    keeper.empty()
    assert found(keeper) == 0
    assert carry(copied, keeper).received is not None
