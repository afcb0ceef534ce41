"""What the ready leader sets right in the state that concerns no client (rules R13, R24).

* *The machine version* is raised once **all** members have reported that they know a higher one, also those
  that are away at the moment: one that comes back with an older release could apply nothing more.
* *Ages wait* while the leader's own wall clock is far from the median of the cluster's. Messages are dated by
  the median, so it is no more than a guess that the median is right; what was dropped can't be brought back.

Both are proposed again until they are applied, which takes another leader at worst.

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
    """The findings of whoever leads.

    Args:
        name: this node's.
        known: the newest machine version it knows.
        state: the replicated state.
        wall_clock: this node's wall clock.
        members: all there are, this node included; none while that isn't known.
        propose: puts a command into the next entry.
    """

    def __init__(
        self,
        name: str,
        known: int,
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
        self._known = {name: known}
        self._looked_s = float("-inf")

    def met(self, peer: str, hello: Mapping[str, Any]) -> None:
        """A member said what it knows. The last word counts: it may have gone back to an older release."""
        version = hello.get("machine")
        if isinstance(version, int):
            self._known[peer] = version

    def raise_version(self, term: int) -> list[RaiseVersion]:
        """Return the command that raises the machine version, if every member knows a higher one (R24).

        A new cluster gets it with its identity, in its first entry, unless a member has not been met yet.
        """
        version = min((self._known.get(member, 0) for member in self._members()), default=0)
        if version <= self._state().version:
            return []
        return [RaiseVersion(term, version, package.__version__)]

    def pump(self, now_s: float, term: int) -> None:
        """Propose what is to be set right. Called by whoever leads ``term``."""
        if now_s - self._looked_s < EVERY_S:
            return
        self._looked_s = now_s
        state = self._state()
        for raised in self.raise_version(term):
            log.info(
                "every member knows machine version %d: raising it from %d", raised.version, state.version
            )
            self._propose(raised)
        if self._wall_clock.wrong != state.expiry_paused:
            self._propose(PauseExpiry(term, self._wall_clock.wrong))
