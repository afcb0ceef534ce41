"""The place where a simulated machine receives snapshots: `node.store.parts` on a disk that can fail.

It syncs exactly what the real one syncs. So a power cut keeps, loses or tears each chunk of a part
separately, and the code that resumes a transfer must not rely on any chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from node.errors import CorruptionError, RemoteProtocolError
from node.protocol.peer import HEADER_BYTES, decode_body, encode_frame
from node.simulator.disk import SimulatedDisk, SimulatedFile
from node.store.snapshot import Manifest, Snapshot
from node.store.values import verified, with_checksum

PLENTY = 1 << 40
"""Free bytes on a disk that isn't full."""


class SimulatedParts:
    """`Parts` on a disk in memory.

    Args:
        disk: a disk for this purpose only.
        chunk_bytes: chunk size of the snapshots.
    """

    def __init__(self, disk: SimulatedDisk, chunk_bytes: int) -> None:
        self._disk = disk
        self._chunk_bytes = chunk_bytes
        self._manifest: Manifest
        self._file: SimulatedFile | None = None

    def begin(self, manifest: Manifest) -> None:
        self._manifest = manifest
        disk, names = self._disk, self._disk.names()
        mine = {self._part, self._whole, self._label}
        for name in names:
            if name not in mine:
                disk.unlink(name)
        if self._whole in names:
            disk.rename(self._whole, self._part)
        if self._read_label() != manifest:
            for name in mine & {*disk.names()}:
                disk.unlink(name)
            label = disk.open(self._label, create=True)
            label.write(0, [with_checksum(b"", encode_frame(manifest.to_plain()))])
            label.sync()
            disk.sync_dir()
        if self._part not in disk.names():
            disk.open(self._part, create=True)

    def _read_label(self) -> Manifest | None:
        if self._label not in self._disk.names():
            return None
        stored = self._disk.content(self._label)
        try:
            plain = decode_body(verified(Path(self._label), b"", stored)[HEADER_BYTES:])
            return Manifest.from_plain(plain, chunk_bytes=self._chunk_bytes)
        except (CorruptionError, RemoteProtocolError):
            return None

    def chunks(self) -> Iterator[bytes]:
        file = self._disk.open(self._part)
        size = self._chunk_bytes
        for at in range(0, file.size(), size):
            yield file.read(at, size)

    def cut(self, size: int) -> None:
        self._file = self._disk.open(self._part)
        self._file.truncate(size)

    def free_bytes(self) -> int:
        capacity = self._disk.capacity
        return PLENTY if capacity is None else capacity - self._disk.used

    def write(self, offset: int, data: bytes) -> None:
        assert self._file is not None
        self._file.write(offset, [data])

    def close(self) -> None:
        self._file = None

    def finish(self) -> Snapshot:
        file = self._disk.open(self._part)
        file.sync()
        self._disk.rename(self._part, self._whole)
        self._disk.sync_dir()
        return Snapshot(Path(self._whole), self._manifest)

    def discard(self) -> None:
        self.close()
        for name in (self._part, self._label):
            self._disk.unlink(name)

    def describe(self) -> str:
        return self._disk.describe(self._part)

    @property
    def _part(self) -> str:
        return f"{self._manifest.snapshot_id}.part"

    @property
    def _whole(self) -> str:
        return self._manifest.snapshot_id

    @property
    def _label(self) -> str:
        return f"{self._manifest.snapshot_id}.manifest"
