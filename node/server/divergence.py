"""Detect whether this node's state differs from the state of the other nodes (R30).

Every few thousand entries, at a *milestone*, each node sends its rolling digest to all others
(`core.state_digest`). If a majority has another digest than this node, this node's state has diverged:
because of a bug, faulty memory or a changed store. Then nothing it serves can be relied on, so it stops and
logs what to do. If all voters have reported and no majority agrees, the correct state is unknown, and every
node stops.

Nodes reach a milestone at different times. So each node remembers its last milestones and those that others
have sent, and sends all of its own when a link comes up. If one comparison is missed, the next one shows the
difference, because digests that differ never become equal again.

A plain object without I/O.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from node.core.state import State
from node.errors import CorruptionError, RemoteProtocolError
from node.protocol.peer import shown

log = logging.getLogger("stanchion.node")

REMEMBERED = 64
"""Number of milestones remembered, of this node and of each other node."""

WHAT_TO_DO = "Keep its directory for a bug report, and replace the node: stanchion cluster replace"


class DivergenceCheck:
    """Compares the state digests of this node with those of other nodes.

    Args:
        node: this node's name.
        voters: returns the voting members; none while the membership is unknown.
        peers: returns the members whose link is up.
        send: sends a frame to a member.
    """

    def __init__(
        self,
        node: str,
        *,
        voters: Callable[[], Iterable[str]],
        peers: Callable[[], Iterable[str]],
        send: Callable[[str, Any], object],
    ) -> None:
        self._node = node
        self._voters = voters
        self._peers = peers
        self._send = send
        self._own: dict[int, bytes] = {}
        self._received: dict[str, dict[int, bytes]] = {}
        self._reported: set[str] = set()
        self.agreed = 0
        """Index of the last entry after which another node has reported the same state."""

    def applied(self, state: State) -> None:
        """Send and compare the digest if ``state``, just applied to or restored, has reached a milestone.

        Raises:
            CorruptionError: this node's state differs from that of a majority.
        """
        index, digest = state.milestone
        if not index or index in self._own:
            return
        _remember(self._own, index, digest)
        frame = ("state", [(index, digest)])
        for peer in self._peers():
            self._send(peer, frame)
        self._compare(index)

    def replaced(self) -> None:
        """Forget this node's digests: a snapshot has replaced its state."""
        self._own.clear()

    def peer_up(self, peer: str) -> None:
        """Send this node's digests to a member whose link has come up."""
        if self._own:
            self._send(peer, ("state", list(self._own.items())))

    def frame(self, peer: str, milestones: Any) -> None:
        """Store and compare the milestones that a member has sent.

        Raises:
            RemoteProtocolError: a milestone is malformed.
            CorruptionError: this node's state differs from that of a majority.
        """
        received = self._received.setdefault(peer, {})
        for milestone in milestones:
            match milestone:
                case (int(index), bytes(digest)) if index > 0:
                    _remember(received, index, digest)
                case _:
                    raise RemoteProtocolError(f"{peer}: malformed milestone: {shown(milestone)}")
        for index, _ in milestones:
            if index in self._own:
                self._compare(index)

    def forget(self, names: Iterable[str]) -> None:
        """Forget the digests of all nodes except ``names``, the members."""
        for peer in self._received.keys() - set(names):
            del self._received[peer]

    def _compare(self, index: int) -> None:
        own = self._own[index]
        theirs = {peer: digests[index] for peer, digests in self._received.items() if index in digests}
        different = sorted(peer for peer, digest in theirs.items() if digest != own)
        if len(theirs) > len(different):
            self.agreed = max(self.agreed, index)
        if not different:
            return
        voters = frozenset(self._voters())
        votes = {peer: digest for peer, digest in {**theirs, self._node: own}.items() if peer in voters}
        digest, count = max(Counter(votes.values()).items(), key=lambda found: found[1], default=(own, 0))
        has_majority = count > len(voters) // 2
        others = ", ".join(different)
        if has_majority and digest != own:
            raise CorruptionError(
                f"after entry {index} this node's state differs from that of {others}, a majority: "
                f"it must not serve. {WHAT_TO_DO} {self._node} NEW"
            )
        if not has_majority and voters and votes.keys() == voters:
            raise CorruptionError(
                f"after entry {index} this node's state differs from that of {others}, and no majority "
                "agrees: the correct state is unknown. Keep the directories for a bug report; "
                "docs/operations.md says how to continue from one of them"
            )
        for peer in different:
            if peer not in self._reported:
                self._reported.add(peer)
                outcome = "it must stop" if has_majority else "waiting for the digests of the other voters"
                log.critical(
                    "after entry %d the state of node %s differs from this node's: %s", index, peer, outcome
                )


def _remember(digests: dict[int, bytes], index: int, digest: bytes) -> None:
    digests[index] = digest
    while len(digests) > REMEMBERED:
        del digests[next(iter(digests))]
