"""What a receiver relies on, of the directory and of its fake on a simulated disk alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from node.errors import DiskError
from node.simulator.disk import SimulatedDisk
from node.simulator.sim_parts import SimulatedParts
from node.store.parts import DirectoryParts, Parts
from node.store.snapshot import CHUNK_BYTES, Manifest, describe
from node.units import Index, Term

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 256 * 2) + b"the end"


def manifest_of(content: bytes, index: int = 10) -> Manifest:
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    return describe(chunks, (Index(index), Term(2)), (Index(index - 1), Term(2)), b"context")


MANIFEST = manifest_of(CONTENT)

Make = Callable[[], Parts]


@pytest.fixture(params=["directory", "simulated"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Each call is another process at the same place."""
    if request.param == "directory":
        return lambda: DirectoryParts(tmp_path / "received")
    disk = SimulatedDisk(random.Random(1))
    return lambda: SimulatedParts(disk, CHUNK_BYTES)


def begun(make: Make, manifest: Manifest = MANIFEST) -> Parts:
    parts = make()
    parts.begin(manifest)
    return parts


def part_of(make: Make, size: int) -> None:
    parts = begun(make)
    parts.cut(0)
    for at in range(0, size, CHUNK_BYTES):
        parts.write(at, CONTENT[at : min(at + CHUNK_BYTES, size)])
    parts.close()


def test_a_part_is_found_again_chunk_by_chunk(make: Make) -> None:
    assert list(begun(make).chunks()) == []
    part_of(make, CHUNK_BYTES + 5)
    assert list(begun(make).chunks()) == [CONTENT[:CHUNK_BYTES], CONTENT[CHUNK_BYTES:][:5]]


def test_what_is_cut_off_is_gone(make: Make) -> None:
    part_of(make, 2 * CHUNK_BYTES)
    parts = begun(make)
    parts.cut(CHUNK_BYTES)
    parts.write(CHUNK_BYTES, b"other")
    parts.close()
    assert list(begun(make).chunks()) == [CONTENT[:CHUNK_BYTES], b"other"]


def test_there_is_room_for_one_only(make: Make) -> None:
    """Another snapshot takes the place of a part, and of a whole one."""
    other = manifest_of(b"other", 20)
    part_of(make, len(CONTENT))
    assert list(begun(make, other).chunks()) == []
    assert list(begun(make).chunks()) == []
    part_of(make, len(CONTENT))
    begun(make).finish()
    begun(make, other)
    assert list(begun(make).chunks()) == []


def test_a_whole_one_has_its_name_and_can_become_a_part_again(make: Make) -> None:
    """Its sender didn't hear that it was done, and offers it once more."""
    part_of(make, len(CONTENT))
    parts = begun(make)
    parts.cut(len(CONTENT))
    whole = parts.finish()
    assert whole.manifest == MANIFEST
    assert whole.path.name == MANIFEST.snapshot_id
    assert b"".join(begun(make).chunks()) == CONTENT


def test_what_is_discarded_is_gone(make: Make) -> None:
    part_of(make, 100)
    parts = begun(make)
    parts.cut(100)
    parts.discard()
    assert list(begun(make).chunks()) == []
    assert MANIFEST.snapshot_id in begun(make).describe()


def test_there_is_room() -> None:
    disk = SimulatedDisk(random.Random(1), capacity=1_000)
    parts = SimulatedParts(disk, CHUNK_BYTES)
    parts.begin(MANIFEST)
    assert 0 < parts.free_bytes() < 1_000
    parts.cut(0)
    with pytest.raises(DiskError, match="No space"):
        parts.write(0, bytes(parts.free_bytes() + 1))


def test_a_manifest_that_was_torn_is_none(tmp_path: Path) -> None:
    """Whatever a crash left beside it is nobody's part."""
    make = lambda: DirectoryParts(tmp_path / "received")  # noqa: E731
    part_of(make, 100)
    (tmp_path / "received" / f"{MANIFEST.snapshot_id}.part" / "manifest").write_bytes(b"torn")
    assert list(begun(make).chunks()) == []
    disk = SimulatedDisk(random.Random(1))
    part_of(lambda: SimulatedParts(disk, CHUNK_BYTES), 100)
    disk.rot(f"{MANIFEST.snapshot_id}.manifest", 20, 1)
    assert list(begun(lambda: SimulatedParts(disk, CHUNK_BYTES)).chunks()) == []
