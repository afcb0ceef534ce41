"""The part of a node in elections: asking for votes, answering, and accepting a later term.

`Election` keeps times and counts; the library grants votes and becomes leader. This module connects them with
the peers' frames, and enforces the rules of an election:

- A node without contact with a leader first asks for *pre-votes*, which do not increase the term.
- A leader, and a node in contact with one, denies them (stickiness), unless the leader itself asked for the
  election.
- A later term is adopted from any peer, and a frame of an earlier term is always answered (PS-25).
- A learner does not ask, and is not counted. A vote request is answered by comparing the logs, whether the
  candidate is a member or not: a node that is behind may not have the present membership, which may include
  itself.
- Of two nodes that ask at the same moment, only the one with the better log (or the greater name) gets the
  other's pre-vote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from node.raft.durable_outbox import DurableSend
from node.raft.election import Election
from node.raft.frames import PreVote, PreVoteRequest, Stale, TimeoutNow, Vote, VoteRequest
from node.raft.ports import JournalView, Message, Role
from node.raft.pysyncobj_adapter import Library

Ballot: TypeAlias = VoteRequest | Vote | PreVoteRequest | PreVote | TimeoutNow | Stale


class Voting:
    """The part of an engine that campaigns and votes.

    Args:
        name: this node's name.
        library: changes roles and grants votes.
        journal: the log to compare, and the vote of this term.
        election: times and counts.
        connected: returns the voters that can be asked.
        counts: returns whether a peer is a voter, with the directory that the log names.
        may_campaign: returns whether this node may be a candidate.
        ask: sends a message that need not be durable.
        durable_send: sends a message when it is durable.
        payload_received: is called with the heartbeat payloads of answers.
    """

    def __init__(
        self,
        *,
        name: str,
        library: Library,
        journal: JournalView,
        election: Election,
        connected: Callable[[], Sequence[str]],
        counts: Callable[[str], bool],
        may_campaign: Callable[[], bool],
        ask: Callable[[str, Message], None],
        durable_send: Callable[[str, DurableSend], None],
        payload_received: Callable[[str, Any], None],
    ) -> None:
        self.cause = "start"
        """The reason of the latest change of role, term or leader, for the log."""
        self._name = name
        self._library = library
        self._journal = journal
        self._election = election
        self._connected = connected
        self._counts = counts
        self._may_campaign = may_campaign
        self._ask = ask
        self._send_durably = durable_send
        self._payload_received = payload_received

    @property
    def _term(self) -> int:
        return self._library.current_term

    @property
    def _last(self) -> tuple[int, int]:
        """Term and index of the last entry: the greater pair is the better log."""
        last = self._journal.last_index
        return self._journal.term_at(last) or 0, last

    def ask(self) -> None:
        """Ask for pre-votes when the timer has expired. A single voter campaigns at once; a learner does
        nothing.
        """
        self._election.rearm()
        self.cause = "no contact with a leader"
        self._library.forget_leader()
        if not self._may_campaign():
            return
        if self._library.alone:
            self._election.authorise(transfer=False)
            return
        term, (last_term, last_index) = self._term + 1, self._last
        self._election.ask(term)
        request = PreVoteRequest(term, last_index, last_term).encode()
        for peer in self._connected():
            self._ask(peer, request)

    def receive(self, peer: str, ballot: Ballot) -> bool:
        """Handle a frame. Returns True if the library may campaign now, so that `tick` must be called."""
        match ballot:
            case VoteRequest():
                self._on_vote_request(peer, ballot)
            case Vote():
                self._on_vote(peer, ballot)
            case PreVoteRequest():
                self._on_pre_vote_request(peer, ballot)
            case PreVote():
                return self._on_pre_vote(peer, ballot)
            case TimeoutNow():
                return self._on_timeout_now(peer, ballot)
            case Stale():
                self.overtaken(peer, ballot.term)
        return False

    def overtaken(self, peer: str, term: int) -> bool:
        """Step down if ``term`` is later than this node's, whichever peer sent it. Returns whether it is."""
        if term <= self._term:
            return False
        self.cause = f"{peer} sent the later term {term}"
        self._library.step_down(term)
        self._election.rearm()
        return True

    def _on_vote_request(self, peer: str, request: VoteRequest) -> None:
        if request.term < self._term:
            self._send_durably(peer, Stale(self._term))
            return
        if not request.transfer and (
            self._library.role is Role.LEADER or self._election.has_leader_contact()
        ):
            return
        if request.term == self._term and self._journal.voted_for == peer:
            self._send_durably(peer, Vote(self._term))  # PS-28: the first answer may have been lost
            return
        self.cause = f"{peer} campaigns"
        self._library.ask_vote(
            peer, term=request.term, last_index=request.last_index, last_term=request.last_term
        )

    def _on_vote(self, peer: str, vote: Vote) -> None:
        if self.overtaken(peer, vote.term) or vote.term < self._term:
            return
        self._payload_received(peer, vote.heartbeat_payload)
        if not self._counts(peer):
            return
        if self._library.role is Role.CANDIDATE and self._election.voted(peer):
            self.cause = f"elected, last by {peer}"
            self._library.voted(peer, vote.term)

    def _on_pre_vote_request(self, peer: str, request: PreVoteRequest) -> None:
        ours, theirs = self._last, (request.last_term, request.last_index)
        granted = (
            self._library.role is not Role.LEADER
            and not self._election.has_leader_contact()
            and request.term > self._term
            and theirs >= ours
        )
        if granted and self._election.asks(request.term):
            granted = (theirs, peer) > (ours, self._name)
        if granted:
            self._election.yield_to_candidate()
        self._send_durably(peer, PreVote(request.term, granted, self._term))

    def _on_pre_vote(self, peer: str, answer: PreVote) -> bool:
        if self.overtaken(peer, answer.current):
            return False
        self._payload_received(peer, answer.heartbeat_payload)
        if not answer.granted or answer.term != self._term + 1 or self._library.role is Role.LEADER:
            return False
        if not (self._counts(peer) and self._election.pre_voted(peer, answer.term)):
            return False
        self.cause = "a majority would vote for this node"
        self._election.authorise(transfer=False)
        return True

    def _on_timeout_now(self, peer: str, request: TimeoutNow) -> bool:
        if request.term != self._term or self._library.leader != peer or not self._may_campaign():
            return False
        self.cause = f"{peer} transferred leadership"
        self._library.begin_term(peer, request.term)
        return True
