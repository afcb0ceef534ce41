"""Runs of sequences."""

from __future__ import annotations

from node.core.record_keys import pack_records, pack_runs, unpack_records, unpack_runs
from node.core.state import Record


def test_runs() -> None:
    assert pack_runs([]) == []
    assert pack_runs([1, 2, 3, 7, 9, 10]) == [1, 3, 7, 1, 9, 2]
    assert pack_runs([10, 9, 8, 3], -1) == [10, 3, 3, 1]
    assert unpack_runs([10, 3, 3, 1], -1) == [10, 9, 8, 3]


def test_records_keep_their_order_and_are_shared() -> None:
    """The order of time is not that of sequences: what was sent again stands at the back."""
    first, second = Record(1, 1, 1), Record(2, 2, 2)
    unacked = {2: first, 3: first, 1: second, 9: second, 4: first}
    packed = pack_records(unacked)
    assert packed == [(1, 1, 1, [2, 2]), (2, 2, 2, [1, 1, 9, 1]), (1, 1, 1, [4, 1])]
    again = unpack_records(packed)
    assert list(again.items()) == list(unacked.items())
    assert again[2] is again[3]
