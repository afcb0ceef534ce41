"""A small model of one Raft server after the other, held against the engine after each of its steps.

The engine is the pysyncobj library under our repairs (docs/raft-engine.md). The model knows nothing of
either: it sees which frames a server was given and which it sent, and what its log holds, and it derives
from the rules of Raft alone what that server may be and may have committed:

*Votes.* One vote a server and term, across restarts; for a candidate whose log is at least as good as the
voter's was when it was asked. *Elections.* Who leads has the votes of a majority of the voters its log
names, its own included if it is one. *Terms* never fall, and a leader of a term adds to its log only.
*Acks* name what is durable. *Commitment.* A leader commits an entry of its own term, which a majority has
acknowledged to it in that term. Who follows commits no more than leaders have told it, and no more than
they have verified in its log. No commit index falls.

The other checkers look at all servers together (`log_checks`, `member_checks`): election safety, log
matching, leader completeness, membership. This one says at which step of which server a rule was broken.

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
    def membership_at(self, index: int) -> Membership: ...


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

    def enter(self, term: int) -> None:
        """Go on to a later term, where nothing is known yet."""
        if term > self.term:
            self.term = term
            self.votes, self.acks = set(), {}


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
        server.votes, server.acks, server.led = set(), {}, 0
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
            case "ack" if term == self._server(name).term:  # else it is of an earlier leadership (S5)
                match = message["match"]
                if match > max(1, journal.durable_index) and match >= journal.first_readable:
                    raise ViolationError(
                        "ack rule",
                        f"{name} acknowledges entry {match}, its log is durable to {journal.durable_index}",
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

    def _leads(self, name: str, server: Server, engine: Engine, journal: JournalView) -> None:
        last = journal.last_index
        if server.led < engine.term:
            server.led = engine.term
            voters = engine.membership.voters
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
        electorates = [engine.membership.voters]
        if journal.first_index <= commit < engine.membership_index:
            electorates.append(engine.membership_at(commit).voters)
        if not any(2 * len(having & {*voters}) > len(voters) for voters in electorates):
            raise ViolationError(
                "commit rule",
                f"{name} commits entry {commit}: of {electorates} {sorted(having)} have acknowledged it",
            )


def last_of(journal: Any) -> Log:
    """Return term and index of a log's last entry."""
    return journal.term_at(journal.last_index) or 0, journal.last_index
