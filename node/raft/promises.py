"""Messages that promise something, kept back until what they promise is on the disk.

An ack says "these entries are here", a vote "I voted for you", a vote request "I vote for myself":
after a power failure all of it must still be true (S4). So each waits until everything that was
written to the journal before it is durable. Appends and heartbeats promise nothing and don't
come here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from node.raft.ports import JournalView


class Promises:
    """Sends in order; whatever has to wait for the disk waits, and what follows it waits too.

    Unbounded in theory; in practice a peer has one vote and at most a window of acks waiting, for
    the time of one flush.
    """

    def __init__(self, journal: JournalView) -> None:
        self._journal = journal
        self._held: deque[tuple[int, str, Callable[[], None]]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def send(self, peer: str, leave: Callable[[], None]) -> None:
        """Call ``leave`` as soon as everything written so far is durable, perhaps now."""
        written = self._journal.written
        if not self._held and self._journal.durable >= written:
            leave()
        else:
            self._held.append((written, peer, leave))

    def release(self) -> None:
        """Let go what the last flush made true."""
        durable = self._journal.durable
        while self._held and self._held[0][0] <= durable:
            self._held.popleft()[2]()

    def forget(self, peer: str) -> None:
        """The connection is gone, and with it what would have been sent there."""
        self._held = deque(held for held in self._held if held[1] != peer)
