"""Who may form a cluster, and who belongs to it (PS-17; architecture, "Founding").

A node that lost its directory must not take part as if nothing had happened: it would vote twice
and acknowledge what it no longer has. So an empty node takes part in one of two cases. In a *founding*:
when every configured member has said hello and is empty too. Or *invited*: when a member says in its hello
that the cluster has added this name and it doesn't vote yet, so it has promised nothing that it could have
forgotten. If others have state and it is not invited, it refuses to start, for it is either new or has lost
its disk, and an operator must say which.

Two nodes may notice the founding at different moments. A node that was admitted therefore says in
its hello whom it met as empty; who finds itself there, with the nonce of this very process, is part
of the founding too.

Who was invited draws an id for its directory and says it in every hello. When it becomes a voter the
log says with which directory, and from then on whoever knows that refuses the name with another one. So a
voter that lost its disk can't come back even by way of a node that lags behind and would invite it.
A node that lags behind may itself be wrong about a directory, for the name left since and was added
again: who names a later membership, with a place of its own in it, is let in. Nothing is risked by
that, for the engine counts votes and acknowledgements by name and directory.

Every hello carries the sender's membership: it tells who is invited where the others are. The invitation
itself is the last membership that the sender knows to be committed. An entry that isn't may be undone, and
the newcomer would take what the log then says of its name for somebody else's past.

Who was away when it was removed is refused by everybody. It is told so by the same committed membership, in
the refusal: `explanation`, `statement`.

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
    """A cluster has added this node."""

    cluster_uuid: str
    index: int
    """Of the entry that brought the membership: what the log says before it was about others of this name."""
    membership: Membership
    """As the member that invites knows it. This node is a learner in it."""


def pack_membership(index: int, membership: Membership) -> str:
    """What `Identity.membership` holds."""
    return f"{index}:{membership.encode().hex()}"


def unpack_membership(text: str) -> tuple[int, Membership]:
    """The same, read back.

    Raises:
        IdentityError: it is none.
    """
    index, _, encoded = text.partition(":")
    try:
        return int(index), Membership.decode(bytes.fromhex(encoded))
    except (ValueError, RemoteProtocolError) as error:
        raise IdentityError(f"the identity of this directory names no members: {error}") from error


class Bootstrap:
    """This node's part in hellos.

    Args:
        node: this node's name.
        cluster_id: as configured.
        initial_voters: names of all configured members, this one included.
        identity: of the directory; None if it is empty.
        client_address: what clients are told to connect to.
        admitted: told once, when this node may take part; not if ``identity`` is given. If there is an
            ``invitation`` then, that is how.
        alone: this node founds the cluster alone, and others join it. There is nobody it has to meet first;
            but if somebody has the state of this cluster already, it has lost its directory.
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
        """Who was let in for a membership later than ours, and the index of its entry."""
        self.newer: Membership | None = None
        """A membership later than the one in force here, as a member says who has more of the log."""
        self._newer_index = 0
        self.invitation: Invitation | None = None
        """The cluster has added this node, which is empty."""
        self.refused: IdentityError | None = None
        """Why this node must not start, once that is known."""
        self.client_addresses: dict[str, str] = {}
        """Where the other nodes take clients, as they said."""

    def start(self) -> None:
        """Look whether there is anybody to wait for."""
        self._check()

    def identify(self, identity: Identity) -> None:
        """The cluster was founded, and this is our identity in it."""
        self._identity = identity

    def members_are(self, membership: Membership, index: int, leaving: Collection[str] = ()) -> list[str]:
        """Another membership is in force, since entry ``index``; who is ``leaving`` may still be told so.

        Returns the peers who are linked under a name that is another's now: their links are to be dropped.
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
            if self._is_another(peer, directory) and self._ahead.get(peer, 0) <= index
        ]

    def settled(self, membership: Membership, index: int) -> None:
        """A membership is committed, and entry ``index`` has brought it."""
        self._settled = index, membership

    @property
    def settled_index(self) -> int:
        """Of the entry that brought the last membership known to be committed; 0: the founders'."""
        return 0 if self._settled is None else self._settled[0]

    @property
    def linked(self) -> frozenset[str]:
        """Whom this node talks to: members, who is leaving, and who has become a member as others say."""
        memberships = [membership for membership in (self._membership, self.newer) if membership is not None]
        names = {name for membership in memberships for name in membership.names}
        return self._leaving.union(names) - {self._node}

    def directory(self, peer: str) -> str:
        """The id of a member's directory, as it said last; empty if it has none, or was never heard."""
        return self._directories.get(peer, "")

    def hello(self, _link: str) -> dict[str, Any]:
        """Our part of the hello on any link."""
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
        """What to tell a node with this hello, which is refused: that it was removed, if it was."""
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
        """The members of this very cluster, as who refuses this node knows them to be committed, and since
        which entry; None if it says nothing of them.

        Raises:
            RemoteProtocolError: something else than a membership.
        """
        ours = self._identity.cluster_uuid if self._identity is not None else ""
        if not ours or (refusal.get("cluster"), refusal.get("founding")) != (self._cluster_id, ours):
            return None
        return _notified(refusal, "settled")

    def check_hello(self, _link: str, hello: Mapping[str, Any]) -> None:
        """Look at a member's hello.

        Raises:
            IdentityError: it belongs to another cluster or founding, speaks another protocol, is no member,
                or has lost its directory.
            RemoteProtocolError: it says something that can't be.
            CollisionError: it is to be heard again a little later.
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
        self._note(peer, hello)

    def _check_bootstrap(self, peer: str, hello: Mapping[str, Any]) -> None:
        """Refuse who belongs to another founding.

        To none that it could name belongs who is empty; and a founder that was stopped before it had applied
        what was drawn for the cluster. It must be let in, or it could never learn it. Who was added has
        known the founding from its first day on.
        """
        bootstrap, empty = hello.get("founding"), hello.get("empty")
        if not isinstance(bootstrap, str) or not isinstance(empty, bool):
            raise RemoteProtocolError(
                f"{peer}: a hello that belongs nowhere: {shown(bootstrap)}, {shown(empty)}"
            )
        ours = self._identity.cluster_uuid if self._identity else ""
        if not ours or bootstrap == ours or (empty and not bootstrap):
            return
        member = None if self._membership is None else self._membership.get(peer)
        bootstrap_node = not hello.get("directory") and (
            member is None or (member.voter and not member.directory)
        )
        if bootstrap or not bootstrap_node:
            raise IdentityError(f"{peer} belongs to another founding of cluster {self._cluster_id!r}")

    def _check_member(self, peer: str, hello: Mapping[str, Any]) -> None:
        if self._membership is None:
            return  # its log isn't read yet
        self._learn(hello)
        if peer not in self.linked:
            raise IdentityError(
                f"{peer} is no member of cluster {self._cluster_id!r}: it was never added, or was removed. "
                f"To let it in: stanchion cluster add {peer}"
            )
        directory, told = hello.get("directory"), _notified(hello)
        self._ahead.pop(peer, None)
        if told is not None and told[0] > self._index and _belongs(told[1], peer, directory):
            # Also if the log has nothing against it yet: it may still tell of others of this name.
            self._ahead[peer] = told[0]
        elif hello.get("empty") is not True and self._is_another(peer, directory):
            raise IdentityError(
                f"{peer} comes with another directory than it was added with: it has lost what it "
                f"acknowledged. Stop it, and: stanchion cluster replace {peer} {peer}"
            )

    def _learn(self, hello: Mapping[str, Any]) -> None:
        """Take note of a membership later than ours: without it a node that was away when members changed
        would refuse the very leader that could tell it.
        """
        told = _notified(hello)
        if told is not None and told[0] > max(self._index, self._newer_index):
            self._newer_index, self.newer = told

    def _is_another(self, peer: str, directory: object) -> bool:
        """Whether a member of that name is known to have another directory."""
        member = None if self._membership is None else self._membership.get(peer)
        is_known = member is not None and (member.voter or bool(member.directory))
        return is_known and member is not None and member.directory != directory

    def _note(self, peer: str, hello: Mapping[str, Any]) -> None:
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
            raise CollisionError(f"{peer} doesn't know yet whether {self._node} is added for good")
        else:
            self._refuse(peer)

    def _refuse(self, peer: str) -> None:
        """Be nobody: ``peer`` has what this node would have, had it been here before."""
        self.refused = IdentityError(
            f"node {self._node} has an empty directory, but {peer} has the state of cluster "
            f"{self._cluster_id!r}. If {self._node} lost its directory, put it back or let the cluster "
            f"replace it: stanchion cluster replace {self._node} NEW, where NEW may be {self._node}. If "
            f"this is meant to be a new cluster, empty the other nodes' directories too."
        )

    def _invitation(self, hello: Mapping[str, Any], which: str) -> Invitation | None:
        """What the hello of a node with state says of this one, if it has added it.

        Who has asked to be let in is known by its directory, and no other has the name.

        Raises:
            RemoteProtocolError: something else than a membership.
        """
        bootstrap, told = hello.get("founding"), _notified(hello, which)
        if told is None or not (isinstance(bootstrap, str) and bootstrap):
            return None
        member = told[1].get(self._node)
        if member is None or member.voter or member.directory:
            return None
        return Invitation(bootstrap, *told)

    def _check(self) -> None:
        if self._empty and self._met.keys() >= self._initial_voters - {self._node}:
            self._empty = False
            self._admitted()


def _packed(known: tuple[int, Membership]) -> tuple[int, bytes]:
    return known[0], known[1].encode()


def _notified(hello: Mapping[str, Any], which: str = "members") -> tuple[int, Membership] | None:
    """A membership in a hello and the index of its entry; None if it has none.

    Raises:
        RemoteProtocolError: something else than a membership.
    """
    encoded, index = hello.get(which), hello.get(f"{which}_since")
    if isinstance(encoded, bytes) and encoded and type(index) is int and index >= 0:
        return index, Membership.decode(encoded)
    return None


def _belongs(membership: Membership, peer: str, directory: object) -> bool:
    member = membership.get(peer)
    return member is not None and (not member.voter or member.directory == directory)
