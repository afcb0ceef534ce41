"""Handles the frames of the leader: compare, append, acknowledge.

`append_check` decides what an append means for this log, the library changes the log, and the membership is
read from it afterwards. Every answer waits until the journal is durable (`durable_outbox`).
"""

from __future__ import annotations

from typing import Any

from node.errors import CorruptionError
from node.raft.active_membership import Reconfiguration
from node.raft.append_check import Accept, Refuse, check_append
from node.raft.durable_outbox import DurableOutbox
from node.raft.election import Election
from node.raft.frames import Ack, Alive, Append, Refusal, Stale
from node.raft.ports import JournalView, Listener
from node.raft.pysyncobj_adapter import Library
from node.raft.voting import Voting


class Follower:
    """The follower part of an engine. Idle while this node leads."""

    def __init__(
        self,
        *,
        name: str,
        library: Library,
        journal: JournalView,
        election: Election,
        voting: Voting,
        durable_outbox: DurableOutbox,
        reconfiguration: Reconfiguration,
        listener: Listener,
    ) -> None:
        self._name = name
        self._library = library
        self._journal = journal
        self._election = election
        self._voting = voting
        self._durable_outbox = durable_outbox
        self._reconfiguration = reconfiguration
        self._listener = listener

    def append(self, peer: str, append: Append) -> None:
        """Handle entries, a heartbeat or a new commit index.

        Raises:
            CorruptionError: the logs differ in a committed entry, or one term has two leaders.
        """
        if self._is_stale(peer, append.term):
            return
        verdict = check_append(append, self._journal, self._library.commit)
        match verdict:
            case Refuse(refused=refused, next=following):
                self._library.leader_contacted(peer, append.term)
                self._durable_outbox.send(peer, Refusal(append.term, refused, following))
            case Accept(match=match, prev=prev, entries=entries, commit=commit):
                if not entries:  # nothing new: keep the library from deleting what follows
                    prev = self._journal.last_index
                prev_term = self._journal.term_at(prev)
                assert prev_term is not None, f"entry {prev} was verified but is not in the log"
                self._library.append(
                    peer,
                    term=append.term,
                    prev=prev,
                    prev_term=prev_term,
                    entries=entries,
                    commit=commit,
                )
                self._reconfiguration.follow()
                if append.ask:
                    self._durable_outbox.send(peer, Ack(append.term, match))
        self._leader_contacted(peer, append.term, append.commit, append.heartbeat_payload)

    def alive(self, peer: str, alive: Alive) -> None:
        """Handle the heartbeat of a leader that can't send this node its log, only a snapshot.

        Raises:
            CorruptionError: one term has two leaders.
        """
        if self._is_stale(peer, alive.term):
            return
        self._library.leader_contacted(peer, alive.term)
        # Every committed entry of this log is in the log of the present leader.
        self._durable_outbox.send(peer, Ack(alive.term, self._library.commit))
        self._leader_contacted(peer, alive.term, alive.commit, alive.heartbeat_payload)

    def notify_leader(self, match: int) -> None:
        """Acknowledge everything up to ``match`` that was received by other means than an append."""
        leader = self._library.leader
        if leader is not None and leader != self._name:
            self._durable_outbox.send(leader, Ack(self._library.current_term, match))

    def _is_stale(self, peer: str, term: int) -> bool:
        """Reply to a frame of an earlier term with `Stale` (PS-25); returns whether it was one.

        Raises:
            CorruptionError: the current term has two leaders.
        """
        now, leader = self._library.current_term, self._library.leader
        if term < now:
            self._durable_outbox.send(peer, Stale(now))
            return True
        if term == now and leader not in {None, peer}:
            raise CorruptionError(f"term {term} has two leaders: {leader} and {peer}")
        return False

    def _leader_contacted(self, peer: str, term: int, commit: int, heartbeat_payload: Any) -> None:
        self._voting.cause = f"{peer} leads"
        self._election.leader_contacted()
        self._listener.leader_payload_received(peer, heartbeat_payload)
        self._listener.commit_learned(commit, term)
