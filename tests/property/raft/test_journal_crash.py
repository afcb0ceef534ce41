"""After a power failure at any point the journal holds everything that was flushed, and nothing that was
never written."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import CorruptionError
from node.raft.journal import Journal
from node.raft.records import HEADER_BYTES
from node.simulator.disk import PowerCutError, SimulatedDisk

SEGMENT_BYTES = HEADER_BYTES + 1200

View = tuple[Any, ...]


def view(journal: Journal) -> View:
    """Return everything a journal contains, except old entries that may or may not be dropped."""
    entries = {i: (t, p) for i, t, p in journal.read(journal.first_readable, 1 << 30)}
    return (journal.last_index, journal.term, journal.voted_for, journal.membership, entries)


def agrees(found: View, expected: View, kept_from: int = 1) -> bool:
    """Return whether a recovered journal equals the expected one; entries before ``kept_from`` may be
    missing."""
    return (
        found[:4] == expected[:4]
        and found[4].keys() >= {index for index in expected[4] if index >= kept_from}
        and all(found[4][i] == expected[4][i] for i in found[4].keys() & expected[4].keys())
    )


class Masked:
    """A deterministic value cipher that verifies the context of a payload."""

    def encrypt(self, payload: bytes, context: bytes) -> bytes:
        return context + bytes(byte ^ 0x55 for byte in payload)

    def decrypt(self, encrypted: bytes, context: bytes) -> bytes:
        assert encrypted.startswith(context), "encrypted in another context"
        return bytes(byte ^ 0x55 for byte in encrypted[len(context) :])


class Life:
    """A journal, its disk, and its content after each record; half of the journals are encrypted."""

    def __init__(self, seed: int, *, relaxed: bool = False) -> None:
        self.rng = random.Random(seed)
        self.disk = SimulatedDisk(self.rng)
        self.relaxed = relaxed
        self.value_cipher = Masked() if seed % 2 else None
        self.said: dict[int, View] = {}
        self.durable = 0
        self.kept_from = 1
        """Entries from this index on were never dropped."""
        self.journal = self.opened()
        self.note()

    def opened(self) -> Journal:
        return Journal.open(
            self.disk,
            segment_bytes=SEGMENT_BYTES,
            cache_bytes=300,
            relaxed=self.relaxed,
            journal_id=b"j" * 16,
            value_cipher=self.value_cipher,
        )

    def note(self) -> None:
        journal = self.journal
        self.said[journal.written] = now = view(journal)
        last, *_, entries = self.said[journal.durable]
        assert journal.durable_index <= last
        for index in now[4].keys() & entries.keys():
            if index <= journal.durable_index:
                assert now[4][index] == entries[index], "called durable, but it is another entry that is"

    def step(self, what: str, size: int) -> None:
        journal = self.journal
        last = journal.last_index
        match what:
            case "append":
                term = max(journal.term, journal.term_at(last) or 0)
                journal.append(journal._state.next_index, term, self.rng.randbytes(size))
            case "truncate":
                floor = max(journal.first_index, journal.base.index if journal.base else 0)
                if last > floor + 1:
                    journal.truncate(max(floor + 1, last - size % 4))
            case "term":
                journal.set_term(journal.term + 1, self.rng.choice([None, "a", "b"]))
            case "members":
                term = max(journal.term, journal.term_at(last) or 0)
                journal.append(journal._state.next_index, term, b"\x02" + self.rng.randbytes(size % 40 + 1))
            case "flush":
                self.flush(busy=True)
            case "quiet flush":
                self.flush(busy=False)
            case "drop":
                journal.drop_before(min(journal.durable_index, last - size % 5))
                self.kept_from = journal.first_index
            case "sweep":
                sweep = journal.begin_sweep()
                if sweep is not None:
                    sweep.run()
            case "reset":
                term = max(journal.term, journal.term_at(last) or 0)
                journal.reset((last + 2 + size % 7, term), (last + 1 + size % 7, term))
            case "roll":
                journal.append(
                    journal._state.next_index, max(journal.term, journal.term_at(last) or 0), bytes(1300)
                )
        self.note()

    def live(self, steps: list[tuple[str, int]]) -> None:
        for what, size in steps:
            self.step(what, size)

    def flush(self, *, busy: bool) -> None:
        """A flush, if busy one during which the journal changes."""
        flush = self.journal.begin_flush()
        if flush is not None:
            self.note()
            if busy:
                self.step(self.rng.choice(["append", "append", "truncate", "term"]), 1)
            flush.run()
            self.journal.end_flush(flush)
            self.durable = self.journal.durable
            self.note()

    def crash(self, *, power: bool) -> None:
        """Stop, start again, and check what is found."""
        if power:
            self.disk.power_cut()
        else:
            self.disk.kill()
        journal = self.opened()
        if not self.relaxed:
            assert journal.written >= self.durable, "flushed records are lost"
        found = view(journal)
        assert agrees(found, self.said[journal.written], self.kept_from), "found what never was"
        assert journal.durable_index == journal.last_index
        self.journal = journal
        self.said = {journal.written: found}
        self.durable = journal.written
        self.kept_from = journal.first_index


KINDS = {
    "append": 7,
    "flush": 6,
    "roll": 2,
    "drop": 2,
    "sweep": 2,
    "truncate": 2,
    "term": 1,
    "members": 2,
    "reset": 1,
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from([kind for kind, weight in KINDS.items() for _ in range(weight)]),
        st.sampled_from([0, 1, 2, 30, 30, 400]),  # few sizes, so that old records fit where new ones end
    ),
    min_size=5,
    max_size=25,
)
LIVES = st.lists(st.tuples(STEPS, st.integers(0, 25), st.booleans()), min_size=1, max_size=5)


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 1 << 32), lives=LIVES, relaxed=st.sampled_from([False, False, True]))
def test_any_crash_point(
    seed: int, lives: list[tuple[list[tuple[str, int]], int, bool]], relaxed: bool
) -> None:
    """Run several lives, each ended inside some disk operation, with or without a power failure."""
    life = Life(seed, relaxed=relaxed)
    for steps, operations, power in lives:
        life.disk.stop_after(operations)
        with contextlib.suppress(PowerCutError):
            life.live(steps)
        life.crash(power=power)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32), steps=STEPS, cuts=st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_crash_during_recovery(seed: int, steps: list[tuple[str, int]], cuts: list[int]) -> None:
    """A start that is interrupted repeatedly loses nothing."""
    life = Life(seed)
    life.disk.stop_after(40)
    with contextlib.suppress(PowerCutError):
        life.live(steps)
    for cut in cuts:
        life.disk.power_cut()
        life.disk.stop_after(cut)
        with contextlib.suppress(PowerCutError):
            life.opened()
    life.crash(power=True)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("encrypted", [False, True])
def test_every_flipped_byte_is_noticed_or_in_the_last_flush(seed: int, encrypted: bool) -> None:
    """A flipped bit anywhere is refused, harmless, or cuts only the last flush and is reported.

    The last flush is not cut either if its end record is present.
    """
    life = Life(seed)
    life.live([
        ("append", 30), ("append", 9), ("quiet flush", 0), ("term", 0), ("append", 300), ("append", 300),
        ("quiet flush", 0), ("append", 200), ("truncate", 1), ("quiet flush", 0), ("append", 300),
        ("members", 3), ("quiet flush", 0), ("append", 40), ("quiet flush", 0),
    ])  # fmt: skip
    synced = life.journal.durable
    life.live([("append", 30), ("append", 20), ("quiet flush", 0)])
    whole = life.said[life.journal.written]
    refused = cut = 0
    files = {name: life.disk.content(name) for name in life.disk.names()}
    assert len(files) > 1
    if not encrypted:
        *_, last = files
        marker = files[last][HEADER_BYTES : HEADER_BYTES + 4]
        files[last] = files[last][: files[last].rindex(marker)].ljust(len(files[last]), b"\0")
    for name, content in files.items():
        for at in (*range(128), *range(128, HEADER_BYTES, 61), *range(HEADER_BYTES, len(content))):
            disk = SimulatedDisk(random.Random(0))
            for copied, data in files.items():
                disk.open(copied, create=True).write(0, [data])
            disk.rot(name, at, 1 << random.Random(at).randrange(8))
            try:
                journal = Journal.open(disk, segment_bytes=SEGMENT_BYTES, value_cipher=life.value_cipher)
            except CorruptionError:
                refused += 1
                continue
            if journal.written == life.journal.written:
                assert agrees(view(journal), whole, life.kept_from)
            else:
                assert journal.torn is not None
                assert journal.written >= synced
                assert agrees(view(journal), life.said[journal.written], life.kept_from)
                cut += 1
    assert refused > 0
    assert (cut == 0) is encrypted
