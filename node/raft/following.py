"""What a node does with the frames of whoever leads: compare, append, answer, take note.

`inbound` decides what an append means for our log, the library changes it, and the members follow
what it then says. Every answer is a promise and waits for the disk.
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
    """The part of an engine that listens to a leader. Idle while the node leads."""

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
        """Take entries, a heartbeat or a commit index.

        Raises:
            CorruptionError: logs contradict each other where they are committed, or a term has two leaders.
        """
        if self._is_stale(peer, append.term):
            return
        verdict = check_append(append, self._journal, self._library.commit)
        match verdict:
            case Refuse(refused=refused, next=following):
                self._library.hear(peer, append.term)
                self._durable_outbox.send(peer, Refusal(append.term, refused, following))
            case Accept(match=match, prev=prev, entries=entries, commit=commit):
                if not entries:  # nothing new: no reason to let the library delete what follows
                    prev = self._journal.last_index
                prev_term = self._journal.term_at(prev)
                assert prev_term is not None, f"entry {prev} was verified but isn't there"
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
        self._heard(peer, append.term, append.commit, append.note)

    def alive(self, peer: str, alive: Alive) -> None:
        """Take the heartbeat of a leader that has no log for us, only a snapshot.

        Raises:
            CorruptionError: a term has two leaders.
        """
        if self._is_stale(peer, alive.term):
            return
        self._library.hear(peer, alive.term)
        # What is committed here is in the log of whoever leads now.
        self._durable_outbox.send(peer, Ack(alive.term, self._library.commit))
        self._heard(peer, alive.term, alive.commit, alive.note)

    def notify_leader(self, match: int) -> None:
        """Acknowledge everything up to ``match``, which came by another way than an append."""
        leader = self._library.leader
        if leader is not None and leader != self._name:
            self._durable_outbox.send(leader, Ack(self._library.current_term, match))

    def _is_stale(self, peer: str, term: int) -> bool:
        """Answer a leader of the past (PS-25). There can't be two of the present."""
        now, leader = self._library.current_term, self._library.leader
        if term < now:
            self._durable_outbox.send(peer, Stale(now))
            return True
        if term == now and leader not in {None, peer}:
            raise CorruptionError(f"term {term} has two leaders: {leader} and {peer}")
        return False

    def _heard(self, peer: str, term: int, commit: int, note: Any) -> None:
        self._voting.cause = f"{peer} leads"
        self._election.leader_contacted()
        self._listener.noted_leader(peer, note)
        self._listener.commit_learned(commit, term)
