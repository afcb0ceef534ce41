from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgpack
import pytest

from node.errors import CorruptionError, DiskError, RemoteProtocolError
from node.protocol.peer import encode_frame
from node.raft.links import Limits
from node.store import parts as module
from node.store import transfer
from node.store.parts import Parts
from node.store.snapshot import (
    CHUNK_BYTES,
    CONTEXT_BYTES_MAX,
    Manifest,
    Snapshot,
    install,
    open_reader,
    produce,
)
from node.store.store import Store
from node.store.transfer import WINDOW_CHUNKS, SnapshotReceiver, SnapshotSender, Value
from node.units import Index, Term


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """One of some 6 MiB, larger than the window."""
    root = tmp_path_factory.mktemp("origin")
    store = Store.open(root / "store")
    store.put(1, 1, [os.urandom(1000) for _ in range(6000)])
    job = store.begin_checkpoint((10, 3), (9, 2), [])
    job.run()
    store.end_checkpoint(job)
    made = produce(store, root / "snapshots")
    store.close()
    assert made.manifest.size > (WINDOW_CHUNKS + 1) * CHUNK_BYTES
    return made


@pytest.fixture
def sender(snapshot: Snapshot) -> Iterator[SnapshotSender]:
    with open_reader(snapshot) as read:
        yield SnapshotSender(snapshot.manifest, read)


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksums of this snapshot don't fit into its offer."""
    monkeypatch.setattr(transfer, "CRCS_BYTES_MAX", 20)


@pytest.mark.usefixtures("small_frames")
def test_checksums_that_do_not_fit_into_an_offer_follow_it(
    snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path
) -> None:
    receiver = SnapshotReceiver(tmp_path / "incoming")
    pieces = -(-4 * chunk_count(snapshot) // 20)
    assert pieces > 1
    assert exchange(sender, receiver) == 1 + pieces + chunk_count(snapshot)
    assert sender.done
    assert receiver.received is not None
    assert receiver.received.manifest == snapshot.manifest
    assert receiver.received.data.read_bytes() == snapshot.data.read_bytes()


@pytest.mark.usefixtures("small_frames")
def test_refusal_ends_the_checksums(sender: SnapshotSender, tmp_path: Path) -> None:
    receiver = SnapshotReceiver(tmp_path / "incoming", wanted=lambda manifest: "the log already contains it")
    assert exchange(sender, receiver) == 1
    assert sender.refused == "the log already contains it"


@pytest.mark.usefixtures("small_frames")
@pytest.mark.parametrize(
    "junk", [["crcs", 20, b"x" * 20], ["crcs", 0, b""], ["crcs", 0, b"x" * 1000], ["crcs", 0]]
)
def test_checksums_that_do_not_fit_break_the_protocol(
    sender: SnapshotSender, tmp_path: Path, junk: list
) -> None:
    receiver = SnapshotReceiver(tmp_path / "incoming")
    receiver.receive(over_the_wire(sender.next_value() or []))
    with pytest.raises(RemoteProtocolError):
        receiver.receive(junk)


def test_what_is_needed_before_all_is_offered_breaks_the_protocol(
    snapshot: Snapshot, sender: SnapshotSender, small_frames: None
) -> None:
    sender.next_value()
    with pytest.raises(RemoteProtocolError):
        sender.receive(["need", snapshot.manifest.snapshot_id, 0])


class Nowhere(Parts):
    """Takes a snapshot of any size, and keeps nothing of it."""

    def __init__(self) -> None:
        self.begun: Manifest | None = None

    def begin(self, manifest: Manifest) -> None:
        self.begun = manifest

    def chunks(self) -> Iterator[bytes]:
        return iter(())

    def free_bytes(self) -> int:
        return 1 << 60

    def cut(self, size: int) -> None:
        pass


@pytest.mark.parametrize("size", [32 << 30, (32 << 30) + 1, 64 << 30, (1 << 40) - 5])
def test_snapshot_of_any_size_is_offered_in_frames_that_are_taken(size: int) -> None:
    """Above 64 GiB the checksums alone were more than a frame: who had fallen behind stayed so."""
    crcs = os.urandom(-(-size // CHUNK_BYTES) * 4)
    context = bytes(CONTEXT_BYTES_MAX)
    manifest = Manifest(Index(10), Term(3), (Index(9), Term(2)), size, bytes(32), crcs, context)
    sender, parts = SnapshotSender(manifest, lambda offset, length: b""), Nowhere()
    receiver = SnapshotReceiver(parts)
    answers: list[Value] = []
    while (value := sender.next_value()) is not None:
        assert len(encode_frame(value)) <= Limits().snapshot_frame_bytes_max
        answers += receiver.receive(over_the_wire(value))
    assert parts.begun == manifest
    assert answers == [["need", manifest.snapshot_id, 0]]
    sender.receive(answers[0])


@pytest.mark.parametrize("size", [0, -1, (1 << 40) + 1, None])
def test_head_of_a_manifest_that_cannot_be_is_refused(size: object) -> None:
    receiver = SnapshotReceiver(Nowhere())
    with pytest.raises(RemoteProtocolError):
        receiver.receive(["offer", [2, 10, 3, [9, 2], size, bytes(32), b""]])


def over_the_wire(value: Value) -> object:
    return msgpack.unpackb(msgpack.packb(value))


def exchange(sender: SnapshotSender, receiver: SnapshotReceiver, values_max: int = 10_000) -> int:
    """Carry values both ways until nobody has more to say; returns how many the sender sent."""
    sent = 0
    while sent < values_max and (value := sender.next_value()) is not None:
        sent += 1
        for answer in receiver.receive(over_the_wire(value)):
            sender.receive(over_the_wire(answer))
    return sent


def chunk_count(snapshot: Snapshot) -> int:
    return -(-snapshot.manifest.size // CHUNK_BYTES)


def test_a_snapshot_arrives(snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path) -> None:
    """Byte for byte, durable, ready to be installed."""
    receiver = SnapshotReceiver(tmp_path / "incoming")
    assert exchange(sender, receiver) == 1 + chunk_count(snapshot)
    assert sender.done
    received = receiver.received
    assert received is not None
    assert received.manifest == snapshot.manifest
    assert received.data.read_bytes() == snapshot.data.read_bytes()
    assert receiver.progress == sender.progress == (snapshot.manifest.size, snapshot.manifest.size)
    assert sender.next_value() is None
    store = install(received, tmp_path / "store")
    assert store.applied == (10, 3)
    store.close()


def test_no_more_than_the_window_is_under_way(snapshot: Snapshot, sender: SnapshotSender) -> None:
    """Until the receiver says that it has some of it."""
    assert sender.next_value() == ["offer", snapshot.manifest.to_plain()]
    assert sender.next_value() is None, "nothing before it is wanted"
    snapshot_id = snapshot.manifest.snapshot_id
    sender.receive(["need", snapshot_id, 0])
    values = list(iter(sender.next_value, None))
    assert sum(len(value[4]) for value in values) == WINDOW_CHUNKS * CHUNK_BYTES
    sender.receive(["need", snapshot_id, 2 * CHUNK_BYTES])
    assert len(list(iter(sender.next_value, None))) == 2


def test_a_cut_costs_only_what_was_under_way(
    snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path
) -> None:
    """New machines on both sides go on where the receiver's disk ends."""
    receiver = SnapshotReceiver(tmp_path)
    exchange(sender, receiver, 8)
    receiver.close()
    read = open_reader(snapshot)
    second = SnapshotSender(snapshot.manifest, read)
    receiver = SnapshotReceiver(tmp_path)
    assert exchange(second, receiver) == 1 + chunk_count(snapshot) - 7
    assert receiver.received is not None
    third = SnapshotSender(snapshot.manifest, read)
    receiver = SnapshotReceiver(tmp_path)
    assert exchange(third, receiver) == 1, "whole already: the peer didn't hear it"
    assert third.done
    assert receiver.received is not None
    read.close()


@pytest.mark.parametrize("damaged_at", [0, CHUNK_BYTES + 17, 5 * CHUNK_BYTES])
def test_a_damaged_part_is_sent_again(
    snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path, damaged_at: int
) -> None:
    """What is on the receiver's disk is verified before it is counted."""
    receiver = SnapshotReceiver(tmp_path)
    exchange(sender, receiver, 8)
    receiver.close()
    data = tmp_path / f"{snapshot.manifest.snapshot_id}.part" / "data.mdb"
    with data.open("r+b") as file:
        file.seek(damaged_at)
        byte = file.read(1)
        file.seek(damaged_at)
        file.write(bytes([byte[0] ^ 1]))
    read = open_reader(snapshot)
    second = SnapshotSender(snapshot.manifest, read)
    receiver = SnapshotReceiver(tmp_path)
    assert exchange(second, receiver) == 1 + chunk_count(snapshot) - damaged_at // CHUNK_BYTES
    assert receiver.received is not None
    assert receiver.received.data.read_bytes() == snapshot.data.read_bytes()
    read.close()


def test_a_part_with_too_much_at_its_end(snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path) -> None:
    """What doesn't belong to it is cut off."""
    receiver = SnapshotReceiver(tmp_path)
    exchange(sender, receiver, 8)
    receiver.close()
    data = tmp_path / f"{snapshot.manifest.snapshot_id}.part" / "data.mdb"
    with data.open("ab") as file:
        file.write(b"x" * snapshot.manifest.size)
    with open_reader(snapshot) as read:
        exchange(SnapshotSender(snapshot.manifest, read), receiver := SnapshotReceiver(tmp_path))
    assert receiver.received is not None
    assert receiver.received.data.read_bytes() == snapshot.data.read_bytes()


def test_another_snapshot_begins_anew(snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path) -> None:
    """The part of one is no beginning of another, and isn't kept."""
    (tmp_path / "3-9-0badc0de0badc0de0badc0de.part").mkdir()
    receiver = SnapshotReceiver(tmp_path)
    exchange(sender, receiver)
    assert [path.name for path in tmp_path.iterdir()] == [snapshot.manifest.snapshot_id]


def test_a_snapshot_that_is_not_wanted(snapshot: Snapshot, sender: SnapshotSender, tmp_path: Path) -> None:
    """Is refused with the reason, and nothing is written."""
    receiver = SnapshotReceiver(tmp_path / "incoming", wanted=lambda manifest: f"have {manifest.index}")
    exchange(sender, receiver)
    assert sender.refused == "have 10"
    assert sender.next_value() is None
    assert not (tmp_path / "incoming").exists()


def test_too_large_a_snapshot(snapshot: Snapshot, tmp_path: Path) -> None:
    """Is garbage before a byte of it is taken."""
    receiver = SnapshotReceiver(tmp_path / "incoming", size_max=1 << 20)
    with pytest.raises(RemoteProtocolError, match="at most"):
        receiver.receive(["offer", snapshot.manifest.to_plain()])
    assert not (tmp_path / "incoming").exists()


def test_no_room_on_the_disk(snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is said before the disk is full."""

    class Full:
        f_bavail = 1
        f_frsize = 4096

    monkeypatch.setattr(module.os, "statvfs", lambda path: Full)
    receiver = SnapshotReceiver(tmp_path)
    with pytest.raises(DiskError, match="no space"):
        receiver.receive(["offer", snapshot.manifest.to_plain()])


def data_values(snapshot: Snapshot, count: int) -> list[Value]:
    snapshot_id = snapshot.manifest.snapshot_id
    with snapshot.data.open("rb") as file:
        chunks = [file.read(CHUNK_BYTES) for _ in range(count)]
    return [["data", snapshot_id, at * CHUNK_BYTES, crc32(chunk), chunk] for at, chunk in enumerate(chunks)]


def test_nonsense_from_the_sender(snapshot: Snapshot, tmp_path: Path) -> None:
    """Each is the peer's fault; what was right before it is kept."""
    first, second = data_values(snapshot, 2)
    offer = ["offer", snapshot.manifest.to_plain()]
    changed = bytes([second[4][0] ^ 1]) + second[4][1:]
    for nonsense in [
        None,
        7,
        "data",
        [],
        ["data"],
        ["other", 1],
        offer,
        first,
        [*second[:1], "3-10-other", *second[2:]],
        [*second[:2], 2 * CHUNK_BYTES, *second[3:]],
        [*second[:2], -CHUNK_BYTES, *second[3:]],
        [*second[:3], second[3] ^ 1, second[4]],
        [*second[:4], changed],
        [*second[:3], crc32(changed), changed],
        [*second[:3], crc32(second[4][:-1]), second[4][:-1]],
        [*second[:4], "text"],
    ]:
        receiver = SnapshotReceiver(tmp_path)
        receiver.receive(offer)
        if receiver.progress[0] == 0:
            receiver.receive(first)
        with pytest.raises(RemoteProtocolError):
            receiver.receive(nonsense)
        receiver.close()
    fresh = SnapshotReceiver(tmp_path)
    with pytest.raises(RemoteProtocolError):
        fresh.receive(first)


def test_the_hash_of_the_whole_decides(snapshot: Snapshot, tmp_path: Path) -> None:
    """Chunks that match a manifest's checksums and not its hash are thrown away."""
    plain = snapshot.manifest.to_plain()
    plain[5] = b"\0" * 32
    receiver = SnapshotReceiver(tmp_path)
    (need,) = receiver.receive(["offer", plain])
    values = data_values(snapshot, chunk_count(snapshot))
    for value in values[:-1]:
        receiver.receive([value[0], need[1], *value[2:]])
    with pytest.raises(RemoteProtocolError, match="doesn't match its manifest"):
        receiver.receive([values[-1][0], need[1], *values[-1][2:]])
    assert receiver.received is None
    assert list(tmp_path.iterdir()) == []


def test_nonsense_from_the_receiver(snapshot: Snapshot) -> None:
    """Offsets it can't have, another snapshot, done before it is."""
    snapshot_id, size = snapshot.manifest.snapshot_id, snapshot.manifest.size
    for before, nonsense in [
        ([], None),
        ([], ["need", snapshot_id]),
        ([], ["need", "3-10-other", 0]),
        ([], ["need", snapshot_id, -CHUNK_BYTES]),
        ([], ["need", snapshot_id, 17]),
        ([], ["need", snapshot_id, size + 1]),
        ([], ["done", snapshot_id]),
        ([["need", snapshot_id, CHUNK_BYTES]], ["need", snapshot_id, 0]),
        ([["need", snapshot_id, CHUNK_BYTES]], ["need", snapshot_id, 2 * CHUNK_BYTES]),
        ([["need", snapshot_id, 0]], ["done", snapshot_id]),
        ([], ["refuse", "3-10-other", "why"]),
        ([], ["refuse", snapshot_id, 7]),
    ]:
        sender = SnapshotSender(snapshot.manifest, lambda offset, size: b"")
        assert sender.next_value() is not None
        for value in before:
            sender.receive(value)
        with pytest.raises(RemoteProtocolError):
            sender.receive(nonsense)


def test_a_damaged_snapshot_is_not_sent(snapshot: Snapshot) -> None:
    """The sender finds it before the receiver does."""
    sender = SnapshotSender(snapshot.manifest, lambda offset, size: b"\0" * size)
    sender.next_value()
    sender.receive(["need", snapshot.manifest.snapshot_id, 0])
    with pytest.raises(CorruptionError, match="delete it"):
        sender.next_value()
