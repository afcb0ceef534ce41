"""How much room is enough, and the reserve with which a full node starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.server.disk.space import CHECKPOINT_BYTES, RESERVE_FILE, Free, Space

MIB = 1 << 20
SEGMENT = 4 * MIB


class Disk:
    def __init__(self, directory: Path, *, total: int = 100_000 * MIB, min_free: int = 256 * MIB) -> None:
        self.path = directory
        self.total, self.left = total, total
        self.space = Space(
            directory,
            min_free=min_free,
            segment_bytes=SEGMENT,
            free=lambda _path: Free(self.total, self.left),
        )

    def look(self, left: int, reusable: int = 0) -> bool:
        self.left = left
        return self.space.look(reusable)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_nearly_full_until_there_is_clearly_enough_again(disk: Disk) -> None:
    assert [disk.look(each * MIB) for each in (300, 257, 255, 257, 319, 321, 300)] == [
        False, False, True, True, True, False, False,
    ]  # fmt: skip


def test_tight_comes_before_nearly_full(disk: Disk) -> None:
    tight = []
    for left in (600, 500, 200, 500, 600):
        disk.look(left * MIB)
        tight.append((disk.space.is_tight, disk.space.is_low))
    assert tight == [(False, False), (True, False), (True, True), (True, False), (False, False)]


def test_what_a_purge_leaves_in_the_store_is_room(disk: Disk) -> None:
    """The store's file never shrinks."""
    assert disk.look(200 * MIB)
    assert disk.look(200 * MIB, 100 * MIB)
    assert not disk.look(200 * MIB, 500 * MIB)
    assert disk.look(100 * MIB, 500 * MIB)  # the journal's next segments don't go there


def test_small_disk_has_a_small_mark(tmp_path: Path) -> None:
    disk = Disk(tmp_path, total=96 * MIB)
    assert [disk.look(each * MIB) for each in (20, 10, 9)] == [False, False, True]


def test_no_mark_is_never_low(tmp_path: Path) -> None:
    assert not Disk(tmp_path, min_free=0).look(0)


def test_warning_says_how_much_is_left(disk: Disk) -> None:
    disk.look(1000 * MIB)
    assert disk.space.warning == ""
    disk.look(100 * MIB)
    assert "is nearly full: 100 MiB are left" in disk.space.warning


def test_reserve_is_made_with_plenty_and_given_back_at_a_start_without_room(disk: Disk) -> None:
    reserve = disk.path / RESERVE_FILE
    disk.look(400 * MIB)
    assert not reserve.exists()
    disk.look(1000 * MIB)
    assert reserve.stat().st_size == SEGMENT + CHECKPOINT_BYTES
    assert reserve.stat().st_blocks * 512 >= SEGMENT + CHECKPOINT_BYTES
    assert reserve.stat().st_mode & 0o777 == 0o600
    disk.look(0)  # it is for a start
    assert reserve.exists()
    disk.left = 30 * MIB
    disk.space.begin()
    assert reserve.exists()
    disk.left = 10 * MIB
    disk.space.begin()
    assert not reserve.exists()
    disk.space.begin()


def test_disk_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    def silent(_path: Path) -> Free:
        raise OSError(5, "Input/output error")

    space = Space(tmp_path, min_free=MIB, segment_bytes=SEGMENT, free=silent)
    space.begin()
    assert not space.look(0)
