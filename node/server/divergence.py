"""Whether this node's state is still that of the others (R30).

Every few thousand entries each node tells all others the rolling digest it has come to (`core.rolling`). Who
finds that a majority agrees on another than its own has decided otherwise at some time, by a bug, by bad
memory or by a changed store: nothing it says can be relied upon, so it stops and says what to do. If all have
told and no majority agrees, nobody knows who is right, and each stops.

Nodes are at different places in the log; so each remembers its last milestones and what others told of
theirs, and tells all of its own when a link comes up. What was missed once shows in the next, for a digest
never becomes equal again.

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
"""Milestones, of this node and of each other."""

WHAT_TO_DO = (
    "Keep its directory for a report of this bug, and give the cluster another node in its place: "
    "stanchion cluster replace"
)


class DivergenceCheck:
    """What this node and others came to.

    Args:
        node: this node's name.
        voters: the voting members; none while they aren't known.
        peers: members whose link stands.
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
        self._notified: dict[str, dict[int, bytes]] = {}
        self._doubted: set[str] = set()
        self.agreed = 0
        """Index of the last entry after which another node is known to have had the same state."""

    def applied(self, state: State) -> None:
        """An entry was applied, or the state was restored.

        Raises:
            CorruptionError: this node decided otherwise than a majority.
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
        """A snapshot brought another state: what this node had come to by itself is void."""
        self._own.clear()

    def peer_up(self, peer: str) -> None:
        """A link stands: tell what this node has come to."""
        if self._own:
            self._send(peer, ("state", list(self._own.items())))

    def frame(self, peer: str, milestones: Any) -> None:
        """A member tells its milestones.

        Raises:
            RemoteProtocolError: it doesn't.
            CorruptionError: this node decided otherwise than a majority.
        """
        told = self._notified.setdefault(peer, {})
        for milestone in milestones:
            match milestone:
                case (int(index), bytes(digest)) if index > 0:
                    _remember(told, index, digest)
                case _:
                    raise RemoteProtocolError(f"{peer}: no milestone: {shown(milestone)}")
        for index, _ in milestones:
            if index in self._own:
                self._compare(index)

    def forget(self, names: Iterable[str]) -> None:
        """Only ``names`` are members."""
        for peer in self._notified.keys() - set(names):
            del self._notified[peer]

    def _compare(self, index: int) -> None:
        own = self._own[index]
        told = {peer: known[index] for peer, known in self._notified.items() if index in known}
        different = sorted(peer for peer, digest in told.items() if digest != own)
        if len(told) > len(different):
            self.agreed = max(self.agreed, index)
        if not different:
            return
        voters = frozenset(self._voters())
        said = {peer: digest for peer, digest in {**told, self._node: own}.items() if peer in voters}
        digest, agreeing = max(Counter(said.values()).items(), key=lambda found: found[1], default=(own, 0))
        decided = agreeing > len(voters) // 2
        others = ", ".join(different)
        if decided and digest != own:
            raise CorruptionError(
                f"after entry {index} this node's state is another than that of {others}, a majority: "
                f"it must not serve. {WHAT_TO_DO} {self._node} NEW"
            )
        if not decided and voters and said.keys() == voters:
            raise CorruptionError(
                f"after entry {index} this node's state is another than that of {others}, and no majority "
                "agrees: nobody knows who is right. Keep the directories for a report of this bug; "
                "docs/operations.md says how to go on from one of them"
            )
        for peer in different:
            if peer not in self._doubted:
                self._doubted.add(peer)
                judged = "it must stop" if decided else "others will tell who is right"
                log.critical(
                    "after entry %d node %s has another state than this one: %s", index, peer, judged
                )


def _remember(known: dict[int, bytes], index: int, digest: bytes) -> None:
    known[index] = digest
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
