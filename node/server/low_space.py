"""Whether the cluster has room for more messages, and what publishers are told when it has not.

Replicas fill together. A node whose disk is full has to stop, so a cluster that took every publish would
end with all of its nodes stopped and nobody there to purge anything. Each node tells the members it is
linked with whether its own disk is nearly full, in its hello and with a frame at each change::

    ["space", whether the sender's disk is nearly full]

Publishes are refused while a disk is nearly full and fewer than a majority of the voters are linked and
have room. What a minority lacks is no reason: the others go on without it. Everything else goes on:
deliveries, acknowledgements, purges.

Each node decides for the requests of its own clients. It is no decision of the log, and may differ for a
moment. The frame is sent only to members whose hello says that they know it.

A plain object without I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from node.core import refusals

log = logging.getLogger("stanchion.store")


class LowSpace:
    """What this node knows of all voters' disks.

    Args:
        node: this node's name.
        voters: those in force.
        send: puts a frame on the raft link to a member.
        refuse: told with what text publishes are refused from now on; empty: they aren't.
    """

    def __init__(
        self,
        node: str,
        voters: Callable[[], Iterable[str]],
        *,
        send: Callable[[str, Any], object],
        refuse: Callable[[str], None],
    ) -> None:
        self._node = node
        self._voters = voters
        self._send = send
        self._refuse = refuse
        self._linked: dict[str, bool] = {}
        """Members that are linked: whether their disks are nearly full, as far as they say."""
        self._knowing: set[str] = set()
        """Those of them that know the frame."""
        self.is_low = False
        """This node's own disk is nearly full."""
        self.refusal = ""
        """With what text publishes are refused; empty: they aren't."""

    def looked(self, *, is_low: bool) -> None:
        """Take note of how this node's disk is now. To be called now and then: voters may change."""
        if is_low != self.is_low:
            self.is_low = is_low
            for peer in sorted(self._knowing):
                self._send(peer, ("space", is_low))
        self._decide()

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """A member is linked."""
        told = hello.get("low_space")
        self._linked[peer] = told is True
        if isinstance(told, bool):
            self._knowing.add(peer)
            if self.is_low:
                self._send(peer, ("space", True))  # this node's hello may be older than that
        self._decide()

    def peer_down(self, peer: str) -> None:
        """It is linked no more."""
        self._linked.pop(peer, None)
        self._knowing.discard(peer)
        self._decide()

    def told(self, peer: str, *, is_low: bool) -> None:
        """A member says how its disk is."""
        if peer in self._linked:
            self._linked[peer] = is_low
            self._decide()

    def _decide(self) -> None:
        voters = list(self._voters())
        disks = {**self._linked, self._node: self.is_low}
        low = [name for name in voters if disks.get(name)]
        roomy = [name for name in voters if disks.get(name) is False]
        refusal = ""
        if low and len(roomy) < len(voters) // 2 + 1:
            refusal = refusals.no_space(sorted(low))
        if refusal == self.refusal:
            return
        if refusal:
            log.error("publishes are refused: %s; purge or delete channels, or add space", refusal)
        else:
            log.warning("there is room again: publishes are taken")
        self.refusal = refusal
        self._refuse(refusal)
