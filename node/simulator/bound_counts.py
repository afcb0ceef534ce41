"""Counters that show that runs reach the scaled bounds.

A bound that no run reaches is not tested. `MET` names the events that nearly every run must contain; a test
counts the runs of each profile that contain them.
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
BACKLOGGED: Final = "deliveries that waited for free space"
TRUNCATED: Final = "logs cut"
TRUNCATED_MANY: Final = "logs cut by several entries"
LATE: Final = "delays by the node's own steps"

MET: Final = (PIPELINED, SPLIT, FORWARDED, FRAMES, WINDOWS, HELD_UP, RESTED, LATE)
"""Events expected in nearly every run."""


class BoundCounts:
    """Counts the events of one node.

    Args:
        node: the node.
    """

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._forwarded_s = -1.0

    def proposed(self, index: int, size: int) -> None:
        """Count an entry that the leader has proposed at ``index``, of ``size`` bytes."""
        node = self._node
        if index > node.engine.applied_index + 1:
            node.count(PIPELINED)
        if node.replica.proposer._queued_bytes:
            node.count(SPLIT)
        if size > 1.5 * proposer.ENTRY_BYTES:
            node.count(LARGE)

    def consensus_frame(self, size: int) -> None:
        """Count a frame of ``size`` bytes that the engine sends."""
        if size >= ENGINE_LIMITS.frame_bytes:
            self._node.count(FRAMES)

    def server_frame(self, value: Any) -> None:
        """Count a frame that the replica sends to a member."""
        if value[0] == "batch":
            now_s = self._node.clock.monotonic_s()
            if now_s == self._forwarded_s:
                self._node.count(FORWARDED)
            self._forwarded_s = now_s

    def truncated(self, entries: int) -> None:
        """Count a truncation that removed ``entries`` entries from the end of the log."""
        if entries > 0:
            self._node.count(TRUNCATED)
        if entries > 1:
            self._node.count(TRUNCATED_MANY)

    def worked(self) -> None:
        """Count what holds after one iteration of the driver's loop."""
        node = self._node
        if node.replica.executor._backlogs:
            node.count(BACKLOGGED)
        last = node.engine.last_index
        if node.leads and any(
            flow.inflight_bytes >= ENGINE_LIMITS.window_bytes and flow.next <= last
            for flow in node.engine._replicator.progress_by_peer.values()
        ):
            node.count(WINDOWS)
