"""The guarantees of every disk: the real one, the one in memory and the simulated one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from node.errors import DiskError
from node.raft.disk import Disk, RealDisk, replace_file
from node.raft.memory_disk import MemoryDisk
from node.simulator.disk import SimulatedDisk


@pytest.fixture(params=["real", "memory", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "real":
        return RealDisk(tmp_path / "made" / "when missing")
    return MemoryDisk() if request.param == "memory" else SimulatedDisk(random.Random(1))


def test_gathered_write_is_read_back(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.write(3, [b"one", b"", b"two", b"three"])
    file.sync()
    disk.sync_dir()
    assert file.size() == 14
    assert file.read(0, 100) == b"\0\0\0onetwothree"
    assert file.read(14, 1) == b""
    file.close()


def test_a_whole_file_is_replaced(disk: Disk) -> None:
    """This also works if an earlier attempt was interrupted."""
    disk.open("a.tmp", create=True).close()
    for data in (b"one", b"2"):
        replace_file(disk, "a", data)
        file = disk.open("a")
        assert file.read(0, 100) == data
        file.close()
    assert disk.names() == ["a"]


def test_more_buffers_than_one_call_takes(disk: Disk) -> None:
    buffers = [i.to_bytes(2, "little") for i in range(3000)]
    file = disk.open("a", create=True)
    file.write(0, buffers)
    assert file.read(0, 6001) == b"".join(buffers)
    file.close()


def test_allocated_space_is_zeros_and_keeps_what_is_there(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.write(0, [b"abc"])
    file.allocate(8)
    assert file.read(0, 100) == b"abc\0\0\0\0\0"
    file.allocate(2)
    assert file.size() == 8
    file.truncate(2)
    file.allocate(4)
    assert file.read(0, 100) == b"ab\0\0"
    file.close()


def test_names_renames_and_unlinks(disk: Disk) -> None:
    for name in ("b", "a", "c"):
        disk.open(name, create=True).close()
    file = disk.open("a")
    file.write(0, [b"A"])
    disk.rename("a", "b")
    disk.unlink("c")
    disk.sync_dir()
    assert disk.names() == ["b"]
    again = disk.open("b")
    assert again.read(0, 9) == b"A"
    file.close()
    again.close()


def test_refusals_are_disk_errors_that_name_the_file(disk: Disk) -> None:
    disk.open("a", create=True).close()
    with pytest.raises(DiskError, match="a: File exists"):
        disk.open("a", create=True)
    for attempt in (disk.open, disk.unlink, lambda name: disk.rename(name, "other")):
        with pytest.raises(DiskError, match="nothing: No such file"):
            attempt("nothing")


def test_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nearly full disk writes a part; writing the rest raises the real error."""
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: os.pwrite(fd, b"".join(buffers)[:4], at))
    file = RealDisk(tmp_path).open("a", create=True)
    file.write(1, [b"012", b"345", b"678"])
    assert file.read(0, 99) == b"\x00012345678"
    file.close()


def test_real_files_are_private(tmp_path: Path) -> None:
    RealDisk(tmp_path / "d").open("a", create=True).close()
    assert (tmp_path / "d").stat().st_mode & 0o77 == 0
    assert (tmp_path / "d" / "a").stat().st_mode & 0o77 == 0
