"""Makes one node's data the beginning of another cluster, after a majority of its own cluster was lost for
good.

The old cluster can't be repaired: entries that only the lost nodes had acknowledged are gone. So the
remaining data becomes another cluster, with another name and cluster UUID. Nodes of the old and the new
cluster therefore refuse each other. One atomic step changes the cluster: writing the new identity of the
directory. Before this step nothing has changed; after it, the next start of the node does the rest
(`node_identity.claim_log`, and the command `RecoverCluster` in the log).

The node must be stopped: its directory is locked meanwhile. Blocks on the disk.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass

from node.config.model import Config
from node.core.entries import (
    decode_entry,
)
from node.core.records import restore
from node.errors import IdentityError, RefusedError
from node.raft.disk import RealDisk
from node.raft.identity import DirectoryLock, read_identity, recover_identity
from node.raft.journal import Journal
from node.raft.ports import EntryType
from node.server.disk.storage import open_directory
from node.server.membership.bootstrap import pack_membership
from node.server.membership.node_identity import alone, claim_log
from node.server.system import System


@dataclass(frozen=True, slots=True)
class Recovered:
    """The recovered data: its node, clusters and last entries."""

    node: str
    old_cluster: str
    new_cluster: str
    index: int
    """The last entry of the log."""
    applied: int
    """The last entry in the store; later entries of the log are applied at the next start."""
    timestamp_ns: int
    """Unix time of the last entry that has a time; 0 if none has."""


def recover(config: Config, name: str, *, pretend: bool = False) -> Recovered:
    """Make the data in the directory of ``name`` the beginning of cluster ``config.cluster.id``.

    Args:
        config: the new cluster's configuration, for this node.
        name: the node; it keeps its name.
        pretend: change nothing, except what opening a directory changes, as at every start: a write that was
            torn by a power failure is truncated, and a half installed snapshot is completed.

    Raises:
        IdentityError: a process uses the directory, or it belongs to another node or to none.
        RefusedError: the new cluster has the ID of the old one.
        ConfigError: the directory is encrypted with another pass phrase.
        CorruptionError, DiskError: the journal or store can't be used.
    """
    directory = config.store.dir
    if not directory.is_dir():
        raise IdentityError(f"{directory}: there is no such directory")
    with ExitStack() as stack:
        stack.enter_context(DirectoryLock(directory))
        disk = RealDisk(directory)
        identity = read_identity(disk)
        if identity is None or not identity.cluster_uuid:
            raise IdentityError(f"{directory}: there is no cluster's data in this directory")
        if identity.node != name:
            raise IdentityError(
                f"{directory}: this is data of node {identity.node}, which must keep its name"
            )
        if identity.cluster_id == config.cluster.id and not pretend:
            raise RefusedError(
                f"{directory} holds data of cluster {identity.cluster_id}, which is also the ID in the file: "
                f"the new cluster needs another ID, or nodes of the old one could be taken for its own"
            )
        storage = open_directory(config, identity, stack)
        state = restore(storage.store.records())
        stamp = _last_timestamp(storage.journal) or state.timestamp_ns
        recovered = Recovered(
            name,
            identity.cluster_id,
            config.cluster.id,
            storage.journal.last_index,
            storage.store.applied[0],
            stamp,
        )
        if not pretend:
            directory_id = secrets.token_hex(11)
            since = storage.journal.last_index + 1
            new = recover_identity(
                disk,
                config.cluster.id,
                System().nuid(),
                directory_id,
                pack_membership(since, alone(name, directory_id)),
            )
            claim_log(storage.journal, new)
        return recovered


def _last_timestamp(journal: Journal) -> int:
    """Return the time of the last batch in the log; 0 if it has none."""
    for index in range(journal.last_index, journal.first_readable - 1, -1):
        payload = journal.payload_at(index)
        if payload[:1] == bytes([EntryType.BATCH]):
            return decode_entry(payload[1:]).timestamp_ns
    return 0
