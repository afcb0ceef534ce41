"""Messages that promise something, kept back until what they promise is on the disk.

An ack says "these entries are here", a vote "I voted for you", a vote request "I vote for myself":
after a power failure all of it must still be true (PS-4). So each waits until everything that was
written to the journal before it is durable. Appends and heartbeats promise nothing and don't
come here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from node.raft.frames import Ack, PreVote, Refusal, Stale, Vote, VoteRequest
from node.raft.ports import JournalView, Message

DurableSend: TypeAlias = Ack | Refusal | Vote | PreVote | VoteRequest | Stale


class DurableOutbox:
    """Sends in order; whatever has to wait for the disk waits, and what follows it waits too.

    Unbounded in theory; in practice a peer has one vote and at most a window of acks waiting, for
    the time of one flush.
    """

    def __init__(
        self, journal: JournalView, *, send: Callable[[str, Message], None], note: Callable[[], Any]
    ) -> None:
        """No promises yet.

        Args:
            journal: says what is written and what is durable.
            send: gives a frame to the transport.
            note: what the follower's note says now; asked when a frame leaves.
        """
        self._journal = journal
        self._send = send
        self._note = note
        self._held: deque[tuple[int, str, DurableSend]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def send(self, peer: str, durable_send: DurableSend) -> None:
        """Send it as soon as everything written so far is durable, perhaps now."""
        written = self._journal.written
        if not self._held and self._journal.durable >= written:
            self._leave(peer, durable_send)
        else:
            self._held.append((written, peer, durable_send))

    def _leave(self, peer: str, durable_send: DurableSend) -> None:
        if isinstance(durable_send, Ack | Refusal | Vote | PreVote):
            durable_send = durable_send._replace(note=self._note())
        self._send(peer, durable_send.encode())

    def release(self) -> None:
        """Let go what the last flush made true."""
        durable = self._journal.durable
        while self._held and self._held[0][0] <= durable:
            _, peer, durable_send = self._held.popleft()
            self._leave(peer, durable_send)

    def forget(self, peer: str) -> None:
        """The connection is gone, and with it what would have been sent there."""
        self._held = deque(held for held in self._held if held[1] != peer)
