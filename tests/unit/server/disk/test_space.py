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

    def look(self, left: int, reusable: int = 0, **unwritten: int) -> bool:
        self.left = left
        return self.space.look(reusable, **unwritten)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_nearly_full_until_there_is_clearly_enough_again(disk: Disk) -> None:
    assert [disk.look(each * MIB) for each in (300, 273, 271, 257, 319, 321, 300)] == [
        False, False, True, True, True, False, False,
    ]  # fmt: skip


def test_less_than_a_sixteenth_of_a_mark_above_it_is_nearly_full(disk: Disk) -> None:
    assert not disk.look(272 * MIB)
    assert disk.space.left == 16 * MIB
    assert disk.look(272 * MIB - 1)
    assert disk.space.left == 0


def test_accepted_but_unwritten_bytes_are_not_free(disk: Disk) -> None:
    assert not disk.look(400 * MIB, unstored=100 * MIB)
    assert disk.space.left == 44 * MIB
    assert disk.look(400 * MIB, unstored=130 * MIB)
    assert not disk.look(400 * MIB)
    assert not disk.look(400 * MIB, unallocated=100 * MIB)
    assert disk.look(400 * MIB, unallocated=150 * MIB)


def test_free_pages_of_the_store_count_for_unstored_messages(disk: Disk) -> None:
    assert not disk.look(300 * MIB, 200 * MIB, unstored=200 * MIB)


def test_exhausted_disk_is_nearly_full_until_a_look_finds_more(disk: Disk) -> None:
    disk.look(1000 * MIB)
    disk.space.exhausted()
    assert disk.space.is_low
    assert disk.space.is_tight
    assert disk.look(300 * MIB)
    assert not disk.look(900 * MIB)


def test_copy_has_to_leave_the_mark_free(disk: Disk) -> None:
    disk.left = 300 * MIB
    assert disk.space.fits(44 * MIB)
    assert not disk.space.fits(45 * MIB)


def test_reserve_that_was_just_made_is_not_left(disk: Disk) -> None:
    disk.look(1000 * MIB)
    first = disk.space.left
    disk.look(1000 * MIB)
    assert disk.space.left - first == SEGMENT + CHECKPOINT_BYTES


def test_tight_comes_before_nearly_full(disk: Disk) -> None:
    tight = []
    for left in (600, 500, 200, 500, 600):
        disk.look(left * MIB)
        tight.append((disk.space.is_tight, disk.space.is_low))
    assert tight == [(False, False), (True, False), (True, True), (True, False), (False, False)]


def test_pages_freed_by_a_purge_are_free_space(disk: Disk) -> None:
    """The store's file never shrinks."""
    assert disk.look(200 * MIB)
    assert disk.look(200 * MIB, 100 * MIB)
    assert not disk.look(200 * MIB, 500 * MIB)
    assert disk.look(100 * MIB, 500 * MIB)  # the journal's next segments don't go there


@pytest.mark.parametrize(
    ("total_mib", "min_free_mib", "mark_mib"),
    [
        (96, 256, 19.2),  # a fifth: less than a node needs, but the most that such a disk can spare
        (300, 256, 44),  # what a node needs: its tenth, 30 MiB, would not do
        (1000, 256, 100),  # a tenth
        (100_000, 256, 256),
        (100_000, 1, 44),  # an operator can't have less than a node needs
    ],
)
def test_mark_is_never_less_than_what_a_node_still_writes(
    tmp_path: Path, total_mib: int, min_free_mib: int, mark_mib: float
) -> None:
    disk = Disk(tmp_path, total=total_mib * MIB, min_free=min_free_mib * MIB)
    assert disk.space.needed_bytes == 44 * MIB
    assert not disk.look(int(mark_mib * 17 / 16 * MIB) + 1)
    assert disk.look(int(mark_mib * MIB))


def test_no_mark_is_never_low(tmp_path: Path) -> None:
    disk = Disk(tmp_path, min_free=0)
    assert not disk.look(0)
    disk.space.exhausted()
    assert not disk.space.is_low
    assert disk.space.fits(0)


def test_warning_says_how_much_is_left(disk: Disk) -> None:
    disk.look(1000 * MIB)
    assert disk.space.warning == ""
    disk.look(100 * MIB)
    assert "is nearly full: 100 MiB are left" in disk.space.warning


def test_reserve_is_created_with_enough_space_and_deleted_at_a_start_without(disk: Disk) -> None:
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
    def unresponsive(_path: Path) -> Free:
        raise OSError(5, "Input/output error")

    space = Space(tmp_path, min_free=MIB, segment_bytes=SEGMENT, free=unresponsive)
    space.begin()
    assert not space.look(0)
