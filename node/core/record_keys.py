"""Keys and small encodings of records, for ``records`` (writes) and ``restoring`` (reads)."""

from __future__ import annotations

import struct

from .effects import ClientOpened, DurableTaken, Ok, Outcome, Probing, Refused, SubscriptionOpened
from .state import Record

FORMAT = 3
"""Format version of the records, stored in ``m``. Earlier formats had less of groups and deliveries."""

META = b"m"
ADDED_META = b"x"
CLIENT = struct.Struct(">cQI")
CHANNEL = struct.Struct(">cI")
BLOCK = struct.Struct(">cIQ")
NUMBER = struct.Struct(">cQ")

OUTCOME_TYPES: tuple[type[Outcome], ...] = (
    Ok,
    Refused,
    ClientOpened,
    Probing,
    SubscriptionOpened,
    DurableTaken,
)
"""An outcome is written with its position in this tuple. New types are added at the end."""

PackedRecords = list[tuple[int, int, int, list[int]]]


def pack_records(unacked: dict[int, Record]) -> PackedRecords:
    """Pack neighbours that share a record, each as ``(sent_at, entry, deliveries, runs of sequences)``.

    A checkpoint does this on the event loop for each subscription with new deliveries or acks, whatever its
    size. So it is a single pass, and a sequence that continues a run costs almost nothing.
    """
    packed: PackedRecords = []
    shared: Record | None = None
    runs: list[int] = []
    start = expected = 0
    for seq, record in unacked.items():
        if record is shared or record == shared:
            if seq == expected:
                expected += 1
                continue
            runs += (start, expected - start)
        else:
            if shared is not None:
                packed.append((*shared, [*runs, start, expected - start]))
            shared, runs = record, []
        start, expected = seq, seq + 1
    if shared is not None:
        packed.append((*shared, [*runs, start, expected - start]))
    return packed


def unpack_records(packed: PackedRecords) -> dict[int, Record]:
    """Return the dict in its order; neighbours share a record again."""
    unacked: dict[int, Record] = {}
    for sent_at_ns, entry, deliveries, runs in packed:
        unacked.update(dict.fromkeys(unpack_runs(runs), Record(sent_at_ns, entry, deliveries)))
    return unacked


def pack_runs(seqs: list[int], step: int = 1) -> list[int]:
    """Return ``[start, count, start, count, …]`` for sequences; within a run they differ by ``step``."""
    runs: list[int] = []
    expected = None
    for seq in seqs:
        if seq == expected:
            runs[-1] += 1
        else:
            runs += (seq, 1)
        expected = seq + step
    return runs


def unpack_runs(runs: list[int], step: int = 1) -> list[int]:
    """Return the sequences in their order."""
    seqs: list[int] = []
    for start, count in zip(runs[::2], runs[1::2], strict=True):
        seqs += range(start, start + count * step, step)
    return seqs
