"""What a node keeps, and where: its identity, journal and store, in a directory or nowhere.

A node in memory has all of them too, so that everything else is the same for it; it starts empty each
time, as the Go server does with its memory store.
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
"""Of a journal in memory: it forgets by whole segments, and shall forget soon."""
MEMORY_CACHE_BYTES = 256 * 1024
"""Payloads such a journal holds twice."""


PRIVATE = ("store", "snapshots", "received")
"""Directories whose files were made readable for the group once."""

RELAXED = (
    "raft.durability is relaxed: publishes are acknowledged before they are on any disk. If machines lose "
    "their power or their systems crash, acknowledged messages may be lost, and nodes may have to be replaced"
)


@dataclass(slots=True)
class Storage:
    """Opened and read; the store may be replaced by a snapshot's."""

    disk: Disk
    """Where the identity is kept."""
    identity: Identity | None
    """None: this node has never been part of a cluster."""
    journal: Journal
    store: StoreInterface
    keyring: Keyring | None = None
    """None: the directory isn't encrypted."""

    def close(self) -> None:
        """Close what is open now: the store is perhaps not the one that was opened."""
        self.store.close()
        self.journal.close()


def open_storage(config: Config, name: str, stack: ExitStack) -> Storage:
    """Open what node ``name`` keeps; ``stack`` closes it.

    Raises:
        IdentityError: the directory belongs to another node, or another process holds it.
        ConfigError: it is encrypted with another pass phrase, or without one, or isn't and should be.
        CorruptionError, DiskError: its journal or store can't be used.
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
    """The disk of a node's directory."""
    store = config.store
    return Space(store.dir, min_free=store.min_free, segment_bytes=config.raft.journal_segment)


def _keep_private(directory: Path) -> None:
    """Take from others what they may do with the store and its copies: earlier releases let the group read
    them.

    The node's directory itself, and whatever else lies there, is as its owner made it.

    Raises:
        DiskError: the disk refused.
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
    """Open what is in a directory that this process has locked; ``stack`` closes it.

    Raises:
        ConfigError: it is encrypted with another pass phrase, or without one, or isn't and should be.
        IdentityError: it is a node's, and the journal is gone.
        CorruptionError, DiskError: its journal or store can't be used.
    """
    from node.store.snapshot import heartbeat_payload_of
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
    note = partial(heartbeat_payload_of, directory / "store", store.applied)
    if identity is not None:
        _check_store(journal, store, note, directory, relaxed=config.raft.durability == "relaxed")
    if follow(journal, store, note):
        log.warning("the journal goes on behind the store's snapshot of entry %d", store.applied[0])
    return storage


def _check_journal(path: Path, node: str) -> None:
    """Refuse a node whose journal is gone: an empty one would vote again in terms it has voted in.

    A journal is made before the identity is, and always has a file: whatever else was interrupted.
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
    """Refuse a store and a journal that don't belong together: one is gone, or is an older copy.

    Raises:
        CorruptionError: they don't.
    """
    problem = contradiction(journal, store, note, relaxed=relaxed)
    if problem is None:
        return
    raise CorruptionError(
        f"{directory}: {problem}: one of them is gone, or is an older copy. Restore the whole directory as "
        "it was when the node stopped, or replace the node: stanchion cluster replace"
    )


def _keyring(directory: Path, encryption: Encryption | None, *, empty: bool) -> Keyring | None:
    """The directory's keys: made before there is anything else in it, and never for data that is there."""
    from node.encryption.keyring import Keyring, refuse_encrypted

    if encryption is None:
        refuse_encrypted(directory)
        return None
    assert encryption.key is not None
    phrases = [encryption.key.reveal(), *(previous.key.reveal() for previous in encryption.previous_keys)]
    empty = empty and not any((directory / name).exists() for name in ("journal", "store"))
    keyring = Keyring.open(directory, phrases, cipher=encryption.cipher, empty=empty)
    if keyring.changed:
        log.info("%s: what is written from now on is sealed with key %s", directory, keyring.key_ids[-1])
        # Copies for other nodes, or from them, still open with pass phrases that may be no longer ours.
        for copies in (directory / "snapshots", directory / "received"):
            try:
                if copies.exists():
                    shutil.rmtree(copies)
            except OSError as error:
                raise DiskError(f"{copies}: can't be removed: {error.strerror}") from error
    return keyring
