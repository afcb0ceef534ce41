"""The links to the members, according to the membership in force, and this node's removal.

The configuration names the voters that bootstrap a cluster. Afterwards the log says which nodes are members,
and the configuration only where they are. This module turns the membership in force into links: to every
member, to a removed node until it has learnt of its removal, and to members that only other nodes know yet.
An address in the configuration takes precedence over the one in the log, because nodes move, and then the
configuration is changed.

Two changes concern this node itself. When its removal is committed, the node stops; if it was down at that
time, a member that refuses it reports the removal. When a voter has its name but another directory, the node
stops at once. Either counts only after the entry with which this node was added: earlier entries are about
other nodes of its name.
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
    """The peer transport, as used here."""

    def set_members(self, peers: Mapping[str, Any]) -> None: ...
    def is_up(self, peer: str, link: str) -> bool: ...
    def drop(self, peer: str, link: str, reason: str) -> None: ...
    def notify_refused(
        self,
        explanation: Callable[[Mapping[str, Any]], dict[str, Any]],
        refused: Callable[[str, Mapping[str, Any]], None],
    ) -> None: ...


class Security(Protocol):
    """The security of peer links, as used here."""

    def check_addresses(self, addresses: Iterable[Any]) -> None: ...


class Members:
    """Keeps the links of one node to the other members.

    Args:
        node: this node's name.
        configured: the peer addresses of nodes in the configuration.
        bootstrap: builds and checks hellos.
        directory: the ID of this node's directory; empty for a node that bootstrapped the cluster.
        since: the index of the entry that added this node; 0 for a node that bootstrapped the cluster.
        removed: called when an entry that removes this node is committed, with its index.
        changed: called when the members or the client addresses of other nodes have changed.
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
        """All members of the membership in force; the configured nodes while there is none."""
        return self.in_force.names if self.in_force is not None else tuple(self._configured)

    def attach(self, transport: Transport, security: Security) -> None:
        """Set the transport, which is created later than this object."""
        self._transport, self._security = transport, security
        transport.notify_refused(self._bootstrap.explanation, self.refused)

    def membership_changed(self, membership: Membership, index: int) -> None:
        """Take over another membership in force.

        Raises:
            IdentityError: a voter with another directory has this node's name.
        """
        before = () if self.in_force is None else self.in_force.names
        self._leaving = (self._leaving | {*before}) - {*membership.names, self._node}
        self.in_force, self._index = membership, index
        me = membership.get(self._node)
        if index > self._since and self._has_other_directory(me):
            raise IdentityError(
                f"another directory than this one votes as node {self._node} in this cluster; this one was "
                f"added by mistake. Start the other one, or run: stanchion cluster replace {self._node} NEW"
            )
        if index > self._since and me is not None and not (me.voter or self._directory):
            raise IdentityError(
                f"node {self._node} was removed from this cluster and added again, but its directory still "
                f"holds the old data. Start it with an empty directory"
            )
        if me is None and index > self._since:
            log.warning("entry %d removes this node from the cluster; waiting for its commit", index)
        for peer in self._bootstrap.set_membership(membership, index, self._leaving):
            self._drop(peer)
        self._link()
        self._changed()

    def membership_settled(self, membership: Membership, index: int) -> None:
        """Record a membership that is already committed when the node starts."""
        self._bootstrap.settled(membership, index)

    def refused(self, peer: str, refusal: Mapping[str, Any]) -> None:
        """Handle the refusal of this node by an authenticated member: stop if this node was removed
        meanwhile.

        This is the only way to learn it, because every member refuses a removed node. The removal is final:
        the same directory is never added again. But a member that lags behind may send a membership from
        before this directory was added; it is ignored.

        Raises:
            RemoteProtocolError: the refusal is malformed.
        """
        announced = self._bootstrap.statement(refusal)
        if announced is None or announced[0] <= max(self._since, self._bootstrap.settled_index):
            return
        index, membership = announced
        me = membership.get(self._node)
        if membership.get(peer) is not None and (me is None or self._has_other_directory(me)):
            self._removed(index)

    def _has_other_directory(self, me: Member | None) -> bool:
        """Return True if the member of this node's name has another directory than this node."""
        return me is not None and (me.voter or bool(me.directory)) and me.directory != self._directory

    def membership_committed(self, membership: Membership, index: int) -> None:
        """The membership change is committed: stop this node if it is not a member any more."""
        self._bootstrap.settled(membership, index)
        if index > self._since and membership.get(self._node) is None:
            self._removed(index)

    def member_left(self, name: str) -> None:
        """Drop the links to a removed node: it has learnt of its removal, or had the time to."""
        self._leaving.discard(name)
        if self.in_force is not None:
            self._bootstrap.set_membership(self.in_force, self._index, self._leaving)
        self._link()
        self._changed()

    def look(self) -> None:
        """Link to members that peers have announced and this node's log lacks. To be called periodically."""
        if self._linked is not None and self._bootstrap.linked != self._linked.keys():
            self._link()

    def directory_of(self, peer: str) -> str:
        """Return the directory ID that a peer has sent; empty if it has none."""
        return self._bootstrap.directory(peer)

    def check_address(self, text: str) -> None:
        """Check an address for a peer.

        Raises:
            ConfigError: the address is malformed, or this cluster's security doesn't allow it.
        """
        address = parse(text)
        if self._security is not None:
            self._security.check_addresses([address])

    def found(self, name: str, address: Address) -> None:
        """Record the address of a member that was found on a route.

        Ignored if the configuration has an address, or if a member with an address is linked.
        """
        if name in self._configured or self._found.get(name) == address:
            return
        is_up = self._transport is not None and self._transport.is_up(name, RAFT)
        if not is_up or self._address(name) is None:
            self._found[name] = address
            self._link()

    def addresses(self) -> dict[str, Address | None]:
        """Return all members but this node, and their addresses as far as this node has them."""
        return {name: self._address(name) for name in self._bootstrap.linked}

    def _link(self) -> None:
        """Link to exactly the nodes that should be linked. A member without an address may connect to us."""
        linked = {name: self._address(name) for name in sorted(self._bootstrap.linked)}
        unknown = {name for name, address in linked.items() if address is None}
        for name in sorted(unknown - self._unknown):
            if self._routed:
                log.info("looking for %s on the routes", name)
                continue
            log.warning(
                "no peer address of %s in the configuration or the log: add it to the configuration", name
            )
        self._unknown = unknown
        if linked != self._linked and self._transport is not None:
            self._linked = linked
            self._transport.set_members(linked)

    def _address(self, name: str) -> Address | None:
        """Return the address of a member; None if there is no usable one."""
        address = self._configured.get(name) or self._found.get(name)
        if address is not None:
            return address
        for membership in (self.in_force, self._bootstrap.newer):
            member = None if membership is None else membership.get(name)
            if member is None or not member.peer:
                continue
            try:
                self.check_address(member.peer)
            except ConfigError as error:
                log.error("can't link to %s: %s", name, error)
                return None
            return parse(member.peer)
        return (self._linked or {}).get(name)  # a removed node isn't in the membership any more

    def _drop(self, peer: str) -> None:
        log.error("%s has another directory than the one it was added with; its links are closed", peer)
        if self._transport is not None:
            for link in (RAFT, ROUTE):
                self._transport.drop(peer, link, "it has another directory than the one it was added with")


def parse(text: str) -> Address:
    """Parse an address in the form ``host:port``.

    Raises:
        ConfigError: the text is not an address of this form.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ConfigError([f"{text!r} is not an address: expected host:port"])
    address = Address(host, int(port))
    if address.is_unspecified:
        raise ConfigError([f"{text}: no node can connect to that address; expected a reachable host"])
    return address
