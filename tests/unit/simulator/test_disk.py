"""What the simulated disk loses and keeps. Its normal operation is tested in tests/unit/raft/test_disk.py."""

from __future__ import annotations

import random

import pytest

from node.errors import DiskError
from node.simulator.disk import SECTOR_BYTES, PowerCutError, SimulatedDisk


def written(disk: SimulatedDisk, data: bytes, *, sync: bool) -> None:
    file = disk.open("a", create=True)
    disk.sync_dir()
    file.write(0, [data])
    if sync:
        file.sync()


@pytest.mark.parametrize("seed", range(20))
def test_synced_bytes_survive_a_power_cut(seed: int) -> None:
    disk = SimulatedDisk(random.Random(seed))
    written(disk, b"kept", sync=True)
    disk.power_cut()
    assert disk.content("a") == b"kept"


def test_unsynced_writes_are_kept_lost_or_torn() -> None:
    """All three happen, for each write separately; a sector is never half written."""
    fates = set()
    for seed in range(60):
        disk = SimulatedDisk(random.Random(seed))
        written(disk, b"x" * 4 * SECTOR_BYTES, sync=False)
        disk.power_cut()
        content = disk.content("a")
        sectors = {content[i : i + SECTOR_BYTES] for i in range(0, len(content), SECTOR_BYTES)}
        assert sectors <= {b"x" * SECTOR_BYTES, bytes(SECTOR_BYTES)}
        fates.add(content)
    assert b"" in fates
    assert b"x" * 4 * SECTOR_BYTES in fates
    assert len(fates) > 3


def test_a_name_needs_the_directory_synced() -> None:
    survived = set()
    for seed in range(20):
        disk = SimulatedDisk(random.Random(seed))
        file = disk.open("a", create=True)
        file.write(0, [b"synced"])
        file.sync()
        disk.power_cut()
        survived.add(tuple(disk.names()))
    assert survived == {(), ("a",)}


def test_unlink_may_be_undone() -> None:
    survived = set()
    for seed in range(20):
        disk = SimulatedDisk(random.Random(seed))
        written(disk, b"data", sync=True)
        disk.unlink("a")
        disk.power_cut()
        survived.add(tuple(disk.names()))
    assert survived == {(), ("a",)}


def test_a_killed_process_loses_only_its_handles() -> None:
    disk = SimulatedDisk(random.Random(1))
    file = disk.open("a", create=True)
    file.write(0, [b"seen"])
    disk.kill()
    assert disk.content("a") == b"seen"
    with pytest.raises(AssertionError, match="before the last kill"):
        file.read(0, 1)


def test_after_a_failed_sync_the_data_is_seen_but_gone() -> None:
    """The next sync succeeds and saves nothing: a sync must never be retried."""
    disk = SimulatedDisk(random.Random(1))
    file = disk.open("a", create=True)
    disk.sync_dir()
    file.write(0, [b"lost"])
    disk.fail_syncs()
    with pytest.raises(DiskError, match="Input/output error"):
        file.sync()
    file.sync()
    assert disk.content("a") == b"lost"
    disk.power_cut()
    assert disk.content("a") == b""


def test_full_disk_and_failing_writes() -> None:
    disk = SimulatedDisk(random.Random(1), capacity=10)
    file = disk.open("a", create=True)
    file.allocate(8)
    file.write(0, [b"12345678"])
    with pytest.raises(DiskError, match="No space left"):
        file.write(8, [b"9abc"])
    disk.fail_writes()
    with pytest.raises(DiskError, match="Input/output error"):
        file.write(0, [b"x"])


def test_stops_inside_an_operation_and_stays_stopped() -> None:
    disk = SimulatedDisk(random.Random(1))
    file = disk.open("a", create=True)
    disk.stop_after(1)
    file.write(0, [b"x"])
    for _ in range(2):
        with pytest.raises(PowerCutError):
            file.sync()
    disk.kill()
    disk.sync_dir()


def test_rot_flips_bits() -> None:
    disk = SimulatedDisk(random.Random(1))
    written(disk, b"abc", sync=True)
    disk.rot("a", 1, 0x03)
    assert disk.content("a") == b"aac"
