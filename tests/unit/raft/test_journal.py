"""The journal without faults: append, truncate, vote, flush, roll, drop, reset, read back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from google_crc32c import extend

from node.errors import CorruptionError, DiskError
from node.raft import journal as journal_module
from node.raft.disk import Disk, RealDisk
from node.raft.journal import Journal
from node.raft.log_state import Base
from node.raft.ports import EntryType
from node.raft.records import HEADER_BYTES, RECORD_BYTES
from node.simulator.disk import SimulatedDisk

SMALL = HEADER_BYTES + 500
"""A segment of this size holds four entries of 80 bytes."""


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(random.Random(1))


def opened(disk: Disk, **options: object) -> Journal:
    return Journal.open(disk, segment_bytes=SMALL, **options)  # type: ignore[arg-type]


def reopened(disk: SimulatedDisk, **options: object) -> Journal:
    disk.kill()
    return opened(disk, **options)


def flushed(journal: Journal) -> None:
    while (flush := journal.begin_flush()) is not None:
        flush.run()
        journal.end_flush(flush)


def swept(journal: Journal) -> None:
    flushed(journal)
    sweep = journal.begin_sweep()
    assert sweep is not None
    assert journal.begin_sweep() is None
    sweep.run()


def payload(index: int) -> bytes:
    return b"%03d" % index + b"." * 77


def filled(journal: Journal, count: int) -> Journal:
    for index in range(journal.last_index + 1, journal.last_index + 1 + count):
        journal.append(index, 1, payload(index))
    flushed(journal)
    return journal


def log(journal: Journal) -> list[tuple[int, int, bytes]]:
    return list(journal.read(journal.first_readable, 1 << 30))


def test_new_journal_is_empty(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    assert (journal.first_index, journal.last_index, journal.durable_index) == (0, 0, 0)
    assert (journal.term, journal.voted_for, journal.membership, journal.base) == (0, None, None, None)
    assert journal.written == journal.durable == 0
    assert journal.read(1, 100) == []
    assert journal.term_at(1) is None
    assert journal.begin_flush() is None
    with pytest.raises(IndexError):
        journal.payload_at(1)


def test_everything_is_read_back(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    journal = opened(disk)
    journal.append(1, 0, b"")
    journal.set_term(3, None)
    journal.set_term(3, "node b")
    journal.append(2, 3, b"two")
    journal.append(3, 3, b"x" * 5000)  # longer than a segment
    journal.append(4, 3, b"\x02abc")
    flushed(journal)
    journal.close()

    journal = opened(disk)
    assert log(journal) == [(1, 0, b""), (2, 3, b"two"), (3, 3, b"x" * 5000), (4, 3, b"\x02abc")]
    assert (journal.term, journal.voted_for, journal.membership) == (3, "node b", (4, b"abc"))
    assert (journal.first_index, journal.last_index, journal.durable_index) == (1, 4, 4)
    assert journal.written == journal.durable == 6
    assert journal.torn is None
    journal.close()


def test_flush_that_never_ran_keeps_nobody_from_closing(disk: SimulatedDisk) -> None:
    """The node stops between begin and run: the records are lost like those of a flush that was not begun."""
    journal = opened(disk)
    journal.append(1, 1, b"a")
    assert journal.begin_flush() is not None
    journal.close()
    assert opened(disk).last_index == 0


def test_failed_flush_keeps_nobody_from_closing(disk: SimulatedDisk) -> None:
    """It does not hide the reason why the node stops."""
    journal = opened(disk)
    journal.append(1, 1, b"a")
    flush = journal.begin_flush()
    assert flush is not None
    disk.fail_syncs()
    with pytest.raises(DiskError):
        flush.run()
    journal.close()


def test_offers_are_visible_before_they_are_durable(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    journal.append(1, 1, b"a")
    journal.set_term(2, "me")
    assert journal.payload_at(1) == b"a"
    assert (journal.written, journal.durable, journal.durable_index) == (2, 0, 0)
    flush = journal.begin_flush()
    assert flush is not None
    journal.append(2, 2, b"b")
    assert journal.begin_flush() is None  # one at a time
    flush.run()
    journal.end_flush(flush)
    assert (journal.written, journal.durable, journal.durable_index) == (3, 2, 1)
    flushed(journal)
    assert (journal.written, journal.durable, journal.durable_index) == (3, 3, 2)


def test_flush_is_one_write_one_sync_and_an_end_record(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    before = disk.operations, disk.syncs
    for index in (1, 2, 3):
        journal.append(index, 1, b"x")
    flushed(journal)
    assert (disk.operations - before[0], disk.syncs - before[1]) == (3, 1)


def test_bytes_put_and_segments_to_come_are_counted(disk: SimulatedDisk) -> None:
    """The forecast of free space uses both."""
    journal = opened(disk)
    assert (journal.bytes_put, journal.unallocated_bytes) == (0, 0)
    count = 3 * SMALL // len(payload(1))
    for index in range(1, count + 1):
        journal.append(index, 1, payload(index))
    put = journal.bytes_put
    assert put > count * len(payload(1))
    assert journal.unallocated_bytes == journal.bytes_on_disk - SMALL >= 2 * SMALL
    flushed(journal)
    assert (journal.bytes_put, journal.unallocated_bytes) == (put, 0)


def test_unchanged_term_costs_nothing(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    journal.set_term(1, "a")
    written = journal.written
    journal.set_term(1, "a")
    assert journal.written == written


def test_a_second_vote_in_a_term_is_a_bug(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    journal.set_term(1, "a")
    for term, vote in ((1, "b"), (1, None), (0, None)):
        with pytest.raises(AssertionError):
            journal.set_term(term, vote)


def test_gaps_and_falling_terms_are_bugs(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    with pytest.raises(AssertionError):
        journal.append(2, 1, b"")
    journal.append(1, 2, b"")
    with pytest.raises(AssertionError):
        journal.append(2, 1, b"")


def test_truncation_and_what_took_its_place(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 9)
    journal.truncate(6)
    journal.append(6, 2, b"new 6")
    assert (journal.last_index, journal.durable_index) == (6, 5)
    assert journal.payload_at(6) == b"new 6"
    flushed(journal)
    journal.truncate(7)  # nothing there
    assert journal.written == journal.durable
    journal = reopened(disk)
    assert [(i, t) for i, t, _ in log(journal)] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2)]
    assert journal.payload_at(6) == b"new 6"


def test_a_flush_says_nothing_about_entries_replaced_meanwhile(disk: SimulatedDisk) -> None:
    """It wrote the old entries 3 and 4; their replacements are not durable."""
    journal = opened(disk)
    for index in (1, 2, 3, 4):
        journal.append(index, 1, b"old")
    flush = journal.begin_flush()
    assert flush is not None
    journal.truncate(3)
    for index in (3, 4):
        journal.append(index, 2, b"new")
    flush.run()
    journal.end_flush(flush)
    assert journal.durable_index == 2
    flushed(journal)
    assert journal.durable_index == 4


def test_first_index_of_term(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    for index, term in enumerate((1, 1, 2, 2, 2, 5), start=1):
        journal.append(index, term, b"")
    assert [journal.first_index_of_term_at(i) for i in range(1, 7)] == [1, 1, 3, 3, 3, 6]
    with pytest.raises(IndexError):
        journal.first_index_of_term_at(7)


def test_read_is_bounded_but_never_empty(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 10)
    assert [i for i, _, _ in journal.read(3, 160)] == [3, 4]
    assert [i for i, _, _ in journal.read(3, 1)] == [3]
    assert journal.read(11, 100) == []


def test_read_is_bounded_in_entries_too(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame holds a bounded number of items, and an entry may be one byte long."""
    monkeypatch.setattr(journal_module, "READ_ENTRIES_MAX", 3)
    journal = filled(opened(disk), 10)
    assert [i for i, _, _ in journal.read(2, 1 << 20)] == [2, 3, 4]


def test_payloads_beyond_the_cache_come_from_disk(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk, cache_bytes=1000), 50)
    assert journal._entry_cache.size <= 1000
    assert log(journal) == [(i, 1, payload(i)) for i in range(1, 51)]


def test_unwritten_payloads_are_held_whatever_they_take(disk: SimulatedDisk) -> None:
    journal = opened(disk, cache_bytes=100)
    for index in range(1, 20):
        journal.append(index, 1, payload(index))
    assert [p for _, _, p in log(journal)] == [payload(i) for i in range(1, 20)]
    flushed(journal)
    assert journal._entry_cache.size <= 100


def test_rotten_payload_is_noticed_when_read(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk, cache_bytes=0), 3)
    disk.rot("segment-0000000000000001.log", HEADER_BYTES + RECORD_BYTES + 5, 1)
    with pytest.raises(CorruptionError, match=r"the entry is damaged \(byte 4096, log index 1\)"):
        journal.payload_at(1)
    assert journal.payload_at(2) == payload(2)


def test_drop_takes_whole_segments_and_keeps_two_entries(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 20)
    assert len(disk.names()) == 5
    journal.drop_before(4)
    assert journal.first_index == 1
    journal.drop_before(11)
    assert journal.first_index == 9
    assert journal.first_readable == 9
    assert journal.term_at(8) is None
    swept(journal)
    assert len(disk.names()) == 3
    journal.drop_before(1000)
    swept(journal)
    assert journal.first_index == 17
    journal = reopened(disk)
    assert log(journal) == [(i, 1, payload(i)) for i in range(17, 21)]
    filled(journal, 1)
    journal.drop_before(1000)
    assert journal.first_index == 17  # 20 has to stay, and is in the segment of 17


def test_nothing_is_deleted_before_what_replaces_it_is_durable(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 10)
    journal.reset((100, 8), (99, 7))
    assert journal.begin_sweep() is None
    assert reopened(disk).last_index == 10


def test_flushes_delete_what_nobody_sweeps(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 40)
    journal.drop_before(19)
    filled(journal, 1)
    assert len(disk.names()) == 11
    journal.drop_before(23)
    filled(journal, 1)
    assert len(disk.names()) == 6


def test_a_failed_sweep_stops_the_journal(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 40)
    journal.drop_before(19)
    sweep = journal.begin_sweep()
    assert sweep is not None
    disk.fail_syncs()
    with pytest.raises(DiskError):
        sweep.run()
    with pytest.raises(DiskError, match="the journal stopped"):
        journal.begin_flush()


def test_vote_and_membership_outlive_their_segments(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    journal.set_term(7, "b")
    journal.append(1, 7, b"\x02ab")
    for index in range(2, 30):
        journal.append(index, 7, payload(index))
    flushed(journal)
    journal.drop_before(25)
    swept(journal)
    journal = reopened(disk)
    assert journal.first_index > 20
    assert (journal.term, journal.voted_for, journal.membership) == (7, "b", (1, b"ab"))
    assert journal.membership_at(journal.first_index) == (1, b"ab")


def test_first_index_within_bytes(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 20)
    assert journal.bytes_on_disk == 5 * SMALL
    assert journal.first_index_within(2 * SMALL) == 13
    assert journal.first_index_within(0) == 17
    assert journal.first_index_within(100 * SMALL) == 1


def test_reset_starts_over_behind_a_snapshot(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 10)
    journal.set_term(9, "b")
    journal.reset((100, 8), (99, 7))
    assert (journal.first_index, journal.last_index, journal.durable_index) == (99, 100, 0)
    flushed(journal)
    assert journal.durable_index == 100
    journal.append(101, 9, b"after")
    swept(journal)
    assert len(disk.names()) == 1
    for again in (journal, reopened(disk)):
        assert again.base == Base(100, 8, 7)
        assert [again.term_at(i) for i in (98, 99, 100, 101)] == [None, 7, 8, 9]
        assert again.payload_at(100) == b""
        assert again.first_readable == 101
        assert log(again) == [(101, 9, b"after")]
        assert again.voted_for == "b"
        with pytest.raises(IndexError):
            again.read(100, 10)
        with pytest.raises(AssertionError):
            again.truncate(100)


def test_base_is_forgotten_with_its_segment(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    journal.reset((100, 8), (99, 7))
    for index in range(101, 121):
        journal.append(index, 8, payload(index))
    flushed(journal)
    journal.drop_before(115)
    assert journal.base is None
    swept(journal)
    journal = reopened(disk)
    assert journal.base is None
    assert journal.first_readable == journal.first_index > 101


def test_a_log_with_a_past_is_never_truncated_to_nothing(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 20)
    journal.drop_before(18)
    with pytest.raises(AssertionError):
        journal.truncate(journal.first_index)


def test_a_log_without_a_past_may_be(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 3)
    journal.truncate(1)
    flushed(journal)
    assert reopened(disk).last_index == 0
    assert filled(reopened(disk), 2).last_index == 2


@pytest.mark.parametrize("fail", ["fail_syncs", "fail_writes"])
def test_after_a_disk_error_everything_is_refused(disk: SimulatedDisk, fail: str) -> None:
    journal = filled(opened(disk), 2)
    journal.append(3, 1, b"x")
    flush = journal.begin_flush()
    assert flush is not None
    getattr(disk, fail)()
    with pytest.raises(DiskError, match="Input/output error"):
        flush.run()
    for attempt in (
        lambda: journal.end_flush(flush),
        journal.begin_flush,
        lambda: journal.append(4, 1, b""),
        lambda: journal.set_term(5, None),
        lambda: journal.truncate(1),
        lambda: journal.reset((9, 1), (8, 1)),
        lambda: journal.drop_before(1),
        journal.begin_sweep,
        lambda: journal.payload_at(1),
    ):
        with pytest.raises(DiskError, match="the journal stopped after: "):
            attempt()
    assert journal.durable == 2


def test_full_disk_stops_the_journal(disk: SimulatedDisk) -> None:
    journal = opened(disk)
    disk.capacity = 2 * SMALL
    for index in range(1, 20):
        journal.append(index, 1, payload(index))
    flush = journal.begin_flush()
    assert flush is not None
    with pytest.raises(DiskError, match="No space left"):
        flush.run()


def test_relaxed_syncs_only_full_segments(disk: SimulatedDisk) -> None:
    journal = opened(disk, relaxed=True)
    before = disk.syncs
    filled(journal, 3)
    assert disk.syncs == before
    assert journal.durable_index == 3
    filled(journal, 3)
    assert disk.syncs == before + 3  # the old segment, the new one's header, the directory
    assert log(reopened(disk, relaxed=True)) == [(i, 1, payload(i)) for i in range(1, 7)]


def test_relaxed_syncs_terms_and_votes(disk: SimulatedDisk) -> None:
    """Entries may be lost in a power failure; a node that forgot its vote would vote twice."""
    journal = opened(disk, relaxed=True)
    before = disk.syncs
    journal.append(1, 1, payload(1))
    journal.set_term(7, "b")
    flushed(journal)
    assert disk.syncs == before + 1
    filled(journal, 1)
    assert disk.syncs == before + 1


class Xor:
    """A value cipher whose output differs from its input and depends on the context."""

    def encrypt(self, payload: bytes, context: bytes) -> bytes:
        return context + bytes(byte ^ 0x55 for byte in payload)

    def decrypt(self, encrypted: bytes, context: bytes) -> bytes:
        assert encrypted.startswith(context)
        return bytes(byte ^ 0x55 for byte in encrypted[len(context) :])


def test_relaxed_is_relaxed_for_encrypted_entries(disk: SimulatedDisk) -> None:
    """This includes encrypted entries; memberships and votes are synced."""
    journal = opened(disk, relaxed=True, value_cipher=Xor())
    before = disk.syncs
    filled(journal, 2)
    assert disk.syncs == before
    journal.append(3, 1, bytes([EntryType.MEMBERSHIP]) + b"members")
    flushed(journal)
    assert disk.syncs == before + 1


def test_membership_before_a_snapshot_is_unknown(disk: SimulatedDisk) -> None:
    """A caller that asks nevertheless must not get the initial voters."""
    journal = filled(opened(disk), 2)
    journal.reset((9, 3), (8, 3), b"members")
    assert journal.membership_at(9) == (9, b"members")
    with pytest.raises(AssertionError, match="entry 8 is in a snapshot"):
        journal.membership_at(8)


def test_encrypted_payloads(disk: SimulatedDisk) -> None:
    journal = Journal.open(disk, segment_bytes=SMALL, value_cipher=Xor())
    journal.append(1, 1, b"secret")
    flushed(journal)
    assert b"secret" not in disk.content("segment-0000000000000001.log")
    disk.kill()
    assert Journal.open(disk, segment_bytes=SMALL, value_cipher=Xor()).payload_at(1) == b"secret"


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_an_encrypted_journal_works_like_any_other(disk: SimulatedDisk, cache_bytes: int) -> None:
    """Rolled, truncated, reset and read back as without encryption."""
    for life in range(3):
        journal = Journal.open(disk, segment_bytes=SMALL, cache_bytes=cache_bytes, value_cipher=Xor())
        assert journal.last_index == life * 10
        filled(journal, 12)
        journal.truncate(journal.last_index - 1)
        flushed(journal)
        assert log(journal) == [(i, 1, payload(i)) for i in range(1, life * 10 + 11)]
        disk.kill()
    journal = Journal.open(disk, segment_bytes=SMALL, cache_bytes=cache_bytes, value_cipher=Xor())
    journal.reset((100, 2), (99, 2))
    journal.append(101, 2, b"behind a snapshot")
    flushed(journal)
    disk.kill()
    journal = Journal.open(disk, segment_bytes=SMALL, cache_bytes=cache_bytes, value_cipher=Xor())
    assert log(journal) == [(101, 2, b"behind a snapshot")]
    assert journal.payload_at(100) == b""


def test_unencrypted_entries_are_refused_with_a_key(disk: SimulatedDisk) -> None:
    """An entry that may have been written without the key is not accepted."""
    filled(opened(disk), 3)
    disk.kill()
    with pytest.raises(CorruptionError, match=r"segment-0+1.log: .*aren't encrypted"):
        Journal.open(disk, segment_bytes=SMALL, value_cipher=Xor())
    assert reopened(disk).last_index == 3


def test_encrypted_entries_are_refused_without_a_key(disk: SimulatedDisk) -> None:
    """Otherwise ciphertext would be applied as a command."""
    filled(Journal.open(disk, segment_bytes=SMALL, value_cipher=Xor()), 3)
    disk.kill()
    with pytest.raises(CorruptionError, match="no key"):
        opened(disk)


def test_an_entry_that_cannot_be_decrypted_is_damage(disk: SimulatedDisk) -> None:
    """The error names file and offset, as for any other damage."""
    filled(Journal.open(disk, segment_bytes=SMALL, value_cipher=Xor()), 3)
    disk.kill()

    class Another(Xor):
        def decrypt(self, encrypted: bytes, context: bytes) -> bytes:
            raise CorruptionError("another key")

    journal = Journal.open(disk, segment_bytes=SMALL, cache_bytes=0, value_cipher=Another())
    with pytest.raises(CorruptionError, match=r"segment-0+1.log: .*another key .*log index 2"):
        journal.payload_at(2)


def test_given_journal_id_makes_the_bytes_repeatable() -> None:
    contents = []
    for seed in (1, 2):
        disk = SimulatedDisk(random.Random(seed))
        filled(Journal.open(disk, segment_bytes=SMALL, journal_id=b"i" * 16), 10)
        contents.append([disk.content(name) for name in disk.names()])
    assert contents[0] == contents[1]


# --- memberships ------------------------------------------------------------------------------------


def memberships(journal: Journal) -> list[bytes | None]:
    """Return the membership in force at each entry."""
    found = [journal.membership_at(index) for index in range(journal.first_index, journal.last_index + 1)]
    return [None if placed is None else placed[1] for placed in found]


def test_membership_is_in_force_from_its_entry_on(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 1)
    journal.append(2, 1, b"\x02abc")
    journal.append(3, 1, b"\x01x")
    journal.append(4, 1, b"\x02abcd")
    assert journal.membership == (4, b"abcd")
    flushed(journal)
    for again in (journal, reopened(disk)):
        assert memberships(again) == [None, b"abc", b"abc", b"abcd"]
        assert again.payload_at(4) == b"\x02abcd"


def test_truncation_undoes_a_membership(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 1)
    journal.append(2, 1, b"\x02abc")
    journal.append(3, 1, b"\x02abcd")
    journal.truncate(3)
    assert journal.membership == (2, b"abc")
    journal.append(3, 2, b"\x02ab")
    flushed(journal)
    journal = reopened(disk)
    assert memberships(journal) == [None, b"abc", b"ab"]
    journal.truncate(2)
    assert journal.membership is None
    flushed(journal)
    assert reopened(disk).membership is None


def test_truncation_undoes_a_membership_of_a_dropped_segment(disk: SimulatedDisk) -> None:
    """The oldest segment begins with a membership that its own first records undo."""
    journal = opened(disk)
    journal.append(1, 1, b"\x02abc")
    for index in range(2, 8):
        journal.append(index, 1, payload(index))
    journal.append(8, 1, b"\x02abcd")
    while journal.bytes_on_disk == 2 * SMALL:
        journal.append(journal.last_index + 1, 1, payload(journal.last_index + 1))
    journal.truncate(8)
    for index in range(8, 20):
        journal.append(index, 2, payload(index))
    flushed(journal)
    journal.drop_before(8)
    assert (journal.first_index, journal.membership) == (8, (1, b"abc"))
    swept(journal)
    journal = reopened(disk)
    assert (journal.first_index, journal.membership) == (8, (1, b"abc"))


def test_snapshot_brings_its_membership(disk: SimulatedDisk) -> None:
    journal = filled(opened(disk), 3)
    journal.append(4, 1, b"\x02abc")
    journal.reset((9, 1), (8, 1), b"abd")
    assert journal.membership == (9, b"abd")
    flushed(journal)
    journal = reopened(disk)
    assert journal.membership == journal.membership_at(9) == (9, b"abd")
    journal.reset((20, 1), (19, 1))  # the one in force stays
    assert journal.membership == (20, b"abd")
    flushed(journal)
    assert reopened(disk).membership == (20, b"abd")


def test_membership_is_never_encrypted(disk: SimulatedDisk) -> None:
    """It is read at the start before a key is available."""
    journal = opened(disk, value_cipher=Xor())
    journal.append(1, 1, b"\x01secret")
    journal.append(2, 1, b"\x02members")
    flushed(journal)
    content = disk.content("segment-0000000000000001.log")
    assert b"members" in content
    assert b"secret" not in content
    journal = reopened(disk, value_cipher=Xor())
    assert (journal.payload_at(1), journal.payload_at(2)) == (b"\x01secret", b"\x02members")
    assert journal.membership == (2, b"members")


def test_journal_of_the_first_format_still_opens(disk: SimulatedDisk) -> None:
    """Its segments have no memberships; new segments have the present format."""
    filled(opened(disk), 3)
    name = "segment-0000000000000001.log"
    lead, body = disk.content(name)[:18], disk.content(name)[18:HEADER_BYTES]
    lead = lead[:8] + b"\x01\x00" + lead[10:14] + bytes(4)
    checksum = extend(extend(0, lead), body)
    disk.open(name).write(0, [lead[:14] + checksum.to_bytes(4, "little")])
    journal = reopened(disk)
    assert (journal.last_index, journal.membership) == (3, None)
    journal.append(4, 1, b"\x02abc")
    filled(journal, 8)
    journal = reopened(disk)
    assert (journal.last_index, journal.membership) == (12, (4, b"abc"))
    journal.drop_before(11)
    swept(journal)
    assert reopened(disk).membership == (4, b"abc")
