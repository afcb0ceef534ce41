"""The identity of a node's directory, and the lock that keeps a second process out.

A node that lost its disk must not simply start again: it would vote a second time and acknowledge entries
that it no longer has (PS-17). So a directory states its node, its cluster and the cluster's UUID. A node with
an empty directory is a new member, which an operator or the cluster must add.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType

from node.errors import DiskError, IdentityError
from node.raft.disk import Disk, replace_file

IDENTITY_FILE = "identity.json"
LOCK_FILE = "lock"
_FORMAT = 2
_BEFORE = {1: frozenset({"cluster_id", "founding_id", "cluster_tag", "node"})}
"""The fields of earlier formats. Missing fields are empty."""
_KEYS = {"cluster_uuid": "founding_id"}
"""Fields whose key in the file is an earlier name, so that directories of earlier releases can be read."""
_SIZE_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Identity:
    """The cluster and node that a directory belongs to."""

    cluster_id: str
    cluster_uuid: str
    """Random, drawn when the cluster was bootstrapped: it distinguishes two clusters of the same name. Empty
    on a node that takes part in the bootstrap until it has received the UUID."""
    cluster_tag: str
    """Random; part of every ack inbox (R18). Never shown in monitoring."""
    node: str
    directory: str = ""
    """Random, drawn by a node that was added at run time; identifies this copy of the log. Empty for the
    initial members, whose directories are the first of their names."""
    membership: str = ""
    """The membership this directory started with, as agreed at bootstrap or sent by the member that admitted
    the node: the index of the entry, a colon, and the bytes of `node.raft.membership` in hexadecimal. It
    applies until the log names others, so a changed configuration never changes the voters."""
    recovered_from: str = ""
    """The UUID of the cluster that the data came from, until the log contains the recovery
    (`recover_identity`)."""


def load_identity(disk: Disk, *, cluster_id: str, node: str) -> Identity | None:
    """Read and check the identity of a directory; None for a new directory, which has none.

    Args:
        disk: the node's directory.
        cluster_id: the configured cluster ID.
        node: the configured node name.

    Raises:
        IdentityError: it belongs to another node or cluster, or the file is damaged.
        DiskError: it can't be read.
    """
    identity = read_identity(disk)
    if identity is None:
        return None
    where = disk.describe(IDENTITY_FILE)
    for what, stored, configured in (
        ("cluster", identity.cluster_id, cluster_id),
        ("node", identity.node, node),
    ):
        if stored != configured:
            raise IdentityError(
                f"{where}: this directory belongs to {what} {stored!r}, but the configuration says "
                f"{configured!r}. Point the node at its own directory, or correct the name."
            )
    return identity


def save_identity(disk: Disk, identity: Identity) -> None:
    """Write the identity atomically; it is durable on return.

    Raises:
        IdentityError: the directory has a different identity with a cluster UUID.
        DiskError: the write failed.
    """
    existing = load_identity(disk, cluster_id=identity.cluster_id, node=identity.node)
    if existing == identity:
        return
    if existing is not None and existing.cluster_uuid and not _same_copy(existing, identity):
        where = disk.describe(IDENTITY_FILE)
        raise IdentityError(
            f"{where}: this directory belongs to another cluster of the same name (its cluster UUID differs)"
        )
    replace_file(disk, IDENTITY_FILE, _encode(identity))


def read_identity(disk: Disk) -> Identity | None:
    """Read the identity of a directory without comparing it with a configuration; None if it has none.

    Raises:
        IdentityError: the file is damaged.
        DiskError: it can't be read.
    """
    if IDENTITY_FILE not in disk.names():
        return None
    with contextlib.closing(disk.open(IDENTITY_FILE)) as file:
        return _decode(file.read(0, _SIZE_MAX), disk.describe(IDENTITY_FILE))


def recover_identity(
    disk: Disk, cluster_id: str, cluster_uuid: str, directory: str, membership: str = ""
) -> Identity:
    """Assign the directory's data to another cluster, atomically; return the new identity.

    ``recovered_from`` keeps the previous cluster UUID, because log and state still contain it. The new
    ``directory`` id distinguishes memberships of the new cluster from those of the old one. ``membership``
    states since which entry the new one applies.

    Raises:
        IdentityError: the directory has no identity with a cluster UUID, or the file is damaged.
    """
    existing = read_identity(disk)
    if existing is None or not existing.cluster_uuid:
        raise IdentityError(f"{disk.describe(IDENTITY_FILE)}: this directory has no data of a cluster")
    was = existing.recovered_from or existing.cluster_uuid
    identity = replace(
        existing,
        cluster_id=cluster_id,
        cluster_uuid=cluster_uuid,
        directory=directory,
        membership=membership,
        recovered_from=was,
    )
    replace_file(disk, IDENTITY_FILE, _encode(identity))
    return identity


def _same_copy(existing: Identity, identity: Identity) -> bool:
    """Return whether both describe the same copy of the log, which may have learned its tag, membership or
    recovery.
    """
    return (
        existing.cluster_uuid == identity.cluster_uuid
        and existing.cluster_tag in {"", identity.cluster_tag}
        and existing.directory == identity.directory
        and (existing.membership == identity.membership or not (existing.membership or existing.directory))
        and identity.recovered_from in {"", existing.recovered_from}
    )


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _encode(identity: Identity) -> bytes:
    values = {_KEYS.get(name, name): value for name, value in asdict(identity).items()}
    document = {"format": _FORMAT, "identity": values, "sha256": _checksum([_FORMAT, values])}
    return json.dumps(document, indent=2).encode() + b"\n"


def _decode(data: bytes, where: str) -> Identity:
    damaged = IdentityError(
        f"{where}: the identity of this directory is damaged, so its cluster and node are unknown. "
        "Restore the directory from a copy, or replace the node (stanchion cluster replace)."
    )
    try:
        document = json.loads(data)
    except ValueError:
        raise damaged from None
    names = {_KEYS.get(field.name, field.name): field.name for field in fields(Identity)}
    match document:
        case {"format": int(version), "identity": dict(values), "sha256": str(checksum)}:
            if checksum != _checksum([version, values]):
                raise damaged
            if version != _FORMAT and version not in _BEFORE:
                raise IdentityError(
                    f"{where}: format {version} is not supported, this release reads formats 1 to {_FORMAT}"
                )
            if set(values) != _BEFORE.get(version, names.keys()) or not all(
                isinstance(value, str) for value in values.values()
            ):
                raise damaged
            return Identity(**{names[key]: value for key, value in values.items()})
        case _:
            raise damaged


class DirectoryLock:
    """Keeps other processes out of a node's directory, until `release` or the end of the process.

    The lock is held by the kernel (flock), so a killed process leaves none behind. The file remains and names
    the last holder. Use it as a context manager.
    """

    def __init__(self, directory: Path | str) -> None:
        self.path = Path(directory) / LOCK_FILE
        self._fd = -1

    def acquire(self) -> None:
        """Acquire the lock without waiting.

        Raises:
            IdentityError: another process holds it.
            DiskError: the directory does not exist or can't be written.
        """
        assert self._fd < 0
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DiskError(f"lock {self.path}: {error.strerror}") from error
        try:
            self._lock(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Keep the file's block: a full disk might not provide another one.
            os.ftruncate(fd, os.pwrite(fd, f"{os.getpid()}\n".encode(), 0))
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise IdentityError(
                f"{self.path.parent}: another process uses this directory (process {holder})"
            ) from None
        except OSError as error:
            raise DiskError(f"lock {self.path}: {error.strerror}") from error

    def release(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> DirectoryLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
