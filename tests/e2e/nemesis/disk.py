"""Disks that can be filled: a small file system of their own where we may mount, else a limit on files.

Either way the node's next file, or the next growth of one, is refused by the kernel.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from e2e.harness import Cluster

TMPFS_BYTES = 96 << 20
JOURNAL_SEGMENT_BYTES = 1 << 20
"""As the nodes' configuration has to have it: the next file is never far."""

LIMIT_BYTES = JOURNAL_SEGMENT_BYTES // 8
"""Largest file that a node may write when its disk is full. About 600 publishes fill as much of a segment.
Half a segment takes 2,400: at 150 a second nearly as long as a node is given to end."""

FILLER = "filler"
CHUNK_BYTES = 1 << 16


class Disks(Protocol):
    """The disks of a cluster's nodes. Made before the nodes start."""

    kind: str

    def fill(self, name: str) -> None:
        """No room for the node until ``free``."""

    def free(self, name: str) -> None: ...

    def close(self) -> None: ...


class Mounts:
    """A tmpfs for each node."""

    kind = "tmpfs"

    def __init__(self, cluster: Cluster) -> None:
        self._mounted: list[Path] = []
        self._cluster = cluster
        for name in cluster.names:
            path = cluster.data(name)
            path.mkdir(parents=True)
            mount(path, TMPFS_BYTES)
            self._mounted.append(path)

    @staticmethod
    def can_be_had(folder: Path) -> bool:
        """Whether we may mount here."""
        if os.geteuid() != 0:
            return False
        path = folder / "mount-try"
        path.mkdir()
        with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
            mount(path, 1 << 20)
            unmount(path)
            return True
        return False

    def fill(self, name: str) -> None:
        with (self._cluster.data(name) / FILLER).open("wb", buffering=0) as filler:
            for size in (CHUNK_BYTES, 4096, 1):
                with contextlib.suppress(OSError):
                    while filler.write(b"\0" * size) == size:
                        pass

    def free(self, name: str) -> None:
        (self._cluster.data(name) / FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        for path in self._mounted:
            unmount(path)


def mount(path: Path, size: int) -> None:
    _run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)])


def unmount(path: Path) -> None:
    _run(["umount", "--lazy", str(path)])


def _run(words: Sequence[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Limits:
    """A limit on the size of the files that a node's process may write; its next one has another."""

    kind = "limits"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def fill(self, name: str) -> None:
        # The node's log is a file too, and has to have room for why the node ends.
        limit = max(LIMIT_BYTES, 2 * self._cluster.log(name).stat().st_size)
        assert limit < JOURNAL_SEGMENT_BYTES, (
            f"the log of {name} would be refused as well: half of {limit} bytes"
        )
        child = self._cluster.children[name]
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (limit, limit))

    def free(self, name: str) -> None:
        """Nothing to do: the limit ended with the process."""

    def close(self) -> None:
        """Nothing to do."""
