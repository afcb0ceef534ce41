"""Timeouts that contradict each other are refused before a node starts."""

from __future__ import annotations

import pytest

from node.errors import ConfigError
from node.raft.ports import Timing


@pytest.mark.parametrize(
    ("low", "high", "heartbeat", "problem"),
    [
        (0.3, 0.6, 0.1, "three heartbeats"),
        (0.3, 0.3, 0.05, "longest election timeout"),
        (0.3, 0.6, 0.0, "more than 0"),
    ],
)
def test_impossible_times(low: float, high: float, heartbeat: float, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Timing(low, high, heartbeat)
