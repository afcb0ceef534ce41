"""The replicated settings that ``apply`` uses: limits, graces, heartbeats (rule R23).

They are part of the state, and only a ``Configure`` command changes them. So no two nodes decide with
different limits. A limit of 0 means none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from node.errors import RefusedError
from node.units import MILLISECOND, SECOND

from . import refusals


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one channel. 0 means unlimited."""

    max_msgs: int
    max_bytes: int
    """Bytes of encoded MsgProto. The newest message is kept even if it alone is larger."""
    max_age_ns: int
    max_subscriptions: int
    """Includes offline durables and offline durable queue groups."""
    max_inactivity_ns: int
    """A channel is deleted after this time without an online subscription and without a publish."""


NUMBER_MAX = (1 << 63) - 1
"""Largest number in a configuration. With any time added, it still fits into an entry and a checkpoint."""

LIMIT_NAMES = tuple(limit.name for limit in fields(Limits))


@dataclass(frozen=True, slots=True)
class Settings:
    """The replicated settings. ``channels`` holds limits by channel name or pattern, each partial."""

    set: bool = False
    """A ``Configure`` was applied, so a node's configuration file no longer replaces these settings."""

    max_channels: int = 100
    max_msgs: int = 1_000_000
    max_bytes: int = 1_024_000_000
    max_age_ns: int = 0
    max_subscriptions: int = 1000
    max_inactivity_ns: int = 0
    channels: dict[str, dict[str, int]] = field(default_factory=dict)

    replace_durable: bool = False
    """A second subscription to an online durable replaces it instead of being refused."""

    member_grace_ns: int = 3 * SECOND
    """Period without a subscriber after which an inbox's client or subscription is unreachable (R15)."""
    heartbeat_interval_ns: int = 30 * SECOND
    heartbeat_timeout_ns: int = 10 * SECOND
    heartbeat_fail_count: int = 10
    """Heartbeats that a client may miss in a row. The next miss removes it."""
    request_timeout_ns: int = 2 * SECOND

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """Return the settings of a ``Configure`` command, with defaults for missing ones.

        Raises:
            RefusedError: a name is unknown, a type is wrong, or a value does not fit into an entry.
        """
        for name, value in given.items():
            default = _DEFAULTS.get(name)
            if default is None or type(value) is not type(default):
                raise RefusedError(f"{refusals.INVALID_CONFIGURATION}: {name}")
            if type(value) is int and not 0 <= value <= NUMBER_MAX:
                problem = "is negative" if value < 0 else "is too large"
                raise RefusedError(f"{refusals.INVALID_CONFIGURATION}: {name} {problem}")
            if type(value) is int and value < _AT_LEAST.get(name, 0):
                raise RefusedError(f"{refusals.INVALID_CONFIGURATION}: {name} is too short")
        for pattern, limits in given.get("channels", {}).items():
            if not _is_text(pattern) or type(limits) is not dict or not _are_limits(limits):
                raise RefusedError(f"{refusals.INVALID_CONFIGURATION}: channels: {pattern!a}")
        return cls(**{**given, "set": True})

    def values(self) -> dict[str, Any]:
        """Return the fields by name, as plain values that `of` accepts."""
        return asdict(self)


def _are_limits(limits: dict[Any, Any]) -> bool:
    return all(
        name in LIMIT_NAMES and type(value) is int and 0 <= value <= NUMBER_MAX
        for name, value in limits.items()
    )


def _is_text(value: Any) -> bool:
    """Return True if ``value`` is a text without lone surrogates: JSON can contain them, entries cannot."""
    return type(value) is str and not any("\ud800" <= character <= "\udfff" for character in value)


_AT_LEAST = dict.fromkeys(
    ("heartbeat_interval_ns", "heartbeat_timeout_ns", "request_timeout_ns"), MILLISECOND
)
"""Minimum values. With 0 a leader would send heartbeats without a break, and every reply would be late."""

_DEFAULTS = Settings().values()
