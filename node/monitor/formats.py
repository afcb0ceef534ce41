"""Times and durations in the formats that monitoring tools expect."""

from __future__ import annotations

import datetime
from typing import Final

from node.units import SECOND

_UPTIME_UNITS: Final = (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("m", 60))
_EPOCH: Final = datetime.datetime(1970, 1, 1)


def time_text(unix_ns: int) -> str:
    """Format a time as RFC 3339 in UTC, with nanoseconds."""
    seconds, nanoseconds = divmod(unix_ns, SECOND)
    return f"{(_EPOCH + datetime.timedelta(seconds=seconds)).isoformat()}.{nanoseconds:09}Z"


def uptime_text(duration_ns: int) -> str:
    """Format ``5s``, ``3m5s``, ``1d0h0m5s``: from the largest unit that isn't 0 down to seconds."""
    left = max(0, duration_ns) // SECOND
    parts: list[str] = []
    for unit, seconds in _UPTIME_UNITS:
        count, left = divmod(left, seconds)
        if count or parts:
            parts.append(f"{count}{unit}")
    return "".join(parts) + f"{left}s"


def round_trip_text(duration_ns: int) -> str:
    """Format a Go duration: ``412µs``, ``1.5ms``, ``2.25s``."""
    for unit, size in (("s", SECOND), ("ms", 1_000_000), ("µs", 1_000)):
        if duration_ns >= size:
            return f"{duration_ns / size:.6f}".rstrip("0").rstrip(".") + unit
    return f"{duration_ns}ns"
