"""The identity in a node's directory: its place in the cluster, from its first start on.

The first membership of a node depends on how it started. A bootstrapping node has the members of its
configuration, which agree because they have met (`bootstrap`), or only itself, if others are to join
(`join`). An added node has the membership of its invitation. A node that goes on with recovered data has only
itself. This membership is stored in the directory, so that later changes of the configuration don't affect
it.
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
"""Size of a directory ID, which distinguishes a directory from all others."""

log = logging.getLogger("stanchion.membership")


def keep_name(path: str, node: str) -> None:
    """Store a node's generated name, so that it is the same at the next start.

    Raises:
        DiskError: the write failed.
    """
    file = Path(path)
    replace_file(RealDisk(file.parent), file.name, node.encode())


class Engine(Protocol):
    """The consensus engine, as used here."""

    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...
    @property
    def is_changing(self) -> bool: ...


class MembershipHistory(Protocol):
    """The part of the consensus engine that has earlier memberships."""

    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...
    def membership_at(self, index: int) -> Membership: ...


class Log(Protocol):
    """The log, as used here."""

    @property
    def first_index(self) -> int: ...
    @property
    def first_readable(self) -> int: ...


def members_at(engine: MembershipHistory, journal: Log, index: int) -> Membership:
    """Return the membership in force at entry ``index``.

    Raises:
        UnavailableError: the log doesn't reach back to this entry, and the members have changed since.
    """
    if engine.membership_index <= index:
        return engine.membership
    if index < max(journal.first_index, journal.first_readable - 1):
        raise UnavailableError(f"the members have changed since entry {index}, which the log no longer has")
    return engine.membership_at(index)


def is_untouched(engine: MembershipHistory) -> bool:
    """Return True if a single-node cluster has never had another member.

    Otherwise removed nodes of this cluster may still exist.
    """
    return engine.membership_index == 0 and len(engine.membership.members) == 1


def initial_voters(cluster: Cluster, node: str) -> Membership:
    """Return the membership with which node ``node`` bootstraps a cluster of this configuration."""
    if not cluster.bootstrap:
        return Membership.initial_voters(cluster.nodes)
    peer = cluster.nodes[node].peer
    address = "" if peer is None or peer.is_unspecified else str(peer)
    return Membership((Member(node, address, True, ""),), joinable=True)


def bootstrap_node(cluster_id: str, node: str, members: Membership) -> Identity:
    """Return the identity of a node that bootstraps a cluster, with others or alone."""
    return Identity(cluster_id, "", "", node, membership=pack_membership(0, members))


def invited(cluster_id: str, node: str, invitation: Invitation, directory: str = "") -> Identity:
    """Return the identity of an invited node; ``directory`` is the ID it joined with, if it joined by
    itself.
    """
    return Identity(
        cluster_id,
        invitation.cluster_uuid,
        "",
        node,
        directory=directory or secrets.token_hex(DIRECTORY_BYTES),
        membership=pack_membership(invitation.index, invitation.membership),
    )


def pinned(identity: Identity, configured: Iterable[str]) -> Identity:
    """Return the identity with its first membership.

    An identity of an earlier format has none: then the members of the current configuration are the first
    ones.
    """
    if identity.membership:
        return identity
    return replace(identity, membership=pack_membership(0, Membership.initial_voters(configured)))


def first_members(identity: Identity | None, configured: Membership) -> tuple[int, Membership]:
    """Return the membership that holds until the log has one, and the index of its entry.

    Raises:
        IdentityError: the identity is malformed.
    """
    if identity is None or not identity.membership:
        return 0, configured
    return unpack_membership(identity.membership)


def learnt(identity: Identity | None, cluster_id: str, node: str, state: State) -> Identity:
    """Return the identity completed with the cluster UUID and tag that the state has.

    Raises:
        IdentityError: the state has another cluster UUID.
    """
    before = identity or Identity(cluster_id, "", "", node)
    if before.directory and before.cluster_uuid != state.cluster_uuid:
        # The data is recovered, or the node joined a recovered cluster: the log has the new UUID later. An
        # added node is verified by the members it met, not by the start of their log.
        return before
    if before.cluster_uuid not in {"", state.cluster_uuid}:
        raise IdentityError(
            f"node {node}: the log in this directory has another cluster UUID than its identity.json"
        )
    return replace(before, cluster_uuid=state.cluster_uuid, cluster_tag=state.cluster_tag, recovered_from="")


def alone(node: str, directory: str) -> Membership:
    """Return the membership of a cluster that goes on with one node's data."""
    return Membership((Member(node, "", True, directory),))


def claim_log(journal: Journal, identity: Identity) -> None:
    """Make this node the only member of the cluster whose recovered data it has, if it isn't yet.

    Uncommitted entries at the end of the log then count as committed: this may be their only copy.

    Raises:
        DiskError: a write failed.
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
    """Refuse to start a node that was removed, according to its own log.

    Raises:
        IdentityError: the removal is committed.
    """
    removed = engine.membership_index > since and engine.membership.get(node) is None
    if removed and not engine.is_changing:
        raise IdentityError(
            f"node {node} was removed from this cluster, by entry {engine.membership_index}. To add it "
            f"again: empty its directory, then run: stanchion cluster add {node}"
        )
