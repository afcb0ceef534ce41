"""A simulated machine's store after a crash, fake or LMDB: it has the old state or the new one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from node.errors import CorruptionError, DiskError, UnavailableError
from node.simulator.lmdb_machine_store import LmdbMachineStore
from node.simulator.sim_store import Copied, MemoryMachineStore
from node.store.transfer import SnapshotReceiver, SnapshotSender

MachineStore = MemoryMachineStore | LmdbMachineStore
Make = Callable[[int], MachineStore]


@pytest.fixture(params=[MemoryMachineStore, LmdbMachineStore], ids=["memory", "lmdb"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Returns a function that makes a machine's store from a seed."""
    made: list[MachineStore] = []

    def make(seed: int) -> MachineStore:
        made.append(request.param(random.Random(seed), "n1"))
        return made[-1]

    yield make
    for machine_store in made:
        machine_store.close()


def fill(machine_store: MachineStore, index: int) -> Callable[[], None]:
    """Add twenty messages and a record. Returns the function that makes them durable."""
    store = machine_store.store
    store.put(1, index - 19, [b"%d" % seq * 50 for seq in range(index - 19, index + 1)])
    job = store.begin_checkpoint((index, 1), (index - 1, 1), [(b"index", b"%d" % index)])
    machine_store.begin_checkpoint(lambda: machine_store.run_checkpoint(job))

    def finish() -> None:
        machine_store.end_checkpoint()
        machine_store.run_checkpoint(job)
        store.end_checkpoint(job)

    return finish


def found(machine_store: MachineStore) -> int:
    """Return the index that the next process finds, after checking that all its data is there."""
    store = machine_store.open()
    index = store.applied[0]
    assert dict(store.records()) == ({b"index": b"%d" % index} if index else {})
    seqs = range(1, index + 1)
    assert store.get_many(1, seqs) == [b"%d" % seq * 50 for seq in seqs]
    assert index == 100 or store.get(1, index + 1) is None
    return index


@pytest.mark.parametrize("power", [False, True])
def test_an_interrupted_checkpoint_is_complete_or_absent(make: Make, power: bool) -> None:
    left = set()
    for seed in range(12):
        machine_store = make(seed)
        machine_store.open()
        fill(machine_store, 20)()
        fill(machine_store, 40)
        machine_store.stop(power=power)
        left.add(found(machine_store))
        fill(machine_store, found(machine_store) + 20)()
        machine_store.stop(power=power)
        found(machine_store)
    assert left == {20, 40}


def snapshot(make: Make) -> Copied:
    machine_store = make(1)
    machine_store.open()
    for index in range(20, 101, 20):
        fill(machine_store, index)()
    return machine_store.copy(b"members")


def carry(copied: Copied, machine_store: MachineStore, values_max: int = 10_000) -> SnapshotReceiver:
    """Transfer up to ``values_max`` messages; the last one is being handled."""
    sender = SnapshotSender(copied.manifest, copied.read)
    receiver = SnapshotReceiver(machine_store.parts(), chunk_bytes=machine_store.chunk_bytes)
    while values_max and (value := sender.next_value()) is not None:
        values_max -= 1
        if not values_max:
            machine_store.begin(lambda: receiver.receive(value))
            break
        for answer in receiver.receive(value):
            sender.receive(answer)
    return receiver


@pytest.mark.parametrize("power", [False, True])
def test_an_interrupted_snapshot_transfer_is_resumed(make: Make, power: bool) -> None:
    """Whatever part of it survived, the transfer completes in the end."""
    copied = snapshot(make)
    assert copied.manifest.size > 2 * copied.manifest.chunk_bytes
    resumed = set()
    for seed in range(10):
        machine_store = make(seed)
        machine_store.open()
        carry(copied, machine_store, 2 + seed % 4)
        machine_store.stop(power=power)
        assert found(machine_store) == 0
        receiver = SnapshotReceiver(machine_store.parts(), chunk_bytes=machine_store.chunk_bytes)
        resumed.add(receiver.receive(["offer", copied.manifest.to_plain()])[0][2] > 0)
        receiver.close()
        received = carry(copied, machine_store).received
        assert received is not None
        machine_store.begin_install(received, b"members")
        assert machine_store.install().applied == (100, 1)
        assert found(machine_store) == 100
    assert True in resumed


@pytest.mark.parametrize("power", [False, True])
def test_an_interrupted_installation_is_complete_or_absent(make: Make, power: bool) -> None:
    """If it is there, so is its note."""
    copied = snapshot(make)
    left = set()
    for seed in range(16):
        machine_store = make(seed)
        machine_store.open()
        fill(machine_store, 20)()
        received = carry(copied, machine_store).received
        assert received is not None
        machine_store.begin_install(received, b"members")
        machine_store.stop(power=power)
        left.add(index := found(machine_store))
        assert machine_store.note() == (b"members" if index == 100 else b"")
    assert left == {20, 100}


def test_damage_is_found_and_not_copied(make: Make) -> None:
    machine_store = make(1)
    machine_store.open()
    assert not machine_store.rot(random.Random(1))
    fill(machine_store, 20)()
    for seed in range(8):
        machine_store = make(seed)
        machine_store.open()
        fill(machine_store, 20)()
        assert machine_store.rot(random.Random(seed))
        with pytest.raises(CorruptionError):
            machine_store.copy(b"")
        machine_store.stop(power=False)
        with pytest.raises(CorruptionError):
            found(machine_store)


def test_damaged_parts_of_a_snapshot_are_sent_again(make: Make) -> None:
    copied = snapshot(make)
    machine_store = make(2)
    machine_store.open()
    assert not machine_store.rot_received(random.Random(1))
    carry(copied, machine_store, 4).close()
    machine_store.stop(power=False)
    machine_store.open()
    assert machine_store.rot_received(random.Random(1))
    received = carry(copied, machine_store).received
    assert received is not None
    machine_store.begin_install(received, b"")
    machine_store.install()
    assert found(machine_store) == 100


def test_a_full_disk_accepts_no_writes(make: Make) -> None:
    copied = snapshot(make)
    machine_store = make(2)
    machine_store.open()
    finish = fill(machine_store, 20)
    machine_store.fill(100)
    with pytest.raises(DiskError):
        finish()
    with pytest.raises(UnavailableError):
        machine_store.copy(b"")
    with pytest.raises(DiskError):
        carry(copied, machine_store)
    machine_store.stop(power=False)
    machine_store.empty()
    assert found(machine_store) == 0
    assert carry(copied, machine_store).received is not None
