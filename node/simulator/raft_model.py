"""A small model of one Raft server after the other, held against the engine after each of its steps.

The engine is the pysyncobj library under our repairs (docs/raft-engine.md). The model knows nothing of
either: it sees which frames a server was given and which it sent, and what its log holds, and it derives
from the rules of Raft alone what that server may be and may have committed:

*Votes.* One vote a server and term, across restarts; for a candidate whose log is at least as good as the
voter's was when it was asked. *Elections.* Who leads has the votes of a majority of the voters its log
names, its own included if it is one. *Terms* never fall, and a leader of a term adds to its log only.
*Acks* name what is durable. *Log matching.* A server that acknowledges an entry to a leader has an entry of
the term there that this leader's appends named: by induction all entries before it are the same.
*Membership.* The model reads who counts from the server's own log, not from the engine. A leader begins a
change when the one before and an entry of its own term are committed, and no more than one voter differs.
Votes and acks of others, removed servers among them, count for nothing. *Commitment.* A leader commits an
entry of its own term, which a majority has acknowledged to it in that term. Who follows commits no more
than leaders have told it, and no more than they have verified in its log. No commit index falls.

Cost: a step looks at the entries of the frames it was given and at the last membership, never at whole logs.

The other checkers look at all servers together (`log_checks`, `member_checks`): election safety, all entries
of all logs, leader completeness, what becomes of committed memberships. This one says at which step of which
server a rule was broken.

Source: Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from node.raft.membership import Membership
from node.raft.ports import JournalView, Message, Role
from node.simulator.raft_checks import ViolationError

Log = tuple[int, int]
"""Term and index of a last entry: the better log has the greater."""


class Engine(Protocol):
    """What the model is held against."""

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
"""The entry that brought a membership, and its bytes."""

CLAIMS_MAX = 1024
"""Entries of a leader's log that are remembered for one follower: more than are ever on their way to it."""


@dataclass(slots=True)
class Server:
    """One server, as far as its frames tell."""

    term: int = 0
    voted: dict[int, str] = field(default_factory=dict)
    """By term: for whom."""
    judged: dict[tuple[int, str], Log] = field(default_factory=dict)
    """Its own log when a candidate asked for its vote, by term and candidate."""
    votes: set[str] = field(default_factory=set)
    """Who has voted for it in `term`."""
    acks: dict[str, int] = field(default_factory=dict)
    """What was acknowledged to it in `term`."""
    led: int = 0
    """The last term in which it was seen to lead."""
    last_index: int = 0
    """The end of its log when it was seen to lead last."""
    commit: int = 0
    told: int = 0
    """How far leaders and snapshots have told it that its log is committed."""
    claims: dict[int, int] = field(default_factory=dict)
    """The terms of entries of the leader's log, by index, as its appends in `term` named them."""
    placed: Placed | None = None
    """The last membership that was seen in its log."""
    members: Membership | None = None
    """The same, decoded; None while its log has none."""

    def enter(self, term: int) -> None:
        """Go on to a later term, where nothing is known yet."""
        if term > self.term:
            self.term = term
            self.votes, self.acks, self.claims = set(), {}, {}

    def claim(self, message: Message) -> None:
        """Note the terms of the entries that an append of the leader names."""
        if len(self.claims) > CLAIMS_MAX:
            self.claims.clear()
        self.claims[message["prev"]] = message["prev_term"]
        for index, term, *_ in message["entries"]:
            self.claims[index] = term


class RaftModel:
    """All servers. Told of every start, frame and step."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._asked: dict[tuple[str, int], Log] = {}
        """The log of a candidate of a term, as it said."""

    def _server(self, name: str) -> Server:
        return self._servers.setdefault(name, Server())

    def started(self, name: str, commit: int) -> None:
        """A process starts: it knows to be committed what its store holds."""
        server = self._server(name)
        server.votes, server.acks, server.claims, server.led = set(), {}, {}, 0
        server.commit = server.told = commit

    def emptied(self, name: str) -> None:
        """A machine has lost its directory, on purpose: it is another server with the same name."""
        self._servers.pop(name, None)

    def installed(self, name: str, index: int) -> None:
        """A snapshot of entry ``index`` was installed or offered, so that is committed."""
        server = self._server(name)
        server.told = max(server.told, index)

    # --- frames -----------------------------------------------------------------------------------

    def received(self, name: str, peer: str, message: Message, journal: JournalView) -> None:
        """A server is about to take a frame."""
        server, term = self._server(name), message.get("term", 0)
        match message.get("type"):
            case "vote":
                key = (term, peer)
                server.judged[key] = min(server.judged.get(key, last_of(journal)), last_of(journal))
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
                server.told = max(server.told, min(message["commit"], verified))
                server.enter(term)
                if term == server.term:
                    server.claim(message)
            case _:
                pass

    def sent(self, name: str, peer: str, message: Message, journal: JournalView) -> None:
        """A server has sent a frame.

        Raises:
            ViolationError: it must not have.
        """
        term = message.get("term", 0)
        match message.get("type"):
            case "vote":
                self._vote(name, term, name)
                self._asked[name, term] = (message["last_term"], message["last_index"])
            case "voted":
                self._vote(name, term, peer)
                theirs = self._asked.get((peer, term))
                ours = self._server(name).judged.get((term, peer))
                if theirs is None or ours is None or theirs < ours:
                    raise ViolationError(
                        "vote rule",
                        f"{name}, whose log ended with {ours}, votes in term {term} for {peer}, whose ends "
                        f"with {theirs}",
                    )
            case "ack" if term == self._server(name).term:  # else it is of an earlier leadership (PS-5)
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
        """A server has done something.

        Raises:
            ViolationError: it is what it must not be, or knows what it can't.
        """
        server = self._server(name)
        if engine.term < server.led:
            raise ViolationError("term rule", f"{name} goes back to term {engine.term} from {server.led}")
        server.enter(engine.term)
        commit = engine.commit_index
        self._goes_by(name, server, engine, journal)
        if engine.role is Role.LEADER:
            self._leads(name, server, engine, journal)
        if commit < server.commit:
            raise ViolationError("commit rule", f"{name} commits {commit} after {server.commit}")
        if commit > server.commit:
            # It may have led until this very step, and have gone with what it committed.
            if server.led == engine.term and commit > server.told:
                self._commits(name, server, engine, journal)
            elif commit > max(1, server.told):
                raise ViolationError(
                    "commit rule", f"{name} follows and commits {commit}, it was told of {server.told}"
                )
            server.commit = commit

    def _goes_by(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
        """Read the members from the log, and look at a change that a leader has begun."""
        placed = journal.membership
        if placed != server.placed:
            before, since = server.members, 0 if server.placed is None else server.placed[0]
            server.placed = placed
            server.members = None if placed is None else Membership.decode(placed[1])
            began = engine.role is Role.LEADER and server.led == engine.term
            if began and before is not None and placed is not None and placed[0] > since:
                self._changes(name, server, before, since, engine, journal)
        if server.members is not None and server.members != engine.membership:
            raise ViolationError(
                "membership rule",
                f"{name} goes by {engine.membership.voters}, its log by {server.members.voters}",
            )

    def _changes(
        self, name: str, server: Server, before: Membership, since: int, engine: Engine, journal: JournalView
    ) -> None:
        """A leader has appended a membership, after that of entry ``since``."""
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

    def _leads(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
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

    def _commits(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
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
