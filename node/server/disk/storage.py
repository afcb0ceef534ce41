"""Opens the data of a node: its identity, journal and store, in a directory or in memory.

A node in memory has all three too, so that it needs no other code. It starts empty each time, like the Go
server with its memory store.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from node.config.model import Config, Encryption
from node.errors import CorruptionError, DiskError, IdentityError
from node.raft.disk import Disk, RealDisk
from node.raft.identity import DirectoryLock, Identity, load_identity, save_identity
from node.raft.journal import Journal
from node.raft.memory_disk import MemoryDisk
from node.raft.segments import segment_number
from node.server.disk.continuity import Note, contradiction, follow
from node.server.disk.space import Space
from node.server.membership.node_identity import pinned

if TYPE_CHECKING:
    from node.encryption.keyring import Keyring
    from node.store.interface import StoreInterface

log = logging.getLogger("stanchion.node")

MEMORY_SEGMENT_BYTES = 1024 * 1024
"""Segment size of a journal in memory: small, because the journal frees memory by whole segments."""
MEMORY_CACHE_BYTES = 256 * 1024
"""Payload cache of a journal in memory; its bytes are held twice."""


PRIVATE = ("store", "snapshots", "received")
"""Directories whose files earlier releases made readable for the group."""

RELAXED = (
    "raft.durability is relaxed: publishes are acknowledged before they are on any disk. If machines lose "
    "their power or their systems crash, acknowledged messages may be lost, and nodes may have to be replaced"
)


@dataclass(slots=True)
class Storage:
    """Opened data of a node. The store may later be replaced by a snapshot."""

    disk: Disk
    """Holds the identity."""
    identity: Identity | None
    """None: this node has never been part of a cluster."""
    journal: Journal
    store: StoreInterface
    keyring: Keyring | None = None
    """None: the directory isn't encrypted."""

    def close(self) -> None:
        """Close journal and store; the store may have been replaced since it was opened."""
        self.store.close()
        self.journal.close()


def open_storage(config: Config, name: str, stack: ExitStack) -> Storage:
    """Open the data of node ``name``; ``stack`` closes it.

    Raises:
        IdentityError: the directory belongs to another node, or another process has locked it.
        ConfigError: the pass phrase is wrong or missing, or the directory isn't encrypted but should be.
        CorruptionError, DiskError: the journal or store can't be used.
    """
    if config.store.store == "memory":
        storage = _in_memory()
        stack.callback(storage.close)
        return storage
    directory = config.store.dir
    disk = RealDisk(directory)
    space_of(config).begin()
    stack.enter_context(DirectoryLock(directory))
    _keep_private(directory)
    identity = load_identity(disk, cluster_id=config.cluster.id, node=name)
    storage = open_directory(config, identity, stack)
    if identity is not None:
        storage.identity = pinned(identity, config.cluster.nodes)
        save_identity(disk, storage.identity)
    return storage


def space_of(config: Config) -> Space:
    """Return the free space of a node's directory."""
    store = config.store
    return Space(store.dir, min_free=store.min_free, segment_bytes=config.raft.journal_segment)


def _keep_private(directory: Path) -> None:
    """Remove the permissions of group and others from the store and its copies.

    Earlier releases let the group read them. The node's directory itself, and other files in it, keep the
    permissions that their owner gave them.

    Raises:
        DiskError: a change of permissions failed.
    """
    try:
        for name in PRIVATE:
            for path in (directory / name, *(directory / name).rglob("*")):
                if path.exists() and not path.is_symlink() and path.stat().st_mode & 0o077:
                    path.chmod(path.stat().st_mode & 0o700)
    except OSError as error:
        raise DiskError(f"{directory}: its files can't be made private: {error}") from error


def _in_memory() -> Storage:
    from node.store.volatile import VolatileStore

    journal = Journal.open(
        MemoryDisk(), segment_bytes=MEMORY_SEGMENT_BYTES, cache_bytes=MEMORY_CACHE_BYTES, relaxed=True
    )
    return Storage(MemoryDisk(), None, journal, VolatileStore())


def open_directory(config: Config, identity: Identity | None, stack: ExitStack) -> Storage:
    """Open the data in a directory that this process has locked; ``stack`` closes it.

    Raises:
        ConfigError: the pass phrase is wrong or missing, or the directory isn't encrypted but should be.
        IdentityError: the directory has an identity but no journal.
        CorruptionError, DiskError: the journal or store can't be used.
    """
    from node.store.snapshot import install_note_of
    from node.store.store import Store

    directory = config.store.dir
    keyring = _keyring(directory, config.store.encryption, empty=identity is None)
    if identity is not None:
        _check_journal(directory / "journal", identity.node)
    journal = Journal.open(
        RealDisk(directory / "journal"),
        segment_bytes=config.raft.journal_segment,
        relaxed=config.raft.durability == "relaxed",
        value_cipher=None if keyring is None else keyring.value_cipher("journal"),
    )
    try:
        if config.raft.durability == "relaxed":
            log.warning("%s", RELAXED)
        if journal.torn is not None:
            log.warning("%s", journal.torn)
        store = Store.open(
            directory / "store", value_cipher=None if keyring is None else keyring.value_cipher("store")
        )
    except BaseException:
        journal.close()
        raise
    storage = Storage(RealDisk(directory), identity, journal, store, keyring)
    stack.callback(storage.close)
    note = partial(install_note_of, directory / "store", store.applied)
    if identity is not None:
        _check_store(journal, store, note, directory, relaxed=config.raft.durability == "relaxed")
    if follow(journal, store, note):
        log.warning("the journal goes on behind the store's snapshot of entry %d", store.applied[0])
    return storage


def _check_journal(path: Path, node: str) -> None:
    """Refuse a node without a journal: with an empty one it would vote again in terms in which it has voted.

    The journal is created before the identity and always has a file, whenever the node was interrupted.
    """
    if not path.is_dir() or not any(segment_number(file.name) is not None for file in path.iterdir()):
        raise IdentityError(
            f"{path}: the journal of node {node} is gone: its votes, and the entries that it acknowledged. "
            f"If it is on a disk of its own, mount that. Else restore the whole directory as it was when "
            f"the node stopped, or replace the node: stanchion cluster replace {node} NEW"
        )


def _check_store(
    journal: Journal, store: StoreInterface, note: Note, directory: Path, *, relaxed: bool
) -> None:
    """Refuse a store and a journal that don't belong together: one is missing or an older copy.

    Raises:
        CorruptionError: they don't belong together.
    """
    problem = contradiction(journal, store, note, relaxed=relaxed)
    if problem is None:
        return
    raise CorruptionError(
        f"{directory}: {problem}: one of them is gone, or is an older copy. Restore the whole directory as "
        "it was when the node stopped, or replace the node: stanchion cluster replace"
    )


def _keyring(directory: Path, encryption: Encryption | None, *, empty: bool) -> Keyring | None:
    """Open the directory's keys. They are created only in a directory without other data."""
    from node.encryption.keyring import Keyring, refuse_encrypted

    if encryption is None:
        refuse_encrypted(directory)
        return None
    assert encryption.key is not None
    phrases = [encryption.key.reveal(), *(previous.key.reveal() for previous in encryption.previous_keys)]
    empty = empty and not any((directory / name).exists() for name in ("journal", "store"))
    keyring = Keyring.open(directory, phrases, cipher=encryption.cipher, empty=empty)
    if keyring.changed:
        log.info("%s: new data is encrypted with key %s", directory, keyring.key_ids[-1])
        # Copies for other nodes, or from them, may still be encrypted with a pass phrase that was removed.
        for copies in (directory / "snapshots", directory / "received"):
            try:
                if copies.exists():
                    shutil.rmtree(copies)
            except OSError as error:
                raise DiskError(f"{copies}: can't be removed: {error.strerror}") from error
    return keyring
