"""The replicated settings (R23)."""

from __future__ import annotations

from typing import Any

import pytest

from node.core.settings import Settings
from node.errors import RefusedError


def test_defaults_are_the_references() -> None:
    """store-and-limits, "Limits"."""
    settings = Settings()
    assert (settings.max_channels, settings.max_subscriptions) == (100, 1000)
    assert (settings.max_msgs, settings.max_bytes, settings.max_age_ns) == (1_000_000, 1_024_000_000, 0)
    assert settings.heartbeat_fail_count == 10
    assert not settings.set


def test_values_there_and_back() -> None:
    settings = Settings.of({"max_msgs": 5, "channels": {"a.>": {"max_age_ns": 7}}, "replace_durable": True})
    assert settings.set
    assert settings.max_channels == 100
    assert Settings.of(settings.values()) == settings
    assert Settings(**settings.values()) == settings


@pytest.mark.parametrize(
    "given",
    [
        {"nonsense": 1},
        {"max_msgs": "5"},
        {"max_msgs": True},
        {"max_msgs": 5.0},
        {"max_msgs": -1},
        {"heartbeat_interval_ns": 0},
        {"heartbeat_timeout_ns": 0},
        {"request_timeout_ns": 999_999},
        {"replace_durable": 1},
        {"channels": []},
        {"channels": {"a": 5}},
        {"channels": {b"a": {}}},
        {"channels": {"a": {"max_channels": 5}}},
        {"channels": {"a": {"max_msgs": -5}}},
        {"channels": {"a": {"max_msgs": None}}},
    ],
)
def test_nonsense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="stan: invalid configuration"):
        Settings.of(given)
