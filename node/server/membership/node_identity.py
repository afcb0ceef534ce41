"""What a node's directory says of its place in the cluster, from its first start on.

A founder starts with the members of its configuration, who agree on them by having met (`bootstrap`), or with
itself alone, where others are to join by themselves (`entering`); who was invited or let in, with those that
it was told; and who goes on with recovered data, with itself alone. All of that is in the directory, so that
it doesn't change with the file.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from node.config.model import Cluster
from node.core.state import State
from node.errors import IdentityError, UnavailableError
from node.raft.disk import RealDisk, replace_file
from node.raft.identity import Identity
from node.raft.journal import Journal
from node.raft.membership import Member, Membership
from node.raft.ports import EntryType
from node.server.membership.bootstrap import Invitation, pack_membership, unpack_membership

DIRECTORY_BYTES = 11
"""Of the id that tells a directory from all others."""

log = logging.getLogger("stanchion.membership")


def keep_name(path: str, node: str) -> None:
    """Write down a node's name that was drawn: it must be the same at its next start.

    Raises:
        DiskError: the disk refused.
    """
    file = Path(path)
    replace_file(RealDisk(file.parent), file.name, node.encode())


class Engine(Protocol):
    """What is needed of the consensus engine."""

    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...
    @property
    def is_changing(self) -> bool: ...


class Remembering(Protocol):
    """The consensus engine, as far as it knows of earlier members."""

    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...
    def membership_at(self, index: int) -> Membership: ...


class Log(Protocol):
    """What is needed of the log."""

    @property
    def first_index(self) -> int: ...
    @property
    def first_readable(self) -> int: ...


def members_at(engine: Remembering, journal: Log, index: int) -> Membership:
    """Who belonged to the cluster at entry ``index``.

    Raises:
        UnavailableError: the log doesn't reach back to it, and the members have changed since.
    """
    if engine.membership_index <= index:
        return engine.membership
    if index < max(journal.first_index, journal.first_readable - 1):
        raise UnavailableError(f"the members have changed since entry {index}, which is gone")
    return engine.membership_at(index)


def is_untouched(engine: Remembering) -> bool:
    """Nobody has joined or left the cluster that its only node has founded. Later there may be nodes about
    that were removed; of one that is untouched nobody can have been.
    """
    return engine.membership_index == 0 and len(engine.membership.members) == 1


def initial_voters(cluster: Cluster, node: str) -> Membership:
    """Who founds a cluster that node ``node`` is configured for."""
    if not cluster.bootstrap:
        return Membership.initial_voters(cluster.nodes)
    peer = cluster.nodes[node].peer
    known = "" if peer is None or peer.is_unspecified else str(peer)
    return Membership((Member(node, known, True, ""),), joinable=True)


def bootstrap_node(cluster_id: str, node: str, members: Membership) -> Identity:
    """Of a node that founds a cluster together with others, or alone."""
    return Identity(cluster_id, "", "", node, membership=pack_membership(0, members))


def invited(cluster_id: str, node: str, invitation: Invitation, directory: str = "") -> Identity:
    """Of a node that the cluster has added; with the ``directory`` it was let in with, if it has asked."""
    return Identity(
        cluster_id,
        invitation.cluster_uuid,
        "",
        node,
        directory=directory or secrets.token_hex(DIRECTORY_BYTES),
        membership=pack_membership(invitation.index, invitation.membership),
    )


def pinned(identity: Identity, configured: Iterable[str]) -> Identity:
    """The identity with its founders: one of an earlier format doesn't name them, and so they are whoever is
    in the file now. From then on it names them.
    """
    if identity.membership:
        return identity
    return replace(identity, membership=pack_membership(0, Membership.initial_voters(configured)))


def first_members(identity: Identity | None, configured: Membership) -> tuple[int, Membership]:
    """Who belongs to the cluster as long as the log says nothing, and since which entry.

    Raises:
        IdentityError: the identity says something that can't be.
    """
    if identity is None or not identity.membership:
        return 0, configured
    return unpack_membership(identity.membership)


def learnt(identity: Identity | None, cluster_id: str, node: str, state: State) -> Identity:
    """The identity, now that the state says what was drawn for the cluster.

    Raises:
        IdentityError: the state is that of another founding.
    """
    before = identity or Identity(cluster_id, "", "", node)
    if before.directory and before.cluster_uuid != state.cluster_uuid:
        # Recovered, or let into what was recovered: that is further on in the log. Who was let in is
        # known by the members it has met, and not by how their log begins.
        return before
    if before.cluster_uuid not in {"", state.cluster_uuid}:
        raise IdentityError(f"node {node}: the log in this directory belongs to another founding")
    return replace(before, cluster_uuid=state.cluster_uuid, cluster_tag=state.cluster_tag, recovered_from="")


def alone(node: str, directory: str) -> Membership:
    """Of a cluster that goes on with one node's data."""
    return Membership((Member(node, "", True, directory),))


def claim_log(journal: Journal, identity: Identity) -> None:
    """Make this node the only member of the cluster whose recovered data it has, if it isn't yet.

    What the log holds beyond what was committed then counts as committed: it may be all there is of it.

    Raises:
        DiskError: the disk refused.
    """
    if not identity.recovered_from:
        return
    placed = journal.membership
    if placed is not None:
        member = Membership.decode(placed[1]).get(identity.node)
        if member is not None and member.directory == identity.directory:
            return
    index = journal.last_index + 1
    term = max(journal.term, journal.term_at(journal.last_index) or 0)
    membership = alone(identity.node, identity.directory)
    journal.append(index, term, bytes([EntryType.MEMBERSHIP]) + membership.encode())
    flush = journal.begin_flush()
    assert flush is not None
    flush.run()
    journal.end_flush(flush)
    log.warning("entry %d makes this node the only member of cluster %s", index, identity.cluster_id)


def refuse_removed(engine: Engine, node: str, since: int) -> None:
    """Not to be started is a node of which its own log says, for good, that it was removed.

    Raises:
        IdentityError: that is so.
    """
    removed = engine.membership_index > since and engine.membership.get(node) is None
    if removed and not engine.is_changing:
        raise IdentityError(
            f"node {node} was removed from this cluster, by entry {engine.membership_index}. To let it in "
            f"again: empty its directory, and stanchion cluster add {node}"
        )
