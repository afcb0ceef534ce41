"""Refuse publishes while the disks of too many voters are nearly full.

Replicas fill at the same rate, and a node whose disk is full has to stop. If the cluster accepted every
publish, all nodes would stop, and none could purge messages. So each node reports to linked members whether
its own disk is nearly full, in its hello and in a frame at each change::

    ["space", whether the sender's disk is nearly full]

Publishes are refused while a disk is nearly full and fewer than a majority of the voters are linked and have
free space. A minority without free space is no reason to refuse: the others continue without it. Deliveries,
acknowledgements and purges always continue.

Each node decides for the requests of its own clients. The decision is not in the log, so nodes may differ for
a moment. The frame is sent only to members whose hello contains ``low_space``.

A plain object without I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from node.core import refusals

log = logging.getLogger("stanchion.store")


class LowSpace:
    """Tracks which voters' disks are nearly full.

    Args:
        node: this node's name.
        voters: returns the voters of the membership in force.
        send: puts a frame on the Raft link to a member.
        refuse: called with the text to refuse publishes with from now on; empty: publishes are accepted.
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
        """Linked members, with True for those that have reported that their disk is nearly full."""
        self._capable: set[str] = set()
        """Linked members that understand the frame."""
        self.is_low = False
        """This node's own disk is nearly full."""
        self.refusal = ""
        """The text that publishes are refused with; empty: publishes are accepted."""

    def looked(self, *, is_low: bool) -> None:
        """Set whether this node's disk is nearly full. To be called regularly, because voters may change."""
        if is_low != self.is_low:
            self.is_low = is_low
            for peer in sorted(self._capable):
                self._send(peer, ("space", is_low))
        self._decide()

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """Note that the link to a member is up."""
        is_low = hello.get("low_space")
        self._linked[peer] = is_low is True
        if isinstance(is_low, bool):
            self._capable.add(peer)
            if self.is_low:
                self._send(peer, ("space", True))  # this node's hello may have been sent before it was low
        self._decide()

    def peer_down(self, peer: str) -> None:
        """Note that the link to a member is down."""
        self._linked.pop(peer, None)
        self._capable.discard(peer)
        self._decide()

    def received(self, peer: str, *, is_low: bool) -> None:
        """Take a member's report whether its disk is nearly full."""
        if peer in self._linked:
            self._linked[peer] = is_low
            self._decide()

    def _decide(self) -> None:
        voters = list(self._voters())
        disks = {**self._linked, self._node: self.is_low}
        low = [name for name in voters if disks.get(name)]
        with_space = [name for name in voters if disks.get(name) is False]
        refusal = ""
        if low and len(with_space) < len(voters) // 2 + 1:
            refusal = refusals.no_space(sorted(low))
        if refusal == self.refusal:
            return
        if refusal:
            log.error("publishes are refused: %s; purge or delete channels, or add disk space", refusal)
        else:
            log.warning("enough nodes have free disk space again: publishes are accepted")
        self.refusal = refusal
        self._refuse(refusal)
