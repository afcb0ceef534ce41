"""Raft messages that must not be sent before the journal is durable.

An ack states "these entries are stored here", a vote "I voted for you", a vote request "I voted for myself".
All of it must still be true after a power failure (PS-4). So each message waits until everything that was
written to the journal before it is durable. Appends and heartbeats state nothing about this node's disk and
are sent without waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from node.raft.frames import Ack, PreVote, Refusal, Stale, Vote, VoteRequest
from node.raft.ports import JournalView, Message

DurableSend: TypeAlias = Ack | Refusal | Vote | PreVote | VoteRequest | Stale


class DurableOutbox:
    """Sends messages in order, each when the journal records written before it are durable.

    A message that waits delays all that follow it. The queue has no limit of its own: in practice it holds,
    for each peer, one vote and at most one window of acks, for the duration of one flush.
    """

    def __init__(
        self,
        journal: JournalView,
        *,
        send: Callable[[str, Message], None],
        heartbeat_payload: Callable[[], Any],
    ) -> None:
        """Create an empty outbox.

        Args:
            journal: reports what is written and what is durable.
            send: passes a frame to the transport.
            heartbeat_payload: returns the follower's heartbeat payload; called when a frame is sent.
        """
        self._journal = journal
        self._send = send
        self._heartbeat_payload = heartbeat_payload
        self._held: deque[tuple[int, str, DurableSend]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def send(self, peer: str, durable_send: DurableSend) -> None:
        """Send a message when everything written so far is durable, possibly now."""
        written = self._journal.written
        if not self._held and self._journal.durable >= written:
            self._leave(peer, durable_send)
        else:
            self._held.append((written, peer, durable_send))

    def _leave(self, peer: str, durable_send: DurableSend) -> None:
        if isinstance(durable_send, Ack | Refusal | Vote | PreVote):
            durable_send = durable_send._replace(heartbeat_payload=self._heartbeat_payload())
        self._send(peer, durable_send.encode())

    def release(self) -> None:
        """Send the messages whose journal records are durable now."""
        durable = self._journal.durable
        while self._held and self._held[0][0] <= durable:
            _, peer, durable_send = self._held.popleft()
            self._leave(peer, durable_send)

    def forget(self, peer: str) -> None:
        """Drop the messages for a peer whose connection has ended."""
        self._held = deque(held for held in self._held if held[1] != peer)
