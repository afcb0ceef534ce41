"""Whom this node links to, and what becomes of it, as the membership goes.

The configuration says who founds a cluster; afterwards the log says who belongs to it, and the file only
where they are. Here the membership in force becomes links: to every member, to one that is leaving until it
has learnt so, and to one that this node doesn't know yet but others do. An address in the file comes before
the one in the log, for nodes move, and then files are changed.

What concerns this node itself: that it was removed ends it, once that is committed; if it was away then, a
member says so that refuses it. That it votes under its
name, but with another directory than its own, ends it at once. Either counts only from the entry on with
which this node came: before it the log speaks of others of its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from node.config.values import Address
from node.errors import ConfigError, IdentityError
from node.raft.links import RAFT, ROUTE
from node.raft.membership import Member, Membership
from node.server.membership.bootstrap import Bootstrap

log = logging.getLogger("stanchion.membership")


class Transport(Protocol):
    """What is needed of the transport."""

    def set_members(self, peers: Mapping[str, Any]) -> None: ...
    def is_up(self, peer: str, link: str) -> bool: ...
    def drop(self, peer: str, link: str, reason: str) -> None: ...
    def notify_refused(
        self,
        explanation: Callable[[Mapping[str, Any]], dict[str, Any]],
        refused: Callable[[str, Mapping[str, Any]], None],
    ) -> None: ...


class Security(Protocol):
    """What is needed of the security of peer links."""

    def check_addresses(self, addresses: Iterable[Any]) -> None: ...


class Members:
    """The members, as one node sees them.

    Args:
        node: this node's name.
        configured: where nodes are, by the configuration.
        bootstrap: what hellos say.
        directory: the id of this node's directory; empty for a founder.
        since: the index of the entry with which this node came; 0 for a founder.
        removed: told once it is committed that this node is no member.
        changed: told that there are other members, or that it is known of others where they take clients.
        routed: whether members are looked for on routes.
    """

    def __init__(
        self,
        node: str,
        configured: Mapping[str, Address],
        bootstrap: Bootstrap,
        *,
        directory: str,
        since: int,
        removed: Callable[[int], None],
        changed: Callable[[], None],
        routed: bool = False,
    ) -> None:
        self._node = node
        self._configured = configured
        self._routed = routed
        self._found: dict[str, Address] = {}
        self._bootstrap = bootstrap
        self._directory = directory
        self._since = since
        self._removed = removed
        self._changed = changed
        self._transport: Transport | None = None
        self._security: Security | None = None
        self._leaving: set[str] = set()
        self._linked: dict[str, Address | None] | None = None
        self._unknown: set[str] = set()
        self._index = 0
        self.in_force: Membership | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All members by the membership in force; those configured while there is none."""
        return self.in_force.names if self.in_force is not None else tuple(self._configured)

    def attach(self, transport: Transport, security: Security) -> None:
        """The transport is made after this, and needs no telling before."""
        self._transport, self._security = transport, security
        transport.notify_refused(self._bootstrap.explanation, self.refused)

    def membership_changed(self, membership: Membership, index: int) -> None:
        """Another membership is in force here.

        Raises:
            IdentityError: somebody with another directory votes under this node's name.
        """
        before = () if self.in_force is None else self.in_force.names
        self._leaving = (self._leaving | {*before}) - {*membership.names, self._node}
        self.in_force, self._index = membership, index
        me = membership.get(self._node)
        if index > self._since and self._is_another(me):
            raise IdentityError(
                f"node {self._node} votes in this cluster, but with another directory than this one, which "
                f"was let in by mistake. Put the other back, or: stanchion cluster replace {self._node} NEW"
            )
        if index > self._since and me is not None and not (me.voter or self._directory):
            raise IdentityError(
                f"node {self._node} was removed from this cluster and added again: its directory holds what "
                f"it had before. Start it with an empty one"
            )
        if me is None and index > self._since:
            log.warning("entry %d removes this node from the cluster; waiting for its commit", index)
        for peer in self._bootstrap.members_are(membership, index, self._leaving):
            self._drop(peer)
        self._link()
        self._changed()

    def membership_settled(self, membership: Membership, index: int) -> None:
        """At the start: it is known to be committed."""
        self._bootstrap.settled(membership, index)

    def refused(self, peer: str, refusal: Mapping[str, Any]) -> None:
        """A member, known by its certificate, has refused this node. If that is because this node was removed
        while it was away, nobody else will tell it.

        What is committed without this copy of the log is so for good: the same directory never comes back.
        But it may be of before this copy came, as a member knows it that is behind.

        Raises:
            RemoteProtocolError: it says something that can't be.
        """
        told = self._bootstrap.statement(refusal)
        if told is None or told[0] <= max(self._since, self._bootstrap.settled_index):
            return
        index, membership = told
        me = membership.get(self._node)
        if membership.get(peer) is not None and (me is None or self._is_another(me)):
            self._removed(index)

    def _is_another(self, me: Member | None) -> bool:
        """Whether a member of this node's name is known to have another directory."""
        return me is not None and (me.voter or bool(me.directory)) and me.directory != self._directory

    def membership_committed(self, membership: Membership, index: int) -> None:
        """And it stays."""
        self._bootstrap.settled(membership, index)
        if index > self._since and membership.get(self._node) is None:
            self._removed(index)

    def member_left(self, name: str) -> None:
        """A removed member knows that it is, or has had time to learn."""
        self._leaving.discard(name)
        if self.in_force is not None:
            self._bootstrap.members_are(self.in_force, self._index, self._leaving)
        self._link()
        self._changed()

    def look(self) -> None:
        """Somebody may have told of members that this node doesn't know yet. To be called now and then."""
        if self._linked is not None and self._bootstrap.linked != self._linked.keys():
            self._link()

    def directory_of(self, peer: str) -> str:
        """The id of a peer's directory, as it says; empty while it has none."""
        return self._bootstrap.directory(peer)

    def check_address(self, text: str) -> None:
        """Whether a peer may be there.

        Raises:
            ConfigError: that is no address, or one that the security of this cluster is too weak for.
        """
        address = parse(text)
        if self._security is not None:
            self._security.check_addresses([address])

    def found(self, name: str, address: Address) -> None:
        """On a route somebody said that it is this member, or that it knows it, and where it is.

        The file comes first; and who is linked is where it is, whatever others say.
        """
        if name in self._configured or self._found.get(name) == address:
            return
        is_up = self._transport is not None and self._transport.is_up(name, RAFT)
        if not is_up or self._address(name) is None:
            self._found[name] = address
            self._link()

    def addresses(self) -> dict[str, Address | None]:
        """All members but this one, and where they are as far as this node knows."""
        return {name: self._address(name) for name in self._bootstrap.linked}

    def _link(self) -> None:
        """Have links to whom they should be to, and to nobody else. A member without an address may dial."""
        linked = {name: self._address(name) for name in sorted(self._bootstrap.linked)}
        unknown = {name for name, address in linked.items() if address is None}
        for name in sorted(unknown - self._unknown):
            if self._routed:
                log.info("%s is looked for on the routes", name)
                continue
            log.warning("where %s is, neither this node's file nor the log says: add it to the file", name)
        self._unknown = unknown
        if linked != self._linked and self._transport is not None:
            self._linked = linked
            self._transport.set_members(linked)

    def _address(self, name: str) -> Address | None:
        """Where a member is; None if nothing says so that can be used."""
        known = self._configured.get(name) or self._found.get(name)
        if known is not None:
            return known
        for membership in (self.in_force, self._bootstrap.newer):
            member = None if membership is None else membership.get(name)
            if member is None or not member.peer:
                continue
            try:
                self.check_address(member.peer)
            except ConfigError as error:
                log.error("%s can't be linked to: %s", name, error)
                return None
            return parse(member.peer)
        return (self._linked or {}).get(name)  # it is leaving: the membership says nothing of it any more

    def _drop(self, peer: str) -> None:
        log.error("%s comes with another directory than it was added with; its links are cut", peer)
        if self._transport is not None:
            for link in (RAFT, ROUTE):
                self._transport.drop(peer, link, "it has another directory than it was added with")


def parse(text: str) -> Address:
    """The address in ``host:port``.

    Raises:
        ConfigError: it is none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ConfigError([f"{text!r} is no address: expected host:port"])
    address = Address(host, int(port))
    if address.is_unspecified:
        raise ConfigError([f"{text}: nobody can connect to that address; expected where the node is reached"])
    return address
