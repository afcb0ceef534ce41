"""Changes of the membership: how the leader adds and removes nodes, one change at a time.

A request names the wanted result, not an operation: ``n4`` is a member, ``n2`` is not. So it can be repeated,
and a new leader continues what the previous one has not finished. At every ``pump`` each request compares the
membership with its result and takes its next step:

* *add*: n4 becomes a learner by one entry. When it has nearly caught up, and is connected, it becomes a voter
  by another entry. The second step is taken for every learner, whether or not a request waits for it.
* *join*: as add, but requested by the joining node itself, with the ID of its directory. It is possible only
  if the cluster was bootstrapped for it, and only if no other node has the name. The answer is the membership
  that the joining node starts with.
* *remove*: one entry. A leader is not removed: it transfers its leadership first, and the next leader is
  asked.

A request that would stop the cluster is refused: removing a voter when less than a majority of the remaining
ones are connected. For the same reason a learner becomes a voter only if a majority, itself included, is
connected.

A proposed change may be lost with its leader. So answers depend on the *committed* membership, and proposals
on the one in force.

A plain object without I/O; ``now_s`` is the driver's clock.

Source: Ongaro, *Consensus: Bridging Theory and Practice*, 4.2.1 (catching up), 4.2.2 (removing the leader).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from node.config.model import NAME
from node.errors import ConfigError, ConflictError, RefusedError, UnavailableError
from node.raft.membership import Member, Membership
from node.server.administration.asking import GIVE_UP_S, SHARED_MAX, Answer, waited_for_s
from node.server.membership.bootstrap import pack_membership

log = logging.getLogger("stanchion.membership")

HAND_OVER_S = 2.0
"""How long a leader that is to be removed tries to transfer its leadership."""
STEP_S = 0.1
"""How often requests check for their next step when no event occurs."""
HAND_OVER_STEP_S = 0.005
"""The same during a leadership transfer, because followers' acks cause no event here."""
PROGRESS_S = 1.0
"""How often progress is reported, unless its kind changes."""

_NAME = re.compile(NAME)


class Peer(Protocol):
    """The replication state of a peer, as the engine has it."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def match(self) -> int: ...
    @property
    def connected(self) -> bool: ...


class Engine(Protocol):
    """The consensus engine, as used here."""

    @property
    def last_index(self) -> int: ...
    def peer_states(self) -> Iterable[Peer]: ...
    def caught_up(self, name: str) -> bool: ...
    def change_membership(self, new: Membership) -> int: ...
    def transfer_leadership(self, to: str | None = None) -> bool: ...


class Proposer(Protocol):
    """The proposer of entries, as used here."""

    def stop(self) -> None: ...
    def resume(self) -> None: ...


class Neighbours(Protocol):
    """The receiver of membership changes on this node: `server.membership.members.Members`."""

    def membership_changed(self, membership: Membership, index: int) -> None: ...
    def membership_committed(self, membership: Membership, index: int) -> None: ...
    def membership_settled(self, membership: Membership, index: int) -> None: ...
    def member_left(self, name: str) -> None: ...
    def look(self) -> None: ...
    def check_address(self, text: str) -> None: ...
    def directory_of(self, peer: str) -> str: ...


class NoNeighbours:
    """`Neighbours` of a node without peer address, which stays alone."""

    def membership_changed(self, membership: Membership, index: int) -> None:
        """Do nothing: this node is the only member."""

    def membership_committed(self, membership: Membership, index: int) -> None:
        """Do nothing: this node is the only member."""

    def membership_settled(self, membership: Membership, index: int) -> None:
        """Do nothing: this node is the only member."""

    def member_left(self, name: str) -> None:
        """Do nothing: there are no peers."""

    def look(self) -> None:
        """Do nothing: there are no peers."""

    def check_address(self, text: str) -> None:
        """Raise ConfigError: no peer can connect to this node."""
        raise ConfigError(["this node has no peer address (cluster.nodes.NAME.peer): it can't add nodes"])

    def directory_of(self, peer: str) -> str:
        """Return an empty ID: there are no peers."""
        return ""


@dataclass(slots=True)
class _Request:
    """A request in progress."""

    step: Callable[[_Request, float], dict[str, Any] | None]
    """Takes the next step. Returns the answer if the request is complete."""
    name: str
    peer: str
    wait: bool
    answers: list[Answer]
    """The callbacks of all that have made this request."""
    within_s: float = GIVE_UP_S
    """How long its callers wait for the answer."""
    directory: str = ""
    """The ID of the joining node's directory, if the request is *join*."""
    since_s: float | None = None
    """When its first step was taken."""
    changed: bool = False
    """A change was proposed for it."""
    seen: bool = False
    """The node to be added has been a member since the request began."""
    progress: tuple[str, str] = ("", "")
    """Kind and text of the last reported progress."""
    progress_s: float = 0.0
    """When it was reported."""
    hand_over_until_s: float | None = None

    def answer(self, value: dict[str, Any]) -> None:
        for answer in self.answers:
            answer(value)


class Reconfigurer:
    """Carries out membership changes on a ready leader.

    Args:
        node: this node's name.
        engine: where changes are proposed.
        proposer: is stopped while leadership is transferred.
        directory: returns the directory ID that a peer has sent; empty if it has none.
        check_address: raises ConfigError if a peer must not have this address.
        kick: requests a ``pump`` soon.
    """

    def __init__(
        self,
        node: str,
        engine: Engine,
        proposer: Proposer,
        *,
        directory: Callable[[str], str],
        check_address: Callable[[str], None],
        kick: Callable[[], None],
    ) -> None:
        self._node = node
        self._engine = engine
        self._proposer = proposer
        self._directory = directory
        self._check_address = check_address
        self._kick = kick
        self._requests: list[_Request] = []
        self._now_s = 0.0
        self.in_force: Membership | None = None
        self.committed: Membership | None = None
        self.committed_index = 0
        """Index of the entry of the committed membership."""

    # --- called by the engine ---------------------------------------------------------------------

    def changed(self, membership: Membership) -> None:
        """Set the membership in force."""
        self.in_force = membership
        self._kick()

    def is_committed(self, membership: Membership, index: int = 0) -> None:
        """Set the committed membership and the index of its entry."""
        self.committed, self.committed_index = membership, index
        self._kick()

    @property
    def names(self) -> frozenset[str]:
        """The members in force, and those of the committed membership."""
        memberships = [membership.names for membership in (self.in_force, self.committed) if membership]
        return frozenset(name for names in memberships for name in names)

    # --- requests ---------------------------------------------------------------------------------

    def add(self, fields: dict[str, Any], answer: Answer) -> None:
        """Make ``name`` a member with address ``peer``; with ``wait``, answer when it is a voter.

        Raises:
            RefusedError: the name or the address is invalid.
        """
        name, peer = self._joining_node(fields)
        wait = bool(fields.get("wait", True))
        self._take(_Request(self._add, name, peer, wait, [answer], waited_for_s(fields)))

    def join(self, fields: dict[str, Any], answer: Answer) -> None:
        """Make ``name`` a member at its own request, with address ``peer`` and its ``directory``.

        The answer is the membership, once it is committed; or ``declined``, with the reason.
        """
        directory = str(fields.get("directory"))
        try:
            name, peer = self._joining_node(fields)
            if self.in_force is None or not self.in_force.joinable:
                raise RefusedError(
                    "this cluster was not bootstrapped for joining nodes (cluster.bootstrap). Add it with: "
                    f"stanchion cluster add {name} --peer {peer}"
                )
        except RefusedError as error:
            answer({"ok": {"declined": str(error)}})
        else:
            self._take(_Request(self._join, name, peer, False, [answer], waited_for_s(fields), directory))

    def _joining_node(self, fields: dict[str, Any]) -> tuple[str, str]:
        """Return name and address of a node to be added.

        Raises:
            RefusedError: one of them is invalid.
        """
        name, peer = fields.get("name"), fields.get("peer")
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise RefusedError(f"{name!r} can't be the name of a node: letters, digits, - and _, at most 64")
        if not isinstance(peer, str):
            raise RefusedError("peer is missing: the address where other nodes connect to it, host:port")
        try:
            self._check_address(peer)
        except ConfigError as error:
            raise RefusedError(str(error)) from error
        return name, peer

    def remove(self, fields: dict[str, Any], answer: Answer) -> None:
        """Remove ``name`` from the members; with ``absent``, only if it isn't connected.

        Raises:
            RefusedError: ``absent`` is given, but the node is connected.
        """
        name = str(fields.get("name"))
        if fields.get("absent") and name in self._connected() and self._is_member(name):
            raise RefusedError(f"{name} is running, with its directory: stop it first")
        self._take(_Request(self._remove, name, "", True, [answer], waited_for_s(fields)))

    def view(self, _fields: dict[str, Any], answer: Answer) -> None:
        """Answer with the members and their replication progress."""
        assert self.in_force is not None
        peers = {peer.name: peer for peer in self._engine.peer_states()}
        last = self._engine.last_index
        members = [
            {
                "name": member.name,
                "role": _role(member),
                "peer": member.peer,
                "leads": member.name == self._node,
                "connected": member.name == self._node or peers[member.name].connected,
                "match": last if member.name == self._node else peers[member.name].match,
            }
            for member in self.in_force.members
            if member.name == self._node or member.name in peers
        ]
        settled = self.in_force == self.committed
        answer({"ok": {"leader": self._node, "last": last, "settled": settled, "members": members}})

    def stop(self) -> None:
        """Forget all requests: another node leads, and the nodes that asked will ask it."""
        self._requests.clear()

    def pump(self, now_s: float) -> float:
        """Take every possible step. Returns when to be called again. Only on a ready leader."""
        self._now_s = now_s
        if self.in_force is None:
            return float("inf")
        self._promote()
        for request in list(self._requests):
            if request.since_s is None:
                request.since_s = now_s
            if now_s - request.since_s < request.within_s:
                self._step(request)
            else:
                self._requests.remove(request)
                request.answer(
                    {"error": f"not done within {request.within_s:g} s; {request.name} is left as it is"}
                )
        if any(request.hand_over_until_s is not None for request in self._requests):
            return now_s + HAND_OVER_STEP_S
        busy = self._requests or self.in_force.learners
        return now_s + STEP_S if busy else float("inf")

    def _take(self, request: _Request) -> None:
        """Start a request, or add its callback to an equal one in progress, whose first caller may be
        gone.
        """
        for other in self._requests:
            if (other.step, other.name, other.peer, other.wait, other.directory) == (
                request.step, request.name, request.peer, request.wait, request.directory,
            ):  # fmt: skip
                other.answers = [*other.answers, *request.answers][-SHARED_MAX:]
                other.within_s, other.since_s, other.progress = request.within_s, None, ("", "")
                break
        else:
            self._requests.append(request)
        self._kick()

    def _step(self, request: _Request) -> None:
        try:
            done = request.step(request, self._now_s)
        except ConflictError:
            self._notify(request, "waiting", "waiting for another change of members to be committed")
            return
        except UnavailableError:
            return  # not the leader any more: the engine is about to report it
        except RefusedError as error:
            done = {"error": str(error)}
        if done is not None:
            self._requests.remove(request)
            request.answer(done)

    def _notify(self, request: _Request, kind: str, text: str) -> None:
        """Report progress: at once if its kind has changed, otherwise at most every `PROGRESS_S`."""
        last_kind, last_text = request.progress
        if kind == last_kind and (text == last_text or self._now_s - request.progress_s < PROGRESS_S):
            return
        request.progress, request.progress_s = (kind, text), self._now_s
        request.answer({"progress": text})

    # --- adding -----------------------------------------------------------------------------------

    def _add(self, request: _Request, _now_s: float) -> dict[str, Any] | None:
        name, peer = request.name, request.peer
        assert self.in_force is not None
        member = self.in_force.get(name)
        if member is None and request.seen:
            raise RefusedError(f"{name} was removed again")
        request.seen = request.seen or member is not None
        if member is None or (not member.voter and member.peer != peer):
            self._change(self.in_force.with_learner(name, peer))
            request.changed = True
            self._notify(request, "added", f"{name} is being added, at {peer}")
            return None
        settled = None if self.committed is None else self.committed.get(name)
        if settled is None:
            return None
        if settled.voter:
            return self._done(request)
        if not request.wait:
            return self._done(request)
        self._notify_catching_up(request, name)
        return None

    def _join(self, request: _Request, _now_s: float) -> dict[str, Any] | None:
        try:
            return self._add_joining_node(request)
        except ConflictError:
            raise
        except RefusedError as error:
            return {"ok": {"declined": str(error)}}

    def _add_joining_node(self, request: _Request) -> dict[str, Any] | None:
        assert self.in_force is not None
        wanted = Member(request.name, request.peer, False, request.directory)
        member = self.in_force.get(request.name)
        if member is None and request.seen:
            raise RefusedError(f"{request.name} was removed again")
        if member is not None and (
            member.voter
            or member.directory not in ("", request.directory)
            or self._directory(request.name) not in ("", request.directory)
        ):
            raise RefusedError(
                f"{request.name} is a member of this cluster already, with another directory. If that is "
                f"lost: stanchion cluster replace {request.name} {request.name}. Or choose another name"
            )
        request.seen = request.seen or member is not None
        if member != wanted:
            self._change(self.in_force.with_learner(request.name, request.peer, request.directory))
            return None
        if self.committed is None or self.committed.get(request.name) != wanted:
            return None
        return {"ok": {"membership": pack_membership(self.committed_index, self.committed)}}

    def _done(self, request: _Request) -> dict[str, Any]:
        assert self.committed is not None
        member = self.committed.get(request.name)
        role = _role(member) if member is not None else "none"
        return {"ok": {"name": request.name, "role": role, "changed": request.changed}}

    def _notify_catching_up(self, request: _Request, name: str) -> None:
        state = next((peer for peer in self._engine.peer_states() if peer.name == name), None)
        last = self._engine.last_index
        if state is None or not state.connected or not self._directory(name):
            text = f"{name} is added; start it, with an empty directory: it does not answer at {request.peer}"
            self._notify(request, "unreachable", text)
        elif not self._engine.caught_up(name):
            self._notify(request, "behind", f"{name} catches up: it has {state.match} of {last} entries")
        else:
            self._notify(request, "caught up", f"{name} has caught up")

    def _promote(self) -> None:
        """Make a learner that has caught up a voter: one at a time, like every membership change."""
        membership = self.in_force
        if membership is None or membership != self.committed or not membership.learners:
            return
        connected = self._connected()
        for name in membership.learners:
            directory = self._directory(name)
            if name not in connected or not directory or not self._engine.caught_up(name):
                continue
            learner = membership.get(name)
            if learner is not None and learner.directory not in ("", directory):
                continue  # this is not the directory that joined: a copy, or added by mistake
            new = membership.with_voter(name, directory)
            if not _is_majority(connected, new):
                continue
            with suppress(ConflictError, UnavailableError):  # the next pump tries again
                self._change(new)
            return

    # --- removing ---------------------------------------------------------------------------------

    def _remove(self, request: _Request, now_s: float) -> dict[str, Any] | None:
        name = request.name
        assert self.in_force is not None
        if self.in_force.get(name) is None:
            if self.committed != self.in_force:
                return None
            return {"ok": {"name": name, "role": "none", "changed": request.changed}}
        new = self.in_force.without(name)
        if self.in_force.is_voter(name):
            self._check_remaining(name, new)
        if name == self._node:
            return self._hand_over(request, now_s)
        self._change(new)
        request.changed = True
        self._notify(request, "removed", f"{name} is being removed")
        return None

    def _check_remaining(self, name: str, new: Membership) -> None:
        connected = self._connected() - {name}
        if not _is_majority(connected, new):
            remaining = ", ".join(sorted(connected & {*new.voters})) or "none"
            raise RefusedError(
                f"without {name} there are {len(new.voters)} voters, and of them only {remaining} is "
                f"connected: the cluster would stop. Start or remove the others first"
            )

    def _hand_over(self, request: _Request, now_s: float) -> dict[str, Any] | None:
        if request.hand_over_until_s is None:
            self._notify(request, "leads", f"{request.name} leads: it hands over first")
            request.hand_over_until_s = now_s + HAND_OVER_S
            self._proposer.stop()
        if now_s >= request.hand_over_until_s:
            self._proposer.resume()
            return {
                "error": f"{request.name} leads, and no node took over within {HAND_OVER_S:g} s; try again"
            }
        self._engine.transfer_leadership()
        return None

    # --- both -------------------------------------------------------------------------------------

    def _change(self, new: Membership) -> None:
        index = self._engine.change_membership(new)
        members = ", ".join(f"{member.name}{'' if member.voter else ' (learner)'}" for member in new.members)
        log.info("entry %d changes the members: %s", index, members)
        self._kick()

    def _connected(self) -> set[str]:
        return {self._node, *(peer.name for peer in self._engine.peer_states() if peer.connected)}

    def _is_member(self, name: str) -> bool:
        return self.in_force is not None and self.in_force.get(name) is not None


def _is_majority(connected: Iterable[str], membership: Membership) -> bool:
    voters = set(membership.voters)
    return 2 * len(voters.intersection(connected)) > len(voters)


def _role(member: Member) -> str:
    return "voter" if member.voter else "learner"
