"""Leader duties for wall clocks (R13): hand over if its own clock is wrong; confirm clocks for an operator.

While a leader's clock is far from the cluster's median, no node drops messages by age (`maintenance`). So
after ``PATIENCE_S`` such a leader hands over to a voter with a right clock, if there is one. If no node has
taken over, it tries again after ``AGAIN_S``.

If timestamps are far from the clocks (`WallClock`), an operator decides: the request ``cluster.clock`` shows
the difference and can confirm the clocks.

A plain object without I/O; ``now_s`` is the driver's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from node.core.state import State
from node.server.administration.asking import Answer
from node.server.clock import ClusterClock, WallClock

log = logging.getLogger("stanchion.clock")

PATIENCE_S = 10.0
"""Time a clock may be wrong before its leader hands over. A clock that is being set is right soon."""
TRY_S = 2.0
"""Maximum time of a hand-over. No entries are proposed meanwhile, so that a follower can get all of them."""
AGAIN_S = 60.0
"""Pause after a failed hand-over."""
LOOK_EVERY_S = 1.0
"""Interval at which the clocks are read, even if no entry is stamped."""


class Engine(Protocol):
    """The part of the consensus engine used here."""

    def transfer_leadership(self, to: str | None = None) -> bool: ...
    @property
    def is_changing(self) -> bool: ...


class Proposer(Protocol):
    """The part of the proposer used here."""

    def stop(self) -> None: ...
    def resume(self) -> None: ...


class ClockDuty:
    """Reads the wall clocks of a leader, hands over if its own is wrong, and answers ``cluster.clock``.

    Args:
        node: this node's name.
        engine, proposer: used to hand over.
        state: the replicated state.
        clock, wall_clock: the clocks of the log.
    """

    def __init__(
        self,
        node: str,
        engine: Engine,
        proposer: Proposer,
        state: Callable[[], State],
        clock: ClusterClock,
        wall_clock: WallClock,
    ) -> None:
        self._node = node
        self._engine = engine
        self._proposer = proposer
        self._state = state
        self._clock = clock
        self._wall_clock = wall_clock
        self._term = 0
        self._looked_s = float("-inf")
        self._begins_s: float | None = None  # when to hand over, while this node's clock is wrong
        self._ends_s: float | None = None  # when to give up a hand-over that is under way

    def pump(self, now_s: float, term: int) -> None:
        """Read the clocks, and hand over if this node's clock has been wrong for ``PATIENCE_S``.

        To be called on the leader of ``term``.
        """
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._wall_clock.look(self._clock.now())
        if term != self._term:
            self._term, self._begins_s, self._ends_s = term, None, None
        if self._ends_s is not None:
            self._go_on_handing_over(now_s, self._ends_s)
            return
        if not self._wall_clock.wrong:
            self._begins_s = None
            return
        if self._begins_s is None:
            self._begins_s = now_s + PATIENCE_S
        if now_s < self._begins_s or self._engine.is_changing:
            return
        self._begins_s = now_s + AGAIN_S
        if self._wall_clock.right_peers:
            log.warning(
                "this node leads, and its wall clock is wrong: handing over to a node with a right clock"
            )
            self._proposer.stop()
            self._ends_s = now_s + TRY_S
            self._go_on_handing_over(now_s, self._ends_s)

    def _go_on_handing_over(self, now_s: float, ends_s: float) -> None:
        if now_s >= ends_s:
            log.warning("no node has taken over within %g s: this node continues to lead", TRY_S)
            self._ends_s = None
            self._proposer.resume()
            return
        for peer in self._wall_clock.right_peers:
            if self._engine.transfer_leadership(peer):
                return

    def show(self, fields: dict[str, Any], answer: Answer) -> None:
        """Answer an operator's request ``cluster.clock``: how far timestamps are from the clocks.

        With ``confirm`` the clocks are believed from now on. Confirming twice is harmless.
        """
        off_ns = self._wall_clock.off_ns(self._clock.now())
        confirms = fields.get("confirm") is True
        if confirms:
            self._wall_clock.confirm()
            log.warning(
                "an operator has confirmed the cluster's wall clocks, %+.1f s from the last timestamp",
                off_ns / 1e9,
            )
        view = {
            "leader": self._node,
            "timestamp_ns": self._state().timestamp_ns,
            "clocks_ahead_ns": off_ns,
            "believed": confirms or self._wall_clock.believed(self._clock.now()),
            "agreeing": sorted(self._wall_clock.right_peers),
            "ages_wait": self._state().expiry_paused,
        }
        answer({"ok": view})
