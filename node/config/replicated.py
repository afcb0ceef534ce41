"""The settings of a configuration that are part of the replicated state.

The first leader proposes them. The names are those of the core's ``Settings``. At start a node compares its
own settings with the cluster's and logs a warning if they differ (R23).
"""

from __future__ import annotations

from typing import Any

from node.config.model import ChannelLimits, Config


def settings(config: Config) -> dict[str, Any]:
    """Return the settings of a ``Configure`` command, as plain values by name."""
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
    """Return only the given limits: the others are inherited from a wider pattern."""
    named = {
        "max_msgs": limits.max_msgs,
        "max_bytes": limits.max_bytes,
        "max_age_ns": limits.max_age_ns,
        "max_subscriptions": limits.max_subs,
        "max_inactivity_ns": limits.max_inactivity_ns,
    }
    return {name: value for name, value in named.items() if value is not None}
