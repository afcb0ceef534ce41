"""One node's data as the beginning of another cluster, when a majority of its own is lost for good.

Nothing can be repaired there: what the lost nodes alone had acknowledged is gone. So the rest becomes another
cluster, by another name and founding id, and no node of the old one can take it for its own, nor this
one theirs. One step makes it so, the identity of the directory: before it everything is as it was, after it
the next start of the node does the rest (`joining.claim_log`, and the command `RecoverCluster` in the log).

The node is stopped: its directory is locked while this runs. Blocks on the disk.
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
    """What there is."""

    node: str
    old_cluster: str
    new_cluster: str
    index: int
    """The last entry of the log."""
    applied: int
    """The last entry in the store; what follows in the log is applied at the next start."""
    timestamp_ns: int
    """Unix time of the last entry that has one; 0 if none has."""


def recover(config: Config, name: str, *, pretend: bool = False) -> Recovered:
    """Make what the directory of ``name`` holds the beginning of cluster ``config.cluster.id``.

    Args:
        config: the new cluster's, for this node.
        name: the node; it keeps its name.
        pretend: only look, as far as opening a directory is looking: the end of a write that a power cut
            tore is cut off, and a snapshot half installed becomes whole, as at a start.

    Raises:
        IdentityError: a process uses the directory, or it is another node's, or nobody's.
        RefusedError: the new cluster has the old one's id.
        ConfigError: it is encrypted with another pass phrase.
        CorruptionError, DiskError: its journal or store can't be used.
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
            raise IdentityError(f"{directory}: this is node {identity.node}'s, and it keeps its name")
        if identity.cluster_id == config.cluster.id and not pretend:
            raise RefusedError(
                f"{directory} holds data of cluster {identity.cluster_id}, and so says the file: the new "
                f"cluster needs another id, or nodes of the old one could be taken for its own"
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
    """Of the last batch in the log; 0 if it holds none."""
    for index in range(journal.last_index, journal.first_readable - 1, -1):
        payload = journal.payload_at(index)
        if payload[:1] == bytes([EntryType.BATCH]):
            return decode_entry(payload[1:]).timestamp_ns
    return 0
