"""The figures of the report, and the verdict."""

from __future__ import annotations

from typing import Any

import pytest

from node.demo.checker import Verdict, check
from node.demo.history import Ack, Cursor, Delivery, History, Hit, Link
from node.demo.report import lines, report

LINK = Link("sub", 0, "n1")


def history(*, longest_gap_s: float = 0.1) -> History:
    """Ten messages, one every 100 ms but for one gap, and the leader killed at 10.5."""
    recorded = History()
    cursor = recorded.add_cursor(Cursor("cursor", "c", 5))
    at_s = 10.0
    for seq in range(1, 11):
        at_s += longest_gap_s if seq == 6 else 0.1
        message = f"m{seq}"
        recorded.publishing("c", message, at_s - 0.01)
        recorded.answered("c", message, "", at_s)
        recorded.received(cursor, seq, message, Delivery(at_s, "sub", LINK, 0, False))
        recorded.acked(cursor, seq, Ack(at_s, "sub", LINK))
    recorded.hits.append(Hit("n2", "kill", 10.5, "leader", ready_s=10.55, new_leader="n1", term=2))
    return recorded


def made(recorded: History, verdict: Verdict | None = None, **options: Any) -> dict[str, Any]:
    verdict = verdict or check(recorded, 20.0)
    return report(recorded, verdict, seed=1, seconds=10, load_s=(10.0, 11.05), end_s=20.0, **options)


def test_a_good_run() -> None:
    found = made(history())
    assert found["held"]
    assert (found["published"], found["acked"], found["lost"], found["duplicates"]) == (10, 10, 0, 0)
    assert found["ackwait_error_ms"] == {"count": 0, "min": None, "p50": None, "p99": None, "max": None}
    (kill,) = found["kills"]
    assert (kill["victim"], kill["role"], kill["new_leader"], kill["term"]) == ("n2", "leader", "n1", 2)
    assert kill["publish_gap_ms"] == pytest.approx(100, abs=1)
    assert lines(found)[-1].startswith("HELD")


def test_something_lost_is_a_bad_run() -> None:
    recorded = history()
    recorded.publishing("c", "m11", 11.0)
    recorded.answered("c", "m11", "", 11.1)
    found = made(recorded)
    assert not found["held"]
    assert found["lost"] == 1
    assert lines(found)[-1].startswith("VIOLATED")
    assert any("m11" in line for line in lines(found))


def test_a_long_gap_is_a_bad_run_unless_one_is_patient() -> None:
    recorded = history(longest_gap_s=2.0)
    assert not made(recorded)["held"]
    found = made(recorded, patient=True)
    assert found["held"]
    assert found["kills"][0]["publish_gap_ms"] == pytest.approx(2000, abs=1)
    assert lines(found)[-1].endswith("durations not checked")
    assert not any(line.startswith("VIOLATION") for line in lines(found))


def test_a_script_without_its_end_is_a_bad_run() -> None:
    found = made(history(), failure="timeout after 20 s, waiting for a new leader")
    assert not found["held"]
    assert lines(found)[-1] == "FAILED: timeout after 20 s, waiting for a new leader"


def test_percentiles_are_in_milliseconds() -> None:
    verdict = Verdict(ackwait_errors_s=[number / 1000 for number in range(101)])
    found = made(history(), verdict)["ackwait_error_ms"]
    assert found == {"count": 101, "min": 0, "p50": 50, "p99": 99, "max": 100}
