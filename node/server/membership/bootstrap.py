"""Bootstrap of a cluster, and the membership part of the peer handshake (PS-17).

A node that lost its directory must not take part as if nothing had happened: it would vote twice
and acknowledge entries that it no longer has. So an empty node takes part in two cases only:

* *Bootstrap*: every configured member has sent a hello and is empty too.
* *Invitation*: the hello of a member says that the cluster has added this node's name as a learner. A learner
  has not voted, so it can't have forgotten a vote.

If other members have state and the node is not invited, it refuses to start: it is either new or has lost its
disk, and an operator must decide which.

Two nodes may detect the bootstrap at different moments. So the hello of an admitted node lists the empty
members that it met, with their nonces. A node that finds itself in this list, with the nonce of its current
process, takes part in the bootstrap too.

An invited node generates an ID for its directory and sends it in every hello. When the node becomes a voter,
the log names that ID. From then on each member that has applied this entry refuses the name with another
directory. So a voter that lost its disk can't come back through a member that lags behind and would invite
it. A member that lags behind may itself be wrong about a directory, if the name was removed and added again
since. So it accepts a peer that sends a later membership which contains the peer. This is safe, because the
engine counts votes and acknowledgements by name and directory.

Every hello carries the sender's membership in force, so that an invited node learns it from any member. The
invitation itself is the last membership that the sender has seen committed. An uncommitted entry may be
undone, and then the joining node would apply later log entries about its name to itself by mistake.

A node that was removed while it was down is refused by every member. The refusal carries the committed
membership that shows the removal: see `explanation` and `statement`.

A plain object without I/O.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.core.versions import (
    MACHINE_VERSION,
)
from node.errors import IdentityError, RemoteProtocolError
from node.protocol.peer import shown
from node.raft.identity import Identity
from node.raft.links import CollisionError
from node.raft.membership import Membership

WIRE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Invitation:
    """The cluster has added this node, with an empty directory, as a learner."""

    cluster_uuid: str
    index: int
    """Index of the membership's entry. Earlier log entries about this name are about other nodes."""
    membership: Membership
    """The membership as the inviting member has it. This node is a learner in it."""


def pack_membership(index: int, membership: Membership) -> str:
    """Encode an entry index and a membership for `Identity.membership`."""
    return f"{index}:{membership.encode().hex()}"


def unpack_membership(text: str) -> tuple[int, Membership]:
    """Decode what `pack_membership` has encoded.

    Raises:
        IdentityError: the text is malformed.
    """
    index, _, encoded = text.partition(":")
    try:
        return int(index), Membership.decode(bytes.fromhex(encoded))
    except (ValueError, RemoteProtocolError) as error:
        raise IdentityError(f"the identity of this directory has no valid membership: {error}") from error


class Bootstrap:
    """Builds this node's hellos and checks those of its peers.

    Args:
        node: this node's name.
        cluster_id: as configured.
        initial_voters: names of all configured members, this one included.
        identity: of the directory; None if it is empty.
        client_address: the address that clients are given for this node.
        admitted: called once, when this node may take part; never called if ``identity`` is given. If
            ``invitation`` is set at that time, the node was invited, otherwise it takes part in a bootstrap.
        alone: this node bootstraps the cluster alone, and others join it. It waits for no other node. But if
            another node has the state of this cluster already, this node has lost its directory.
    """

    def __init__(
        self,
        node: str,
        cluster_id: str,
        initial_voters: Sequence[str],
        identity: Identity | None,
        client_address: str,
        admitted: Callable[[], None],
        *,
        alone: bool = False,
    ) -> None:
        self._node = node
        self._cluster_id = cluster_id
        self._initial_voters = frozenset(initial_voters)
        self._identity = identity
        self._empty = identity is None
        self._client_address = client_address
        self._admitted = admitted
        self._alone = alone
        self._nonce = secrets.token_hex(16)
        self._met: dict[str, str] = {}
        self._membership: Membership | None = None
        self._index = 0
        self._settled: tuple[int, Membership] | None = None
        self._leaving: frozenset[str] = frozenset()
        self._directories: dict[str, str] = {}
        self._ahead: dict[str, int] = {}
        """Peers accepted because they sent a later membership than ours, and the index of its entry."""
        self.newer: Membership | None = None
        """A membership later than the one in force here, from the hello of a member with a longer log."""
        self._newer_index = 0
        self.invitation: Invitation | None = None
        """Set when the cluster has added this empty node."""
        self.refused: IdentityError | None = None
        """Why this node must not start; None while there is no reason."""
        self.client_addresses: dict[str, str] = {}
        """The client addresses of the other nodes, from their hellos."""

    def start(self) -> None:
        """Admit this node at once if it has no other node to wait for."""
        self._check()

    def identify(self, identity: Identity) -> None:
        """Set this node's identity, after the cluster was bootstrapped."""
        self._identity = identity

    def set_membership(self, membership: Membership, index: int, leaving: Collection[str] = ()) -> list[str]:
        """Set the membership in force, since entry ``index``, and the removed nodes that are still linked.

        Returns the linked peers whose name now belongs to another directory: the caller drops their links.
        """
        self._membership, self._index = membership, index
        self._leaving = frozenset(leaving)
        if index >= self._newer_index:
            self.newer = None
        known = self.linked
        for kept in (self.client_addresses, self._directories, self._ahead):
            for peer in kept.keys() - known:
                del kept[peer]
        return [
            peer
            for peer, directory in self._directories.items()
            if self._has_other_directory(peer, directory) and self._ahead.get(peer, 0) <= index
        ]

    def settled(self, membership: Membership, index: int) -> None:
        """Set the committed membership, and the index of its entry."""
        self._settled = index, membership

    @property
    def settled_index(self) -> int:
        """Index of the entry of the last committed membership; 0: the bootstrap membership."""
        return 0 if self._settled is None else self._settled[0]

    @property
    def linked(self) -> frozenset[str]:
        """Names of linked peers: members, removed nodes still linked, and members of a later membership."""
        memberships = [membership for membership in (self._membership, self.newer) if membership is not None]
        names = {name for membership in memberships for name in membership.names}
        return self._leaving.union(names) - {self._node}

    def directory(self, peer: str) -> str:
        """Return the directory ID of a member's last hello; empty if it sent none."""
        return self._directories.get(peer, "")

    def hello(self, _link: str) -> dict[str, Any]:
        """Return this node's fields of the hello, the same on every link."""
        settled_since, settled = (0, b"") if self._settled is None else _packed(self._settled)
        return {
            "wire": WIRE_VERSION,
            "machine": MACHINE_VERSION,
            "cluster": self._cluster_id,
            "founding": self._identity.cluster_uuid if self._identity else "",
            "empty": self._empty,
            "nonce": self._nonce,
            "met": dict(self._met),
            "client": self._client_address,
            "directory": self._identity.directory if self._identity else "",
            "members": b"" if self._empty or self._membership is None else self._membership.encode(),
            "members_since": self._index,
            "settled": b"" if self._empty else settled,
            "settled_since": settled_since,
        }

    def explanation(self, hello: Mapping[str, Any]) -> dict[str, Any]:
        """Return the explanation in a refusal: the committed membership, if the cluster UUIDs are equal."""
        if self._alone and self._empty and hello.get("cluster") == self._cluster_id and hello.get("founding"):
            self._refuse(str(hello.get("node")))
        bootstrap = self._identity.cluster_uuid if self._identity is not None else ""
        if self._settled is None or not bootstrap or hello.get("founding") != bootstrap:
            return {}
        since, members = _packed(self._settled)
        return {
            "cluster": self._cluster_id,
            "founding": bootstrap,
            "settled": members,
            "settled_since": since,
        }

    def statement(self, refusal: Mapping[str, Any]) -> tuple[int, Membership] | None:
        """Return the committed membership in a peer's refusal and the index of its entry; None if there is
        none.

        A refusal of another cluster counts as none.

        Raises:
            RemoteProtocolError: the membership is malformed.
        """
        ours = self._identity.cluster_uuid if self._identity is not None else ""
        if not ours or (refusal.get("cluster"), refusal.get("founding")) != (self._cluster_id, ours):
            return None
        return _membership_in(refusal, "settled")

    def check_hello(self, _link: str, hello: Mapping[str, Any]) -> None:
        """Check a member's hello, and record what it says.

        Raises:
            IdentityError: the peer belongs to another cluster or has another cluster UUID, speaks another
                version, is not a member, or has lost its directory.
            RemoteProtocolError: a field is malformed.
            CollisionError: the check must be repeated a little later.
        """
        peer = str(hello.get("node"))
        if hello.get("wire") != WIRE_VERSION:
            raise IdentityError(
                f"{peer} speaks wire version {shown(hello.get('wire'))}, this node {WIRE_VERSION}"
            )
        if hello.get("cluster") != self._cluster_id:
            raise IdentityError(
                f"{peer} belongs to cluster {shown(hello.get('cluster'))}, this node to {self._cluster_id!r}"
            )
        self._check_bootstrap(peer, hello)
        if not self._empty:
            self._check_member(peer, hello)
        self._record(peer, hello)

    def _check_bootstrap(self, peer: str, hello: Mapping[str, Any]) -> None:
        """Refuse a peer with another cluster UUID.

        Two kinds of node have no cluster UUID: empty nodes, and bootstrapping nodes that crashed before they
        applied it. Both are accepted, or they could never learn it. An added node has had the cluster UUID
        since it was invited.
        """
        bootstrap, empty = hello.get("founding"), hello.get("empty")
        if not isinstance(bootstrap, str) or not isinstance(empty, bool):
            raise RemoteProtocolError(
                f'{peer}: malformed "founding" or "empty" in its hello: {shown(bootstrap)}, {shown(empty)}'
            )
        ours = self._identity.cluster_uuid if self._identity else ""
        if not ours or bootstrap == ours or (empty and not bootstrap):
            return
        member = None if self._membership is None else self._membership.get(peer)
        is_bootstrapping = not hello.get("directory") and (
            member is None or (member.voter and not member.directory)
        )
        if bootstrap or not is_bootstrapping:
            raise IdentityError(
                f"{peer} belongs to another cluster named {self._cluster_id!r}: its cluster UUID differs"
            )

    def _check_member(self, peer: str, hello: Mapping[str, Any]) -> None:
        if self._membership is None:
            return  # the log isn't read yet
        self._record_newer(hello)
        if peer not in self.linked:
            raise IdentityError(
                f"{peer} is not a member of cluster {self._cluster_id!r}: it was never added, or was "
                f"removed. To add it: stanchion cluster add {peer}"
            )
        directory, announced = hello.get("directory"), _membership_in(hello)
        self._ahead.pop(peer, None)
        if announced is not None and announced[0] > self._index and _contains(announced[1], peer, directory):
            # Also if our log doesn't contradict it yet: later entries may be about another node of this name.
            self._ahead[peer] = announced[0]
        elif hello.get("empty") is not True and self._has_other_directory(peer, directory):
            raise IdentityError(
                f"{peer} has another directory than the one it was added with: it has lost what it "
                f"acknowledged. Stop it, then run: stanchion cluster replace {peer} {peer}"
            )

    def _record_newer(self, hello: Mapping[str, Any]) -> None:
        """Record a membership later than ours.

        Without it, a node that was down while members changed would refuse the leader that has the new
        entries.
        """
        announced = _membership_in(hello)
        if announced is not None and announced[0] > max(self._index, self._newer_index):
            self._newer_index, self.newer = announced

    def _has_other_directory(self, peer: str, directory: object) -> bool:
        """Return True if the membership in force names another directory for ``peer``."""
        member = None if self._membership is None else self._membership.get(peer)
        has_directory = member is not None and (member.voter or bool(member.directory))
        return has_directory and member is not None and member.directory != directory

    def _record(self, peer: str, hello: Mapping[str, Any]) -> None:
        client, nonce, met, directory = (hello.get(key) for key in ("client", "nonce", "met", "directory"))
        if isinstance(client, str) and client:
            self.client_addresses[peer] = client
        if hello.get("empty") is not True:
            self._directories[peer] = directory if isinstance(directory, str) else ""
        if not self._empty or self.invitation is not None:
            return
        took_part = isinstance(met, Mapping) and met.get(self._node) == self._nonce
        if hello.get("empty") is True or took_part:
            self._met[peer] = nonce if isinstance(nonce, str) else ""
            self._check()
        elif (invitation := self._invitation(hello, "settled")) is not None:
            self.invitation = invitation
            self._admitted()
        elif self._invitation(hello, "members") is not None:
            raise CollisionError(f"{peer} has not yet seen the entry committed that adds {self._node}")
        else:
            self._refuse(peer)

    def _refuse(self, peer: str) -> None:
        """Refuse to start, because ``peer`` has state of the cluster that this node would have too."""
        self.refused = IdentityError(
            f"node {self._node} has an empty directory, but {peer} has the state of cluster "
            f"{self._cluster_id!r}. If {self._node} lost its directory, put it back or let the cluster "
            f"replace it: stanchion cluster replace {self._node} NEW, where NEW may be {self._node}. If "
            f"this is meant to be a new cluster, empty the other nodes' directories too."
        )

    def _invitation(self, hello: Mapping[str, Any], which: str) -> Invitation | None:
        """Return the invitation in the hello of a node with state; None if it has not added this node.

        A node that joins by itself is added together with its directory ID, which reserves the name.

        Raises:
            RemoteProtocolError: the membership is malformed.
        """
        bootstrap, announced = hello.get("founding"), _membership_in(hello, which)
        if announced is None or not (isinstance(bootstrap, str) and bootstrap):
            return None
        member = announced[1].get(self._node)
        if member is None or member.voter or member.directory:
            return None
        return Invitation(bootstrap, *announced)

    def _check(self) -> None:
        if self._empty and self._met.keys() >= self._initial_voters - {self._node}:
            self._empty = False
            self._admitted()


def _packed(membership: tuple[int, Membership]) -> tuple[int, bytes]:
    return membership[0], membership[1].encode()


def _membership_in(hello: Mapping[str, Any], which: str = "members") -> tuple[int, Membership] | None:
    """Return a membership in a hello and the index of its entry; None if there is none.

    Raises:
        RemoteProtocolError: the membership is malformed.
    """
    encoded, index = hello.get(which), hello.get(f"{which}_since")
    if isinstance(encoded, bytes) and encoded and type(index) is int and index >= 0:
        return index, Membership.decode(encoded)
    return None


def _contains(membership: Membership, peer: str, directory: object) -> bool:
    member = membership.get(peer)
    return member is not None and (not member.voter or member.directory == directory)
