"""Members come and go: what the leader does about it, one change at a time.

A request says what is wanted, not what is to be done: that ``n4`` is a member, that ``n2`` is none. So it may
be made twice, and a new leader takes up what an old one left half done. At every ``pump`` each request
looks at what is so and takes its next step:

* *add*: n4 becomes a learner by an entry of the log. When it has nearly everything, and is connected, it
  becomes a voter by another. The second step is taken for every learner, asked for or not.
* *join*: as add, but asked for by the newcomer itself, with the id of its directory; only where the founding
  allows it, and only as long as nobody else has the name. The answer is what it begins with.
* *remove*: one entry. A leader isn't removed: it hands over first, and the next leader is asked.

Refused is what would stop the cluster: to remove a voter when fewer than a majority of the remaining ones
are connected. For the same reason nobody becomes a voter unless a majority is connected with it.

What was proposed may be lost with a leader; so answers go by what is *committed*, proposals by what is in
force.

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
"""How long a leader that is to be removed tries to hand over."""
STEP_S = 0.1
"""How often requests look for their next step when nothing happens."""
HURRY_S = 0.005
"""The same while leadership is handed over: followers' acks are no event of ours."""
PROGRESS_S = 1.0
"""How often progress is told, unless it is of another kind."""

_NAME = re.compile(NAME)


class Peer(Protocol):
    """How a peer stands, as the engine knows it."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def match(self) -> int: ...
    @property
    def connected(self) -> bool: ...


class Engine(Protocol):
    """What is needed of the consensus engine."""

    @property
    def last_index(self) -> int: ...
    def peer_states(self) -> Iterable[Peer]: ...
    def caught_up(self, name: str) -> bool: ...
    def change_membership(self, new: Membership) -> int: ...
    def transfer_leadership(self, to: str | None = None) -> bool: ...


class Proposer(Protocol):
    """What is needed of the ordering of entries."""

    def stop(self) -> None: ...
    def go_on(self) -> None: ...


class Neighbours(Protocol):
    """What becomes of the membership on this node: `server.membership.members.Members`, and hellos."""

    def membership_changed(self, membership: Membership, index: int) -> None: ...
    def membership_committed(self, membership: Membership, index: int) -> None: ...
    def membership_settled(self, membership: Membership, index: int) -> None: ...
    def member_left(self, name: str) -> None: ...
    def look(self) -> None: ...
    def check_address(self, text: str) -> None: ...
    def directory_of(self, peer: str) -> str: ...


class NoNeighbours:
    """Of a node that will never have any."""

    def membership_changed(self, membership: Membership, index: int) -> None:
        """It is the only one."""

    def membership_committed(self, membership: Membership, index: int) -> None:
        """It was before."""

    def membership_settled(self, membership: Membership, index: int) -> None:
        """It is for good."""

    def member_left(self, name: str) -> None:
        """There is nobody to leave."""

    def look(self) -> None:
        """There is nobody to see."""

    def check_address(self, text: str) -> None:
        """Nobody could come."""
        raise ConfigError(["this node has no address for peers (cluster.nodes.NAME.peer): it stays alone"])

    def directory_of(self, peer: str) -> str:
        """Nobody has one."""
        return ""


@dataclass(slots=True)
class _Request:
    """One that is under way."""

    step: Callable[[_Request, float], dict[str, Any] | None]
    """Takes the next step. Its answer, if it is done."""
    name: str
    peer: str
    wait: bool
    answers: list[Answer]
    """Whoever asked for it."""
    within_s: float = GIVE_UP_S
    """How long somebody waits for it."""
    directory: str = ""
    """The id of the newcomer's directory, if it is the newcomer who asks."""
    since_s: float | None = None
    """When it was first looked at."""
    changed: bool = False
    """Something was proposed for it."""
    seen: bool = False
    """The node to be added was a member."""
    told: tuple[str, str] = ("", "")
    """Progress as told last: its kind, and the words."""
    told_s: float = 0.0
    hand_over_until_s: float | None = None

    def answer(self, value: dict[str, Any]) -> None:
        for answer in self.answers:
            answer(value)


class Reconfigurer:
    """Changes of members, on a ready leader.

    Args:
        node: this node's name.
        engine: where changes are proposed.
        proposer: proposes nothing while leadership is handed over.
        directory: the id of a peer's directory, as it says; empty while it has none.
        check_address: raises ConfigError for an address at which a peer must not be.
        kick: asks for a ``pump`` soon.
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
        """Of the entry that brought it."""

    # --- told by the engine -----------------------------------------------------------------------

    def changed(self, membership: Membership) -> None:
        """Another membership is in force here."""
        self.in_force = membership
        self._kick()

    def is_committed(self, membership: Membership, index: int = 0) -> None:
        """And it stays."""
        self.committed, self.committed_index = membership, index
        self._kick()

    @property
    def names(self) -> frozenset[str]:
        """Whoever is a member, or was until a change that isn't committed."""
        known = [membership.names for membership in (self.in_force, self.committed) if membership]
        return frozenset(name for names in known for name in names)

    # --- requests ---------------------------------------------------------------------------------

    def add(self, fields: dict[str, Any], answer: Answer) -> None:
        """Make ``name`` a member, at ``peer``; with ``wait``, answer when it votes.

        Raises:
            RefusedError: that can't be a name or an address.
        """
        name, peer = self._joining_node(fields)
        wait = bool(fields.get("wait", True))
        self._take(_Request(self._add, name, peer, wait, [answer], waited_for_s(fields)))

    def join(self, fields: dict[str, Any], answer: Answer) -> None:
        """Make ``name`` a member because it asks itself, at ``peer``, with the ``directory`` it has; answer
        once that is committed, with the membership; or that it is ``declined``, and why.
        """
        directory = str(fields.get("directory"))
        try:
            name, peer = self._joining_node(fields)
            if self.in_force is None or not self.in_force.joinable:
                raise RefusedError(
                    "this cluster was not founded by a bootstrap, so nodes don't join by themselves: "
                    f"stanchion cluster add {name} --peer {peer}"
                )
        except RefusedError as error:
            answer({"ok": {"declined": str(error)}})
        else:
            self._take(_Request(self._join, name, peer, False, [answer], waited_for_s(fields), directory))

    def _joining_node(self, fields: dict[str, Any]) -> tuple[str, str]:
        """Name and address of a node that is to come.

        Raises:
            RefusedError: that can't be one.
        """
        name, peer = fields.get("name"), fields.get("peer")
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise RefusedError(f"{name!r} can't be the name of a node: letters, digits, - and _, at most 64")
        if not isinstance(peer, str):
            raise RefusedError("an address is needed: where the other nodes connect to it, host:port")
        try:
            self._check_address(peer)
        except ConfigError as error:
            raise RefusedError(str(error)) from error
        return name, peer

    def remove(self, fields: dict[str, Any], answer: Answer) -> None:
        """Make ``name`` no member; with ``unreachable``, only if it isn't connected.

        Raises:
            RefusedError: it is connected.
        """
        name = str(fields.get("name"))
        if fields.get("absent") and name in self._connected() and self._is_member(name):
            raise RefusedError(f"{name} runs, with its directory: stop it first")
        self._take(_Request(self._remove, name, "", True, [answer], waited_for_s(fields)))

    def view(self, _fields: dict[str, Any], answer: Answer) -> None:
        """Who is a member, and how far each has come."""
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
        """Another leads: whoever asked asks it."""
        self._requests.clear()

    def pump(self, now_s: float) -> float:
        """Take every step that can be taken. Returns when to be called again. Only on a ready leader."""
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
                    {"error": f"not within {request.within_s:g} s; {request.name} is left as it is"}
                )
        if any(request.hand_over_until_s is not None for request in self._requests):
            return now_s + HURRY_S
        busy = self._requests or self.in_force.learners
        return now_s + STEP_S if busy else float("inf")

    def _take(self, request: _Request) -> None:
        """Begin with it; if it is under way, tell who asks now, too. Who asked first may be gone."""
        for other in self._requests:
            if (other.step, other.name, other.peer, other.wait, other.directory) == (
                request.step, request.name, request.peer, request.wait, request.directory,
            ):  # fmt: skip
                other.answers = [*other.answers, *request.answers][-SHARED_MAX:]
                other.within_s, other.since_s, other.told = request.within_s, None, ("", "")
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
            return  # not the leader any more, as this node is about to be told
        except RefusedError as error:
            done = {"error": str(error)}
        if done is not None:
            self._requests.remove(request)
            request.answer(done)

    def _notify(self, request: _Request, kind: str, text: str) -> None:
        """Tell progress: of another kind at once, else now and then."""
        told_kind, told_text = request.told
        if kind == told_kind and (text == told_text or self._now_s - request.told_s < PROGRESS_S):
            return
        request.told, request.told_s = (kind, text), self._now_s
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
            return self._let_in(request)
        except ConflictError:
            raise
        except RefusedError as error:
            return {"ok": {"declined": str(error)}}

    def _let_in(self, request: _Request) -> dict[str, Any] | None:
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
                f"{request.name} is a member of this cluster already, with another directory. Where that is "
                f"lost: stanchion cluster replace {request.name} {request.name}. Else choose another name"
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
        flow = next((peer for peer in self._engine.peer_states() if peer.name == name), None)
        last = self._engine.last_index
        if flow is None or not flow.connected or not self._directory(name):
            text = f"{name} is added; start it, with an empty directory: it does not answer at {request.peer}"
            self._notify(request, "absent", text)
        elif not self._engine.caught_up(name):
            self._notify(request, "behind", f"{name} catches up: it has {flow.match} of {last} entries")
        else:
            self._notify(request, "there", f"{name} has caught up")

    def _promote(self) -> None:
        """Let learners vote that have caught up: one at a time, as every change."""
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
                continue  # another copy, that was let in by mistake
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
            there = ", ".join(sorted(connected & {*new.voters})) or "nobody"
            raise RefusedError(
                f"without {name} there are {len(new.voters)} voting nodes, and of them only {there} "
                f"is connected: the cluster would stop. Start or remove the others first"
            )

    def _hand_over(self, request: _Request, now_s: float) -> dict[str, Any] | None:
        if request.hand_over_until_s is None:
            self._notify(request, "leads", f"{request.name} leads: it hands over first")
            request.hand_over_until_s = now_s + HAND_OVER_S
            self._proposer.stop()
        if now_s >= request.hand_over_until_s:
            self._proposer.go_on()
            return {
                "error": f"{request.name} leads, and nobody took over within {HAND_OVER_S:g} s; try again"
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
