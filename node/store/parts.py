"""Where a snapshot is received: a directory that holds the part of one, or a whole one, and nothing else.

A part is a directory ``<id>.part`` with the manifest, which is durable before the first chunk is written,
and the file as far as it has come, which isn't until the end: so what a crash left of it is verified chunk
by chunk before it is relied on. When it is whole, it is synced and gets the name of its id.

`SnapshotReceiver` knows it as `Parts`; the simulator has another behind it, on the disk that it breaks.
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
    """At most one snapshot, or a part of it. What it raises: OSError, DiskError."""

    def begin(self, manifest: Manifest) -> None:
        """Keep what is here of this snapshot, and nothing else. A whole one becomes a part again."""

    def chunks(self) -> Iterator[bytes]:
        """What is here of it, ``manifest.chunk_bytes`` at a time. Nobody has looked at it."""

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes; what follows is to be written."""

    def room(self) -> int:
        """Bytes that can still be written."""

    def write(self, offset: int, data: bytes) -> None:
        """Write at the end."""

    def close(self) -> None:
        """Let go of it; it stays."""

    def finish(self) -> Snapshot:
        """All of it is here and verified: make it durable. Returns the whole snapshot."""

    def discard(self) -> None:
        """It is worth nothing."""

    def describe(self) -> str:
        """How messages to the operator call the place."""


class DirectoryParts:
    """`Parts` in a directory of the operating system, which is made when there is something to receive."""

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
        if whole.exists():  # the peer didn't hear that it was done
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

    def room(self) -> int:
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
