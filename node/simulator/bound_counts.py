"""Counts of what scaled bounds are for: that it happens, in nearly every run.

A bound that no run meets is not simulated. `MET` names what a run is expected to meet; a test counts
in how many runs of each profile it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.server import proposer
from node.simulator.scaled_bounds import ENGINE_LIMITS

if TYPE_CHECKING:
    from node.simulator.sim_node import SimNode

PIPELINED: Final = "entries proposed while others were in flight"
SPLIT: Final = "entries that left a part of the backlog to the next"
LARGE: Final = "entries of one batch above their bound"
FORWARDED: Final = "batches forwarded in parts"
FRAMES: Final = "frames at their bound"
WINDOWS: Final = "windows full"
HELD_UP: Final = "clients not read from"
RESTED: Final = "reads in several steps"
BACKLOGGED: Final = "deliveries that waited for room"
TRUNCATED: Final = "logs cut"
TRUNCATED_MANY: Final = "logs cut by several entries"
LATE: Final = "late by one's own steps"

MET: Final = (PIPELINED, SPLIT, FORWARDED, FRAMES, WINDOWS, HELD_UP, RESTED, LATE)
"""In nearly every run."""


class BoundCounts:
    """Looks on at one node.

    Args:
        node: it.
    """

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._forwarded_s = -1.0

    def proposed(self, index: int, size: int) -> None:
        """The leader has proposed entry ``index``, of so many bytes."""
        node = self._node
        if index > node.engine.applied_index + 1:
            node.count(PIPELINED)
        if node.replica.proposer._queued_bytes:
            node.count(SPLIT)
        if size > 1.5 * proposer.ENTRY_BYTES:
            node.count(LARGE)

    def consensus_frame(self, size: int) -> None:
        """The engine sends a frame."""
        if size >= ENGINE_LIMITS.frame_bytes:
            self._node.count(FRAMES)

    def server_frame(self, value: Any) -> None:
        """The replica sends a frame to a member."""
        if value[0] == "batch":
            now_s = self._node.clock.monotonic_s()
            if now_s == self._forwarded_s:
                self._node.count(FORWARDED)
            self._forwarded_s = now_s

    def truncated(self, entries: int) -> None:
        """The end of the log was removed: so many entries."""
        if entries > 0:
            self._node.count(TRUNCATED)
        if entries > 1:
            self._node.count(TRUNCATED_MANY)

    def worked(self) -> None:
        """The driver has gone round once."""
        node = self._node
        if node.replica.executor._backlogs:
            node.count(BACKLOGGED)
        last = node.engine.last_index
        if node.leads and any(
            flow.inflight_bytes >= ENGINE_LIMITS.window_bytes and flow.next <= last
            for flow in node.engine._replicator.progress_by_peer.values()
        ):
            node.count(WINDOWS)
