"""Bounds of production, scaled down, so that a short run with few messages reaches all of them.

Production's bounds are module constants: 64 KiB per entry, 16 entries in flight, 4 MiB of commands that an
origin keeps. A simulated cluster of a few seconds never reaches them, and the behaviour at a bound would
never be tested: several entries in flight, a backlog split into entries and frames, clients whose reading is
paused. So a run replaces these constants while it lasts.

A process that simulates does nothing else. The scaled bounds keep the relations of production's: the largest
message fits into an entry, the largest entry fits into a frame.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Final

from node.raft.ports import Limits
from node.server.context import ClientLimits

NAME_BYTES_MAX: Final = 100
"""Size of names that clients choose: client IDs, durables, queues, inboxes."""

MESSAGE_BYTES_MAX: Final = 2000
"""Size of one message of a client."""

BOUNDS: Final[dict[str, dict[str, int]]] = {
    "node.server.proposer": {
        "ENTRY_BYTES": 1200,
        "IN_FLIGHT_MAX": 4,
        "UNCOMMITTED_BYTES_MAX": 12_000,
        "EARLY_BYTES_MAX": 20_000,
        "LEADER_COMMANDS_MAX": 3,
    },
    "node.server.origin": {
        "BATCH_BYTES": 500,
        "UNAPPLIED_BYTES_MAX": 6000,
        "UNAPPLIED_COMMANDS_MAX": 40,
        "ANSWER_OVERHEAD": 64,
    },
    "node.server.streaming": {"PAYLOAD_SIZE_MAX": 2500, "ACKS_GATHERED_MAX": 5},
    "node.server.routing": {"GROUPS_MAX": 3, "GROUP_BYTES_MAX": 300},
    "node.server.effect_executor": {"CHUNK": 4, "CHUNK_BYTES": 600},
    "node.server.interest": {"ITEMS_MAX": 3, "ITEM_BYTES_MAX": 300},
    "node.server.connection": {"STEP_COST": 64},
    "node.core.dispatch": {"ENTRY_MESSAGES_MAX": 40, "GROUP_MESSAGES_MAX": 10, "FIRED_MAX": 5},
    "node.core.presence": {"RELEASED_MAX": 20},
    "node.core.entries": {"BATCH_COMMANDS_MAX": 40, "BATCH_SIZE_MAX": 4500, "ENTRY_SIZE_MAX": 9000},
    "node.protocol.subjects": {"NAME_SIZE_MAX": NAME_BYTES_MAX},
    "node.protocol.peer": {"FRAME_BYTES_MAX": 12_000, "ITEMS_MAX": 256},
}
"""The scaled values by module and name."""

ENGINE_LIMITS: Final = Limits(frame_bytes=2000, window_bytes=4000)

CLIENT_LIMITS: Final = ClientLimits(
    max_payload=MESSAGE_BYTES_MAX + 500, pending_soft=2048, max_pending=128 * 1024
)
"""So small that a client that reads slowly soon has a backlog."""


@contextlib.contextmanager
def scaled() -> Iterator[None]:
    """Replace production's bounds with these, in every module that has imported the constants.

    Raises:
        AttributeError: a constant doesn't exist any more. Update `BOUNDS` with its replacement.
    """
    replaced: list[tuple[ModuleType, str, object]] = []
    try:
        for home, bounds in BOUNDS.items():
            for name, bound in bounds.items():
                original = getattr(import_module(home), name)
                for module in [module for key, module in sys.modules.items() if key.startswith("node.")]:
                    if getattr(module, name, None) is original:
                        replaced.append((module, name, original))
                        setattr(module, name, bound)
        yield
    finally:
        for place, name, original in reversed(replaced):
            setattr(place, name, original)
