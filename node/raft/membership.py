"""Who belongs to the cluster: a value that the log carries whole, and its bytes.

A *voter* counts in every majority. A *learner* is sent the log and snapshots, and nothing else: it
never votes, is never counted, never campaigns. A node enters as a learner and becomes a voter once
it has nearly everything, so that the majority needn't wait for one that is far behind.

An entry of the log (`EntryType.MEMBERSHIP`) holds the whole new membership. It is in force on each
node from the moment it is *appended* there, not from its commit, and no longer when it is removed
from the log again. Two memberships that follow each other differ by one voter at most, so every
majority of the one meets every majority of the other; that holds only if the earlier is committed
before the later is appended, and only if the leader has committed an entry of its own term before.
Both are the engine's to keep (`node.raft.active_membership`); here is only the value.

``directory`` is what makes a voter a particular copy of the log and not merely a name: whoever
comes back under the name with another directory has lost what it acknowledged, and is another.

``joinable`` is drawn from the founding, and stays with every membership that follows from it: whether nodes
are let in because they ask, or only because an operator does.

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
"""Written where there is something that format 1 has no place for."""
_FORMAT_CLOSED: Final = 1


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One node of the cluster, as the log knows it."""

    name: str
    peer: str
    """``host:port`` where others dial it, as the command that added it said; "" for a founder."""
    voter: bool
    """False: a learner."""
    directory: str
    """The random id of the directory of a member that was added at run time; "" for a founder and
    for a learner that an operator has added, whose directory may still change."""


@dataclass(frozen=True, slots=True)
class Membership:
    """All members, by name. Make one with `initial_voters`, then with the methods that change it.

    Invariant: names are unique and sorted, so that equal memberships have equal bytes; there is a
    voter; no more than `MEMBERS_MAX`.
    """

    members: tuple[Member, ...]
    joinable: bool = False
    """Whether who asks is let in."""

    def __post_init__(self) -> None:
        problem = _problem(self.members)
        assert problem is None, problem

    @classmethod
    def initial_voters(cls, names: Iterable[str]) -> Membership:
        """The membership that a configuration founds: every name a voter, once."""
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
        """The voters as particular copies of the log: (name, directory)."""
        return frozenset((member.name, member.directory) for member in self.members if member.voter)

    # --- changing ---------------------------------------------------------------------------------

    def with_learner(self, name: str, peer: str, directory: str = "") -> Membership:
        """With ``name`` as a learner; if it is one, with this address and directory.

        Raises:
            RefusedError: it is a voter already, can't be a name or an address, or there are too many.
        """
        known = self.get(name)
        if known is not None and known.voter:
            raise RefusedError(f"{name} is a voting member already")
        return self._replaced(name, Member(name, peer, False, directory))

    def with_voter(self, name: str, directory: str) -> Membership:
        """With the learner ``name`` as a voter whose log is the one in ``directory``.

        Raises:
            RefusedError: it is no learner, or one with another directory, or that can't be the id of one.
        """
        known = self.get(name)
        if known is None or known.voter:
            raise RefusedError(f"{name} is {'a voting member already' if known else 'not a member'}")
        if known.directory not in ("", directory):
            raise RefusedError(f"{name} was let in with another directory")
        return self._replaced(name, replace(known, voter=True, directory=directory))

    def without(self, name: str) -> Membership:
        """Without ``name``.

        Raises:
            RefusedError: it isn't a member, or the only voter.
        """
        if self.get(name) is None:
            raise RefusedError(f"{name} is not a member")
        if self.voters == (name,):
            raise RefusedError(f"{name} is the only voting member")
        return self._replaced(name, None)

    def _replaced(self, name: str, member: Member | None) -> Membership:
        others = [known for known in self.members if known.name != name]
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
        """Read a membership back.

        Raises:
            RemoteProtocolError: it is none.
        """
        if len(data) > _BYTES_MAX:
            raise RemoteProtocolError(f"a membership of {len(data)} bytes: at most {_BYTES_MAX} are read")
        try:
            value = msgpack.unpackb(data, max_array_len=MEMBERS_MAX, max_map_len=0, max_ext_len=0)
        except ValueError as error:  # every way in which msgpack refuses bytes
            raise RemoteProtocolError(f"a membership that is not msgpack as we speak it: {error}") from error
        rows, joinable = _parts_of(value)
        members = _members_of(rows)
        problem = _problem(members)
        if problem is not None:
            raise RemoteProtocolError(f"a membership that can't be: {problem}")
        return cls(members, joinable)


def _parts_of(value: Any) -> tuple[list[Any], bool]:
    match value:
        case [1, list(rows)]:
            return rows, False
        case [2, list(rows), True]:
            return rows, True
        case [int(version), *_] if version not in (_FORMAT_CLOSED, _FORMAT):
            raise RemoteProtocolError(f"a membership of format {version}, this program reads 1 and {_FORMAT}")
        case _:
            raise RemoteProtocolError(f"no membership: {shown(value)}")


def _members_of(rows: list[Any]) -> tuple[Member, ...]:
    members = []
    for row in rows:
        match row:
            case [str(name), str(peer), bool(voter), str(directory)]:
                members.append(Member(name, peer, voter, directory))
            case _:
                raise RemoteProtocolError(f"no member: {shown(row)}")
    return tuple(members)


def _problem(members: tuple[Member, ...]) -> str | None:
    """Why these can't be the members of a cluster; None if they can."""
    names = [member.name for member in members]
    if names != sorted(set(names)):
        return f"names twice or out of order: {names!r:.200}"
    if len(names) > MEMBERS_MAX:
        return f"{len(names)} members, where {MEMBERS_MAX} are allowed"
    if not any(member.voter for member in members):
        return "no voting member"
    for member in members:
        if not (0 < len(member.name) <= NAME_LENGTH_MAX and member.name.isprintable()):
            return f"{shown(member.name)} is no name"
        if not (len(member.peer) <= PEER_LENGTH_MAX and member.peer.isprintable()):
            return f"{member.name}: {shown(member.peer)} is no address"
        if not (len(member.directory) <= DIRECTORY_LENGTH_MAX and member.directory.isprintable()):
            return f"{member.name}: {shown(member.directory)} is no id of a directory"
    return None
