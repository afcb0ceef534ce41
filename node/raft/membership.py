"""The membership of the cluster, as a value and as bytes in the log.

A *voter* counts in every majority. A *learner* receives the log and snapshots and has no other role: it never
votes, is never counted and never campaigns. A node joins as a learner and becomes a voter once it has nearly
the whole log, so that a majority does not have to wait for a node that is far behind.

A log entry of type `EntryType.MEMBERSHIP` contains the whole new membership. It is in force on each node from
the moment it is *appended* there, not from its commit, until it is removed from the log again. Two
consecutive memberships differ by at most one voter, so every majority of one overlaps every majority of the
other. This holds only if the earlier one is committed before the later one is appended, and if the leader has
committed an entry of its own term before. The engine enforces both (`node.raft.active_membership`); this
module has only the value.

``directory`` identifies a voter's copy of the log. A node that returns under its name with another directory
has lost what it acknowledged, and is a different voter.

``joinable`` is set at bootstrap and kept by every later membership. It states whether nodes may join by
request, or only if an operator adds them.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, chapter 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack

from node.errors import RefusedError, RemoteProtocolError
from node.protocol.peer import shown

MEMBERS_MAX: Final = 64
NAME_LENGTH_MAX: Final = 255
PEER_LENGTH_MAX: Final = 300
DIRECTORY_LENGTH_MAX: Final = 64
_BYTES_MAX: Final = MEMBERS_MAX * (NAME_LENGTH_MAX + PEER_LENGTH_MAX + DIRECTORY_LENGTH_MAX) * 4
_FORMAT: Final = 2
"""Used for memberships that format 1 can't represent."""
_FORMAT_CLOSED: Final = 1


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One node of the cluster, as stored in the log."""

    name: str
    peer: str
    """``host:port`` of its peer address, from the command that added it; "" for an initial member."""
    voter: bool
    """False: a learner."""
    directory: str
    """The random id of the directory of a member that was added at run time; "" for an initial member, and
    for a learner added by an operator, whose directory may still change."""


@dataclass(frozen=True, slots=True)
class Membership:
    """All members, by name. Create one with `initial_voters`, then use the methods that change it.

    Invariant: names are unique and sorted, so that equal memberships have equal bytes; there is at least one
    voter and at most `MEMBERS_MAX` members.
    """

    members: tuple[Member, ...]
    joinable: bool = False
    """True if nodes may join by request."""

    def __post_init__(self) -> None:
        problem = _problem(self.members)
        assert problem is None, problem

    @classmethod
    def initial_voters(cls, names: Iterable[str]) -> Membership:
        """Return the membership of a new cluster: every name is a voter."""
        return cls(tuple(Member(name, "", True, "") for name in sorted(names)))

    # --- reading ----------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members if member.voter)

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members if not member.voter)

    def get(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    def is_voter(self, name: str) -> bool:
        member = self.get(name)
        return member is not None and member.voter

    def copies(self) -> frozenset[tuple[str, str]]:
        """The voters as copies of the log: (name, directory)."""
        return frozenset((member.name, member.directory) for member in self.members if member.voter)

    # --- changing ---------------------------------------------------------------------------------

    def with_learner(self, name: str, peer: str, directory: str = "") -> Membership:
        """Return this membership with the learner ``name``; an existing learner gets this address and
        directory.

        Raises:
            RefusedError: it is a voter, the name or address is invalid, or there are too many members.
        """
        member = self.get(name)
        if member is not None and member.voter:
            raise RefusedError(f"{name} is a voting member already")
        return self._replaced(name, Member(name, peer, False, directory))

    def with_voter(self, name: str, directory: str) -> Membership:
        """Return this membership with the learner ``name`` as a voter whose log is in ``directory``.

        Raises:
            RefusedError: it is not a learner, has another directory, or the directory id is invalid.
        """
        member = self.get(name)
        if member is None or member.voter:
            raise RefusedError(f"{name} is {'a voting member already' if member else 'not a member'}")
        if member.directory not in ("", directory):
            raise RefusedError(f"{name} was added with another directory")
        return self._replaced(name, replace(member, voter=True, directory=directory))

    def without(self, name: str) -> Membership:
        """Return this membership without ``name``.

        Raises:
            RefusedError: it is not a member, or the only voter.
        """
        if self.get(name) is None:
            raise RefusedError(f"{name} is not a member")
        if self.voters == (name,):
            raise RefusedError(f"{name} is the only voting member")
        return self._replaced(name, None)

    def _replaced(self, name: str, member: Member | None) -> Membership:
        others = [other for other in self.members if other.name != name]
        members = tuple(sorted([*others, member] if member else others))
        problem = _problem(members)
        if problem is not None:
            raise RefusedError(problem)
        return Membership(members, self.joinable)

    # --- bytes ------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        rows = [[member.name, member.peer, member.voter, member.directory] for member in self.members]
        value = [_FORMAT, rows, True] if self.joinable else [_FORMAT_CLOSED, rows]
        packed: bytes = msgpack.packb(value)
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Membership:
        """Decode a membership.

        Raises:
            RemoteProtocolError: the bytes are no valid membership.
        """
        if len(data) > _BYTES_MAX:
            raise RemoteProtocolError(f"a membership of {len(data)} bytes: expected at most {_BYTES_MAX}")
        try:
            value = msgpack.unpackb(data, max_array_len=MEMBERS_MAX, max_map_len=0, max_ext_len=0)
        except ValueError as error:  # raised by msgpack for any invalid bytes
            raise RemoteProtocolError(f"a membership that is not valid msgpack: {error}") from error
        rows, joinable = _parts_of(value)
        members = _members_of(rows)
        problem = _problem(members)
        if problem is not None:
            raise RemoteProtocolError(f"invalid membership: {problem}")
        return cls(members, joinable)


def _parts_of(value: Any) -> tuple[list[Any], bool]:
    match value:
        case [1, list(rows)]:
            return rows, False
        case [2, list(rows), True]:
            return rows, True
        case [int(version), *_] if version not in (_FORMAT_CLOSED, _FORMAT):
            raise RemoteProtocolError(f"a membership of format {version}, this release reads 1 and {_FORMAT}")
        case _:
            raise RemoteProtocolError(f"not a membership: {shown(value)}")


def _members_of(rows: list[Any]) -> tuple[Member, ...]:
    members = []
    for row in rows:
        match row:
            case [str(name), str(peer), bool(voter), str(directory)]:
                members.append(Member(name, peer, voter, directory))
            case _:
                raise RemoteProtocolError(f"not a member: {shown(row)}")
    return tuple(members)


def _problem(members: tuple[Member, ...]) -> str | None:
    """Return why these can't be the members of a cluster; None if they can."""
    names = [member.name for member in members]
    if names != sorted(set(names)):
        return f"names are repeated or not sorted: {names!r:.200}"
    if len(names) > MEMBERS_MAX:
        return f"{len(names)} members: at most {MEMBERS_MAX} are allowed"
    if not any(member.voter for member in members):
        return "no voting member"
    for member in members:
        if not (0 < len(member.name) <= NAME_LENGTH_MAX and member.name.isprintable()):
            return f"{shown(member.name)} is not a valid name"
        if not (len(member.peer) <= PEER_LENGTH_MAX and member.peer.isprintable()):
            return f"{member.name}: {shown(member.peer)} is not a valid address"
        if not (len(member.directory) <= DIRECTORY_LENGTH_MAX and member.directory.isprintable()):
            return f"{member.name}: {shown(member.directory)} is not a valid directory id"
    return None
