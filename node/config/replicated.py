"""What of a configuration the cluster agrees on: proposed by its first leader, then part of the state.

The names are those of the core's ``Settings``; a node compares its own with the cluster's at start,
and warns where they differ (rule R23).
"""

from __future__ import annotations

from typing import Any

from node.config.model import ChannelLimits, Config


def settings(config: Config) -> dict[str, Any]:
    """Plain values by the names of the core's settings, for a ``Configure`` command."""
    limits, streaming = config.limits, config.streaming
    return {
        "max_channels": limits.max_channels,
        "max_msgs": limits.max_msgs,
        "max_bytes": limits.max_bytes,
        "max_age_ns": limits.max_age_ns,
        "max_subscriptions": limits.max_subs,
        "max_inactivity_ns": limits.max_inactivity_ns,
        "channels": {pattern: _partial(given) for pattern, given in limits.channels.items()},
        "replace_durable": streaming.replace_durable,
        "member_grace_ns": streaming.member_grace_ns,
        "heartbeat_interval_ns": streaming.hb_interval_ns,
        "heartbeat_timeout_ns": streaming.hb_timeout_ns,
        "heartbeat_fail_count": streaming.hb_fail_count,
        "request_timeout_ns": streaming.request_timeout_ns,
    }


def _partial(limits: ChannelLimits) -> dict[str, int]:
    """Only what was given: the rest is inherited from a wider pattern."""
    named = {
        "max_msgs": limits.max_msgs,
        "max_bytes": limits.max_bytes,
        "max_age_ns": limits.max_age_ns,
        "max_subscriptions": limits.max_subs,
        "max_inactivity_ns": limits.max_inactivity_ns,
    }
    return {name: value for name, value in named.items() if value is not None}
