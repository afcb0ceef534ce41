"""The directory in which a snapshot is received. It holds one snapshot, whole or in part, and nothing else.

A partial snapshot is a directory ``<id>.part`` with the manifest, which is durable before the first chunk is
written, and the received part of the file, which is not durable until the end. So after a crash each chunk
is verified before it is used. When the file is complete, it is synced and the directory is renamed to the
snapshot's id.

`SnapshotReceiver` uses it through the protocol `Parts`. The simulator implements `Parts` on its faulty disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from node.store.environment import DATA_FILE, sync_directory, sync_file
from node.store.snapshot import Manifest, Snapshot, chunks, load_manifest, write_manifest


class Parts(Protocol):
    """At most one snapshot, whole or in part. Methods raise OSError or DiskError."""

    def begin(self, manifest: Manifest) -> None:
        """Keep existing data of this snapshot and delete everything else.

        A whole snapshot becomes partial again.
        """

    def chunks(self) -> Iterator[bytes]:
        """Yield the existing data, ``manifest.chunk_bytes`` at a time, unverified."""

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes and continue to write there."""

    def free_bytes(self) -> int:
        """Return the number of bytes that can still be written."""

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at the end."""

    def close(self) -> None:
        """Close the file and keep the data."""

    def finish(self) -> Snapshot:
        """Make the complete, verified snapshot durable and return it."""

    def discard(self) -> None:
        """Delete the data."""

    def describe(self) -> str:
        """Return the name of the place, for error texts."""


class DirectoryParts:
    """`Parts` in a directory of the operating system, created when a snapshot is received."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._manifest: Manifest
        self._file: int | None = None

    def begin(self, manifest: Manifest) -> None:
        self._manifest = manifest
        part, whole = self._part, self._whole
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for other in self._directory.iterdir():
            if other not in {part, whole}:
                shutil.rmtree(other)
        if whole.exists():  # the peer did not receive "done"
            shutil.rmtree(part, ignore_errors=True)
            whole.rename(part)
        if load_manifest(part, manifest.chunk_bytes) != manifest:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700)
            write_manifest(part, manifest)
        (part / DATA_FILE).touch(mode=0o600)

    def chunks(self) -> Iterator[bytes]:
        return chunks(self._part / DATA_FILE, self._manifest.chunk_bytes)

    def cut(self, size: int) -> None:
        self._file = os.open(self._part / DATA_FILE, os.O_WRONLY)
        os.ftruncate(self._file, size)

    def free_bytes(self) -> int:
        status = os.statvfs(self._part)
        return status.f_bavail * status.f_frsize

    def write(self, offset: int, data: bytes) -> None:
        assert self._file is not None
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], offset + written)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def finish(self) -> Snapshot:
        self.close()
        sync_file(self._part / DATA_FILE)
        self._part.rename(self._whole)
        sync_directory(self._directory)
        return Snapshot(self._whole, self._manifest)

    def discard(self) -> None:
        self.close()
        shutil.rmtree(self._part)

    def describe(self) -> str:
        return str(self._part)

    @property
    def _part(self) -> Path:
        return self._directory / f"{self._manifest.snapshot_id}.part"

    @property
    def _whole(self) -> Path:
        return self._directory / self._manifest.snapshot_id
