"""Times as tools parse them."""

from __future__ import annotations

import pytest

from node.monitor.formats import round_trip_text, time_text, uptime_text
from node.units import SECOND


def test_a_time_is_rfc_3339_with_nanoseconds() -> None:
    assert time_text(0) == "1970-01-01T00:00:00.000000000Z"
    assert time_text(1_700_000_000 * SECOND + 123) == "2023-11-14T22:13:20.000000123Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m0s"),
        (3_785, "1h3m5s"),
        (86_400 + 5, "1d0h0m5s"),
        (366 * 86_400, "1y1d0h0m0s"),
    ],
)
def test_uptime_goes_from_its_largest_unit_down(seconds: int, text: str) -> None:
    assert uptime_text(seconds * SECOND) == text


@pytest.mark.parametrize(
    ("duration_ns", "text"), [(5, "5ns"), (412_000, "412µs"), (1_500_000, "1.5ms"), (2_250_000_000, "2.25s")]
)
def test_a_round_trip_is_a_go_duration(duration_ns: int, text: str) -> None:
    assert round_trip_text(duration_ns) == text
