"""Corrections of the replicated state by a ready leader that concern no client (rules R13, R24).

* *The machine version* is raised once **all** members have reported that they support a higher one. That
  includes members that are away: one that returned with an older release could apply nothing more.
* *Expiry is paused* while the leader's own wall clock is far from the median of the cluster's. Messages are
  stamped with the median, and the median may be the wrong one; dropped messages can't be restored.

Both are proposed again until they are applied, at worst by the next leader.

A plain object without I/O; ``now_s`` is the driver's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import node as package
from node.core.commands import LeaderCommand, PauseExpiry, RaiseVersion
from node.core.state import State
from node.server.clock import WallClock

log = logging.getLogger("stanchion.node")

EVERY_S = 1.0


class Maintenance:
    """Proposes the machine version and the pause of expiry, while this node leads.

    Args:
        name: this node's name.
        supported: the newest machine version that this node supports.
        state: the replicated state.
        wall_clock: this node's wall clock.
        members: all members, this node included; empty before the first membership.
        propose: puts a command into the next entry.
    """

    def __init__(
        self,
        name: str,
        supported: int,
        state: Callable[[], State],
        wall_clock: WallClock,
        *,
        members: Callable[[], Iterable[str]],
        propose: Callable[[LeaderCommand], None],
    ) -> None:
        self._state = state
        self._wall_clock = wall_clock
        self._members = members
        self._propose = propose
        self._supported = {name: supported}
        self._checked_s = float("-inf")

    def peer_up(self, peer: str, hello: Mapping[str, Any]) -> None:
        """Note the machine version in a member's hello. The last one counts: a member may be downgraded."""
        version = hello.get("machine")
        if isinstance(version, int):
            self._supported[peer] = version

    def raise_version(self, term: int) -> list[RaiseVersion]:
        """Return the command that raises the machine version, if every member supports a higher one (R24).

        A new cluster gets it with its identity, in its first entry, unless a member has not connected yet.
        """
        version = min((self._supported.get(member, 0) for member in self._members()), default=0)
        if version <= self._state().version:
            return []
        return [RaiseVersion(term, version, package.__version__)]

    def pump(self, now_s: float, term: int) -> None:
        """Propose the commands that are needed. Called while this node leads ``term``."""
        if now_s - self._checked_s < EVERY_S:
            return
        self._checked_s = now_s
        state = self._state()
        for raised in self.raise_version(term):
            log.info(
                "every member supports machine version %d: raising it from %d", raised.version, state.version
            )
            self._propose(raised)
        if self._wall_clock.wrong != state.expiry_paused:
            self._propose(PauseExpiry(term, self._wall_clock.wrong))
