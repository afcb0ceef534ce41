"""The adapter to pysyncobj 0.3.17: the only module that uses its private names.

The library keeps the role state machine, the vote rule, the append handler, the commit rule and the apply
loop. Everything that decides *when* is taken from it: its election deadline, its heartbeat time and its table
of responses are properties of this subclass that return what the engine allows. So its clock and random
generator have no influence, and several engines can run in one process. Its journal, serializer, poller,
transport and command queue are replaced by ours or removed. The library creates no thread or socket, and
pickles nothing.

Because private names are used, one exact release is required, not a range of versions. `verify` compares the
version, names, parameters and source files, and refuses any other.
"""

# The library prescribes the names of the methods below.
# ruff: noqa: N802, N803

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

# The library would import `cryptography` for its own transport, which is not used here and takes a thirtieth
# of a node's start. Without that package the library's own module sets HAS_CRYPTO to false, as here.
_encryptor = ModuleType("pysyncobj.encryptor")
_encryptor.HAS_CRYPTO, _encryptor.getEncryptor = False, None  # type: ignore[attr-defined]
sys.modules.setdefault("pysyncobj.encryptor", _encryptor)

# Its transport, which is not used either, imports a module that replaces `socket.inet_ntop` in the whole
# process by a function that works on Windows only (PS-47), and loads ctypes to do so.
sys.modules.setdefault("pysyncobj.win_inet_pton", ModuleType("pysyncobj.win_inet_pton"))

# ruff: noqa: E402  # imports below that line need it
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj import syncobj as library_module
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from node.errors import NodeError
from node.raft.library_log import LibraryLog, Received
from node.raft.ports import Entry, Role, Timing

SUPPORTED_VERSION = "0.3.17"

# Line ends are normalised before hashing.
SOURCES = {
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "config.py": "fbbc7ff9f18e4d15a7fd563376e42f5bd192956879d4b810b056d5248b955698",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
}

METHODS = {
    "_onTick": ("timeToWait",),
    "_checkCommandsToApply": (),
    "_SyncObj__connectedToAnyone": (),
    "_SyncObj__doApplyCommand": ("command",),
    "_SyncObj__generateRaftTimeout": (),
    "_SyncObj__loadDumpFile": ("clearJournal",),
    "_SyncObj__onMessageReceived": ("node", "message"),
    "_SyncObj__onNodeConnected": ("node",),
    "_SyncObj__onNodeDisconnected": ("node",),
    "_SyncObj__parseChangeClusterRequest": ("command",),
    "_SyncObj__sendAppendEntries": (),
    "_SyncObj__setCurrentTerm": ("term", "votedForNodeId"),
    "_SyncObj__setState": ("newState",),
    "_SyncObj__tryLogCompaction": (),
    "transferLeadership": ("node", "callback"),
}
"""Methods that are called or overridden, with their parameters."""

ATTRIBUTES = (
    "_SyncObj__lastResponseTime",
    "_SyncObj__needLoadDumpFile",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__noopIDx",
    "_SyncObj__otherNodes",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftLog",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__serializer",
    "_SyncObj__transferInProgress",
    "_poller",
)
"""Attributes that are read, written or replaced by properties; the library's constructor sets each."""

_ROLES = {0: Role.FOLLOWER, 1: Role.CANDIDATE, 2: Role.LEADER}
_FOLLOWER = 0
_FAR_S = 1e12
_PHANTOM = ""
"""A phantom voter that never answers. It compensates for the library's counting this node when it is no
voter."""


@functools.cache
def verify() -> None:
    """Check that the installed pysyncobj is the release this module was written for.

    Raises:
        NodeError: it is not; the text says what differs.
    """
    problems = _differences()
    if problems:
        raise NodeError(
            f"pysyncobj {SUPPORTED_VERSION} is needed, unchanged, but " + "; ".join(problems) + "; "
            f"install it again: pip install --force-reinstall pysyncobj=={SUPPORTED_VERSION}"
        )


def _differences() -> list[str]:
    if VERSION != SUPPORTED_VERSION:
        return [f"version {VERSION} is installed"]
    problems = []
    for name, parameters in METHODS.items():
        method = getattr(SyncObj, name, None)
        if method is None:
            problems.append(f"method {name} is missing")
        elif tuple(inspect.signature(method).parameters) != ("self", *parameters):
            problems.append(f"method {name} takes {inspect.signature(method)}")
    assigned = SyncObj.__init__.__code__.co_names
    problems += [f"attribute {name} is missing" for name in ATTRIBUTES if name not in assigned]
    folder = Path(library_module.__file__).parent
    for name, expected in SOURCES.items():
        try:
            source = (folder / name).read_bytes()
        except OSError as error:
            problems.append(f"its source {name} can't be read ({error.strerror})")
            continue
        if hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest() != expected:
            problems.append(f"its source {name} is not the released one")
    return problems


class Timer(Protocol):
    """Decides when the library may campaign."""

    @property
    def authorised(self) -> bool: ...
    def rearm(self) -> None: ...
    def authorise(self, *, transfer: bool) -> None: ...


class Owner(Protocol):
    """Receives what the library does. No method may raise, except for a failed apply."""

    def library_sent(self, peer: str, message: dict[str, Any]) -> None: ...
    def library_beat(self) -> None: ...
    def library_applies(self, index: int, payload: bytes) -> None: ...
    def library_role(self, old: Role, new: Role) -> None: ...


class _Member(Node):  # type: ignore[misc]  # the library is untyped
    """A node identified by its name. The hash is fixed, so that the library's sets iterate in the same order
    in every process.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = zlib.crc32(name.encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Member) and self.id == other.id

    def __hash__(self) -> int:
        return self._hash


class _LibraryTransport(Transport):  # type: ignore[misc]  # the library is untyped
    """The library's transport: it passes messages to the engine, which sends the corresponding frames."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(None, None, [])
        self._owner = owner

    def send(self, node: _Member, message: dict[str, Any]) -> bool:
        if node.id == _PHANTOM:
            return True
        self._owner.library_sent(node.id, message)
        return True


class _NoPoller:
    """The library's poller: there are no sockets to poll."""

    def poll(self, timeout: float) -> None:
        pass


class _Responses:
    """The library's table of last responses. It returns the result of the engine's check-quorum."""

    def __init__(self) -> None:
        self.quorum = True

    def clear(self) -> None:
        pass

    def __setitem__(self, node: _Member, at: float) -> None:
        pass

    def __getitem__(self, node: _Member) -> float:
        return math.inf if self.quorum else -math.inf


def _conf(timing: Timing) -> Any:
    return SyncObjConf(
        autoTick=False,
        useFork=False,
        dynamicMembershipChange=False,
        raftMinTimeout=timing.election_min_s,
        raftMaxTimeout=timing.election_max_s,
        appendEntriesPeriod=timing.heartbeat_s,
        leaderFallbackTimeout=timing.election_max_s,
        connectionTimeout=max(5.0, timing.election_max_s),
        appendEntriesUseBatch=True,
        appendEntriesBatchSizeBytes=16 << 20,
        logCompactionMinEntries=1 << 60,
        logCompactionMinTime=_FAR_S,
        pollerType="select",
    )


class Library(SyncObj):  # type: ignore[misc]  # the library is untyped
    """One pysyncobj engine, used through its private names. Other modules use only its typed interface."""

    def __init__(
        self, *, node: str, peers: Sequence[str], log: LibraryLog, timing: Timing, timer: Timer, owner: Owner
    ) -> None:
        self._log = log
        self._timer = timer
        self._owner = owner
        self._transport_stub = _LibraryTransport(owner)
        self._responses = _Responses()
        self._answers: list[dict[str, Any]] = []
        self._members: dict[str, _Member] = {}
        self.beat_due = False
        """True if the next tick of a leader sends heartbeats."""
        self.role = Role.FOLLOWER
        super().__init__(
            _Member(node),
            [self._member(name) for name in peers],
            conf=_conf(timing),
            nodeClass=_Member,
            transport=self._transport_stub,
        )
        self._SyncObj__needLoadDumpFile = False

    # --- what the library decided -------------------------------------------------------------------

    @property
    def current_term(self) -> int:
        term: int = self._SyncObj__raftCurrentTerm
        return term

    @property
    def leader(self) -> str | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def commit(self) -> int:
        index: int = self._SyncObj__raftCommitIndex
        return index

    @property
    def applied(self) -> int:
        index: int = self._SyncObj__raftLastApplied
        return index

    @property
    def alone(self) -> bool:
        """True if the group has no other voter."""
        return not self._SyncObj__otherNodes

    @property
    def no_op_index(self) -> int | None:
        """The index of the no-op of this node's latest leadership."""
        index = self._SyncObj__noopIDx
        return None if index is None else int(index)

    # --- what the engine makes it do ------------------------------------------------------------------

    def set_voters(self, matches: Mapping[str, int], *, counts: bool) -> None:
        """Count these voters from now on, for votes and commits.

        The library adds itself and requires more than half of its peers and itself. If this node is a voter,
        that is a majority of the voters. If it is not, a phantom peer that never answers corrects the count:
        of n voters, more than n / 2 must then have answered.

        Args:
            matches: the voters without this node; on a leader, with the match index of each.
            counts: True if this node is a voter.
        """
        found = dict(matches) if counts else {**matches, _PHANTOM: 0}
        others = {self._member(name): match for name, match in found.items()}
        self._SyncObj__otherNodes = set(others)
        self._SyncObj__raftMatchIndex = others
        self._SyncObj__raftNextIndex = {node: match + 1 for node, match in others.items()}

    def _member(self, name: str) -> _Member:
        """Return the library's object for a node; always the same object for one name."""
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = _Member(name)
        return member

    def start_from(self, applied: int) -> None:
        """Start with everything up to ``applied`` in the state, and therefore committed."""
        self._SyncObj__raftLastApplied = applied
        self.commit_to(max(applied, self.commit))

    def commit_to(self, index: int) -> None:
        """Mark everything up to ``index``, which must be in the log, as committed."""
        self._SyncObj__raftCommitIndex = index

    def tick(self, *, quorum: bool) -> None:
        """Campaign if authorised; as a leader commit, and step down without a quorum; apply.

        A tick of the library checks everything, even if there is nothing to do. Such ticks, the most, are
        skipped.
        """
        commit = self._SyncObj__raftCommitIndex
        idle = (
            quorum
            and commit == self._SyncObj__raftLastApplied
            and not self.beat_due
            and not self._timer.authorised
            and (self.role is not Role.LEADER or self._log.readable() <= commit)
        )
        if not idle:
            self._responses.quorum = quorum
            self._onTick(0.0)

    def connect(self, peer: str) -> None:
        self._SyncObj__onNodeConnected(self._member(peer))

    def disconnect(self, peer: str) -> None:
        self._SyncObj__onNodeDisconnected(self._member(peer))

    def leader_contacted(self, peer: str, term: int) -> None:
        """Register that ``peer`` leads ``term``, without changing the log."""
        self._receive(peer, {"type": "append_entries", "term": term, "commit_index": 0, "serialized": None})

    def append(
        self, peer: str, *, term: int, prev: int, prev_term: int, entries: list[Entry], commit: int
    ) -> None:
        """Append ``entries`` after ``prev``, on behalf of ``peer``, the leader of ``term``."""
        self._answers.clear()
        self._receive(
            peer,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": prev,
                "prevLogTerm": prev_term,
                "entries": [(Received(payload), index, of_term) for index, of_term, payload in entries],
            },
        )
        answers = [answer["success"] for answer in self._answers]
        assert answers == [True], f"the library answered {answers} to what was verified"

    def acked(self, peer: str, match: int) -> None:
        self._receive(
            peer, {"type": "next_node_idx", "reset": False, "success": True, "next_node_idx": match + 1}
        )

    def ask_vote(self, peer: str, *, term: int, last_index: int, last_term: int) -> None:
        """Handle a vote request of ``peer``."""
        self._receive(
            peer,
            {
                "type": "request_vote",
                "term": term,
                "last_log_index": last_index,
                "last_log_term": last_term,
            },
        )

    def voted(self, peer: str, term: int) -> None:
        self._receive(peer, {"type": "response_vote", "term": term})

    def begin_term(self, peer: str, term: int) -> None:
        """Handle the leader's request to campaign: the library authorises the timer."""
        self._receive(peer, {"type": "timeout_now", "term": term})

    def transfer_to(self, peer: str) -> bool:
        """Ask ``peer`` to campaign; returns False unless it has the whole log."""
        results: list[object] = []
        self.transferLeadership(self._member(peer), lambda _, reason: results.append(reason))
        return results == [0]

    def end_transfer(self) -> None:
        """End a leadership transfer that led to no campaign: frames of the leader are accepted as before."""
        self._SyncObj__transferInProgress = False

    def forget_leader(self) -> None:
        """Forget the leader after the election timeout; a candidate becomes a follower."""
        self._SyncObj__raftLeader = None
        if self.role is Role.CANDIDATE:
            self._SyncObj__setState(_FOLLOWER)

    def resign(self) -> None:
        """Step down in the same term."""
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = None

    def step_down(self, term: int) -> None:
        """Become a follower of a later term, without a known leader."""
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = None
        self._SyncObj__transferInProgress = False

    def _receive(self, peer: str, message: dict[str, Any]) -> None:
        self._SyncObj__onMessageReceived(self._member(peer), message)

    def answered(self, message: dict[str, Any]) -> None:
        """Record the library's answer to an append. It is only checked; the engine sends its own ack."""
        self._answers.append(message)

    # --- properties in the place of the library's attributes --------------------------------------------

    @property
    def _SyncObj__raftLog(self) -> LibraryLog:
        return self._log

    @_SyncObj__raftLog.setter
    def _SyncObj__raftLog(self, journal: object) -> None:
        """Discard the library's own journal."""

    @property
    def _SyncObj__raftElectionDeadline(self) -> float:
        return -math.inf if self._timer.authorised else math.inf

    @_SyncObj__raftElectionDeadline.setter
    def _SyncObj__raftElectionDeadline(self, deadline: float) -> None:
        if deadline == 0:  # only a leadership transfer assigns zero
            self._timer.authorise(transfer=True)
        else:
            self._timer.rearm()

    @property
    def _SyncObj__newAppendEntriesTime(self) -> float:
        return -math.inf if self.beat_due else math.inf

    @_SyncObj__newAppendEntriesTime.setter
    def _SyncObj__newAppendEntriesTime(self, at: float) -> None:
        """Ignored: the engine keeps this time."""

    @property
    def _SyncObj__lastResponseTime(self) -> _Responses:
        return self._responses

    @_SyncObj__lastResponseTime.setter
    def _SyncObj__lastResponseTime(self, table: object) -> None:
        """Ignored: the engine keeps these times."""

    @property
    def _SyncObj__serializer(self) -> None:
        """None: the store handles snapshots."""

    @_SyncObj__serializer.setter
    def _SyncObj__serializer(self, serializer: object) -> None:
        pass

    @property
    def _poller(self) -> _NoPoller:
        return _NoPoller()

    @_poller.setter
    def _poller(self, poller: object) -> None:
        pass

    # --- methods in the place of the library's ----------------------------------------------------------

    def _SyncObj__generateRaftTimeout(self) -> float:
        return 0.0

    def _SyncObj__sendAppendEntries(self) -> None:
        self._owner.library_beat()

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        self._owner.library_applies(self.applied + 1, command)

    def _SyncObj__setState(self, state: int) -> None:
        old = self.role
        super()._SyncObj__setState(state)
        self.role = _ROLES[state]
        if self.role is not old:
            self._owner.library_role(old, self.role)

    def _SyncObj__parseChangeClusterRequest(self, command: object) -> None:
        """Do nothing: the engine manages the membership (PS-8, PS-9)."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """Do nothing: the journal drops its own entries."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise AssertionError("the library never loads a snapshot")

    def _checkCommandsToApply(self) -> None:
        """Do nothing: proposals are appended to the journal directly."""
