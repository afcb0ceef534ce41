"""A small model of each Raft server, compared with the engine after each of its steps.

The engine is the pysyncobj library with our corrections (docs/raft-engine.md). The model uses no code of
either. From the frames that a server received and sent, and from the contents of its log, it derives by the
rules of Raft alone which role the server may have and which entries it may have committed:

*Votes.* One vote per server and term, across restarts; only for a candidate whose log is at least as good as
the voter's was when it was asked. *Elections.* A leader has the votes of a majority of the voters in its
log, including its own if it is a voter. *Terms* never fall, and a leader only appends to its log. *Acks*
name durable entries. *Log matching.* When a server acknowledges an entry to a leader, the term of its entry
is the one that this leader's appends named: by induction all earlier entries are the same. *Membership.* The
model reads the voters from the server's own log, not from the engine. A leader begins a change only when the
previous one and an entry of its own term are committed, and the change adds or removes at most one voter.
Votes and acks of other servers, including removed ones, don't count. *Commitment.* A leader commits an entry
of its own term that a majority has acknowledged to it in that term. A follower commits no more than leaders
have reported as committed, and no more than they have verified in its log. No commit index falls.

Cost: a step looks at the entries of the received frames and at the last membership, never at whole logs.

The other checkers look at all servers together (`log_checks`, `member_checks`): election safety, all entries
of all logs, leader completeness, and committed memberships. This model reports at which step of which server
a rule was broken.

Source: Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from node.raft.membership import Membership
from node.raft.ports import JournalView, Message, Role
from node.simulator.raft_checks import ViolationError

Log = tuple[int, int]
"""Term and index of the last entry of a log. The greater value is the better log."""


class Engine(Protocol):
    """The parts of the engine that the model is compared with."""

    @property
    def role(self) -> Role: ...
    @property
    def term(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def membership(self) -> Membership: ...
    @property
    def membership_index(self) -> int: ...


Placed = tuple[int, bytes]
"""Index of the entry that contains a membership, and its bytes."""

CLAIMS_MAX = 1024
"""How many entries of a leader's log are remembered for one follower: more than are ever in transit."""


@dataclass(slots=True)
class Server:
    """One server, as derived from its frames."""

    term: int = 0
    voted: dict[int, str] = field(default_factory=dict)
    """The candidate it voted for, by term."""
    log_when_asked: dict[tuple[int, str], Log] = field(default_factory=dict)
    """The end of its own log when a candidate asked for its vote, by term and candidate."""
    votes: set[str] = field(default_factory=set)
    """The servers that voted for it in `term`."""
    acks: dict[str, int] = field(default_factory=dict)
    """The last index that each peer acknowledged to it in `term`."""
    led: int = 0
    """The last term in which it was the leader."""
    last_index: int = 0
    """The last index of its log when it was last observed as the leader."""
    commit: int = 0
    reported: int = 0
    """The index up to which leaders and snapshots have reported its log as committed."""
    claims: dict[int, int] = field(default_factory=dict)
    """The terms of entries of the leader's log, by index, as named by the leader's appends in `term`."""
    placed: Placed | None = None
    """The last membership observed in its log."""
    members: Membership | None = None
    """The same, decoded; None while its log has no membership."""

    def enter(self, term: int) -> None:
        """Move to a later term, with empty records."""
        if term > self.term:
            self.term = term
            self.votes, self.acks, self.claims = set(), {}, {}

    def claim(self, message: Message) -> None:
        """Record the terms of the entries that an append of the leader names."""
        if len(self.claims) > CLAIMS_MAX:
            self.claims.clear()
        self.claims[message["prev"]] = message["prev_term"]
        for index, term, *_ in message["entries"]:
            self.claims[index] = term


class RaftModel:
    """The models of all servers, updated by every start, frame and step."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._asked: dict[tuple[str, int], Log] = {}
        """The end of a candidate's log in a term, as it claimed."""

    def _server(self, name: str) -> Server:
        return self._servers.setdefault(name, Server())

    def started(self, name: str, commit: int) -> None:
        """Record the start of a process: it knows that the entries in its store are committed."""
        server = self._server(name)
        server.votes, server.acks, server.claims, server.led = set(), {}, {}, 0
        server.commit = server.reported = commit

    def emptied(self, name: str) -> None:
        """Forget a machine whose directory was wiped on purpose: it is another server with the same name."""
        self._servers.pop(name, None)

    def installed(self, name: str, index: int) -> None:
        """Record that a snapshot of entry ``index`` was installed or offered: the entry is committed."""
        server = self._server(name)
        server.reported = max(server.reported, index)

    # --- frames -----------------------------------------------------------------------------------

    def received(self, name: str, peer: str, message: Message, journal: JournalView) -> None:
        """Record a frame that a server is about to handle."""
        server, term = self._server(name), message.get("term", 0)
        match message.get("type"):
            case "vote":
                key = (term, peer)
                server.log_when_asked[key] = min(
                    server.log_when_asked.get(key, last_of(journal)), last_of(journal)
                )
            case "voted":
                server.enter(term)
                if term == server.term:
                    server.votes.add(peer)
            case "ack":
                server.enter(term)
                if term == server.term:
                    server.acks[peer] = max(message["match"], server.acks.get(peer, 0))
            case "append":
                verified = message["prev"] + len(message["entries"])
                server.reported = max(server.reported, min(message["commit"], verified))
                server.enter(term)
                if term == server.term:
                    server.claim(message)
            case _:
                pass

    def sent(self, name: str, peer: str, message: Message, journal: JournalView) -> None:
        """Check a frame that a server has sent.

        Raises:
            ViolationError: the rules don't allow the frame.
        """
        term = message.get("term", 0)
        match message.get("type"):
            case "vote":
                self._vote(name, term, name)
                self._asked[name, term] = (message["last_term"], message["last_index"])
            case "voted":
                self._vote(name, term, peer)
                theirs = self._asked.get((peer, term))
                ours = self._server(name).log_when_asked.get((term, peer))
                if theirs is None or ours is None or theirs < ours:
                    raise ViolationError(
                        "vote rule",
                        f"{name}, with a log up to {ours}, votes in term {term} for {peer}, with a log "
                        f"up to {theirs}",
                    )
            case "ack" if term == self._server(name).term:  # otherwise of an earlier leadership (PS-5)
                match = message["match"]
                if match > max(1, journal.durable_index) and match >= journal.first_readable:
                    raise ViolationError(
                        "ack rule",
                        f"{name} acknowledges entry {match}, its log is durable to {journal.durable_index}",
                    )
                claimed, found = self._server(name).claims.get(match), journal.term_at(match)
                if claimed is not None and found is not None and claimed != found:
                    raise ViolationError(
                        "matching rule",
                        f"{name} acknowledges entry {match} of term {claimed} to {peer}, "
                        f"it has one of term {found}",
                    )
            case _:
                pass

    def _vote(self, name: str, term: int, candidate: str) -> None:
        given = self._server(name).voted.setdefault(term, candidate)
        if given != candidate:
            raise ViolationError("vote rule", f"{name} votes in term {term} for {given} and for {candidate}")

    # --- steps ------------------------------------------------------------------------------------

    def stepped(self, name: str, engine: Engine, journal: JournalView) -> None:
        """Check a server after a step.

        Raises:
            ViolationError: the rules don't allow its role, its term, its membership or its commit index.
        """
        server = self._server(name)
        if engine.term < server.led:
            raise ViolationError("term rule", f"{name} goes back to term {engine.term} from {server.led}")
        server.enter(engine.term)
        commit = engine.commit_index
        self._check_membership(name, server, engine, journal)
        if engine.role is Role.LEADER:
            self._check_leader(name, server, engine, journal)
        if commit < server.commit:
            raise ViolationError("commit rule", f"{name} commits {commit} after {server.commit}")
        if commit > server.commit:
            # It may have led until this step, and have lost the leadership by what it committed.
            if server.led == engine.term and commit > server.reported:
                self._check_commit(name, server, engine, journal)
            elif commit > max(1, server.reported):
                raise ViolationError(
                    "commit rule", f"{name} follows and commits {commit}, only {server.reported} was reported"
                )
            server.commit = commit

    def _check_membership(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
        """Read the membership from the log, and check a change that a leader has begun."""
        placed = journal.membership
        if placed != server.placed:
            before, since = server.members, 0 if server.placed is None else server.placed[0]
            server.placed = placed
            server.members = None if placed is None else Membership.decode(placed[1])
            began = engine.role is Role.LEADER and server.led == engine.term
            if began and before is not None and placed is not None and placed[0] > since:
                self._check_change(name, server, before, since, engine, journal)
        if server.members is not None and server.members != engine.membership:
            raise ViolationError(
                "membership rule",
                f"{name} uses {engine.membership.voters}, its log has {server.members.voters}",
            )

    def _check_change(
        self, name: str, server: Server, before: Membership, since: int, engine: Engine, journal: JournalView
    ) -> None:
        """Check a membership that a leader has appended after that of entry ``since``."""
        assert server.members is not None
        commit = engine.commit_index
        if since > commit or journal.term_at(commit) != engine.term:
            raise ViolationError(
                "membership rule",
                f"{name} leads term {engine.term} and begins a change, {commit} is committed and the change "
                f"of entry {since} came before",
            )
        if len(before.copies() ^ server.members.copies()) > 1:
            raise ViolationError(
                "membership rule", f"{name} turns {before.voters} into {server.members.voters} at once"
            )

    def _check_leader(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
        last = journal.last_index
        if server.led < engine.term:
            server.led = engine.term
            voters = (server.members or engine.membership).voters
            votes = (server.votes | {name}) & {*voters}
            if 2 * len(votes) <= len(voters):
                raise ViolationError(
                    "election rule",
                    f"{name} leads term {engine.term} with the votes of {sorted(votes)}, of {voters}",
                )
        elif last < server.last_index:
            raise ViolationError(
                "append-only", f"{name} leads term {engine.term} and cuts {server.last_index} to {last}"
            )
        server.last_index = last

    def _check_commit(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
        commit = engine.commit_index
        if journal.term_at(commit) != engine.term:
            raise ViolationError(
                "commit rule",
                f"{name} leads term {engine.term} and commits entry {commit} of term "
                f"{journal.term_at(commit)} by counting",
            )
        having = {peer for peer, match in server.acks.items() if match >= commit}
        if journal.durable_index >= commit:
            having.add(name)
        electorates = [(server.members or engine.membership).voters]
        since = 0 if server.placed is None else server.placed[0]
        if journal.first_index <= commit < since:  # committed before the change was appended, in this step
            earlier = journal.membership_at(commit)
            if earlier is not None:
                electorates.append(Membership.decode(earlier[1]).voters)
        if not any(2 * len(having & {*voters}) > len(voters) for voters in electorates):
            raise ViolationError(
                "commit rule",
                f"{name} commits entry {commit}: of {electorates} {sorted(having)} have acknowledged it",
            )


def last_of(journal: Any) -> Log:
    """Return term and index of a log's last entry."""
    return journal.term_at(journal.last_index) or 0, journal.last_index
