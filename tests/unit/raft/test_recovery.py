"""Recovery of a damaged journal: a torn end is cut, damage is refused."""

from __future__ import annotations

import contextlib
import random
import struct

import msgpack
import pytest
from google_crc32c import extend

from node.errors import CorruptionError, DiskError
from node.raft.journal import Journal
from node.raft.places import Places
from node.raft.records import HEADER_BYTES, RECORD_BYTES, Header, Kind, decode_header
from node.raft.segments import JournalDamageError, Segment
from node.raft.writer import Writer
from node.simulator.disk import PowerCutError, SimulatedDisk
from node.units import Index, Term

SMALL = HEADER_BYTES + 500
FIRST = "segment-0000000000000001.log"
SECOND = "segment-0000000000000002.log"
ENTRY_BYTES = RECORD_BYTES + 80


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(random.Random(1))


def opened(disk: SimulatedDisk) -> Journal:
    disk.kill()
    return Journal.open(disk, segment_bytes=SMALL)


def flushed(journal: Journal) -> None:
    while (flush := journal.begin_flush()) is not None:
        flush.run()
        journal.end_flush(flush)


def filled(journal: Journal, count: int, *, flushes: int = 1) -> Journal:
    """Append ``count`` entries in ``flushes`` equal flushes."""
    for number in range(flushes * count // flushes):
        journal.append(journal.last_index + 1, 1, b"%080d" % number)
        if (number + 1) % (count // flushes) == 0:
            flushed(journal)
    return journal


def encode_as_before(header: Header) -> bytes:
    """Encode a header as an earlier release did, without the file's size."""
    fields = (
        header.journal_id,
        header.number,
        header.first_seq,
        header.next_index,
        header.term,
        header.voted_for,
        header.membership,
    )
    body = msgpack.packb(fields).ljust(HEADER_BYTES - 18, b"\0")
    lead = struct.pack("<8sHII", b"STANJRNL", 2, HEADER_BYTES, 0)
    return lead[:-4] + struct.pack("<I", extend(extend(0, lead), body)) + body


def offset(nth: int) -> int:
    """Return the offset of the nth entry (from 0) of a segment without other records."""
    return HEADER_BYTES + nth * ENTRY_BYTES


def without_end_record(disk: SimulatedDisk, name: str) -> None:
    """Simulate a power failure before the kernel wrote the end record of the last flush."""
    content = disk.content(name)
    encrypt = content.rindex(content[HEADER_BYTES : HEADER_BYTES + 4])
    for at in range(encrypt, encrypt + RECORD_BYTES):
        disk.rot(name, at, content[at])


def test_damage_in_the_last_flush_is_refused_if_its_end_record_is_present(disk: SimulatedDisk) -> None:
    """It was synced and may have been acknowledged, so a power failure can't have caused the damage."""
    for nth in (0, 1, 2):
        disk = SimulatedDisk(random.Random(1))
        filled(filled(opened(disk), 2), 1)
        disk.rot(FIRST, offset(nth) + 50, 1)
        with pytest.raises(JournalDamageError, match="records written after it was synced"):
            opened(disk)


def test_what_was_read_back_gets_an_end_record_again(disk: SimulatedDisk) -> None:
    filled(opened(disk), 3, flushes=3)
    without_end_record(disk, FIRST)
    assert opened(disk).torn is None
    disk.rot(FIRST, offset(2) + 50, 1)
    with pytest.raises(JournalDamageError, match="records written after it was synced"):
        opened(disk)


def test_a_damaged_end_record_is_garbage(disk: SimulatedDisk) -> None:
    filled(opened(disk), 3, flushes=3)
    disk.rot(FIRST, offset(3) + 20, 1)
    journal = opened(disk)
    assert journal.last_index == 3
    assert journal.torn is not None
    filled(journal, 1)
    assert opened(disk).last_index == 4


def test_a_flush_overwrites_the_end_record_before_it(disk: SimulatedDisk) -> None:
    """The new flush may also be torn behind the end record; no message that depended on it was sent."""
    journal = filled(opened(disk), 1)
    journal.append(2, 1, b"")
    flush = journal.begin_flush()
    assert flush is not None
    flush.run()
    assert opened(disk).last_index == 2
    for seed in range(40):
        disk = SimulatedDisk(random.Random(seed))
        journal = filled(opened(disk), 1)
        for index in range(2, 6):
            journal.append(index, 1, bytes([index]) * 80)
        flush = journal.begin_flush()
        assert flush is not None
        disk.stop_after(1)
        with pytest.raises(PowerCutError):
            flush.run()
        disk.power_cut()
        assert opened(disk).last_index in range(1, 6)


def test_damage_in_a_last_flush_without_an_end_record_is_cut_and_reported(disk: SimulatedDisk) -> None:
    filled(opened(disk), 3, flushes=3)
    without_end_record(disk, FIRST)
    disk.rot(FIRST, offset(2) + 50, 1)
    journal = opened(disk)
    assert journal.last_index == 2
    assert journal.torn is not None
    assert (journal.torn.file, journal.torn.offset) == ("disk/" + FIRST, offset(2))
    assert (journal.torn.garbage, journal.torn.next_index) == (ENTRY_BYTES, 3)
    assert len(disk.content(FIRST)[offset(2) :].rstrip(b"\0")) <= RECORD_BYTES, "an end record"
    assert len(disk.content(FIRST)) == SMALL
    assert opened(disk).torn is None


def test_damage_with_a_later_flush_behind_it_is_refused(disk: SimulatedDisk) -> None:
    filled(opened(disk), 3, flushes=3)
    disk.rot(FIRST, offset(1) + 50, 1)
    with pytest.raises(JournalDamageError, match="records written after it was synced") as caught:
        opened(disk)
    error = caught.value
    assert (error.file, error.offset, error.index) == ("disk/" + FIRST, offset(1), 2)
    assert "cluster replace" in str(error)


def test_whole_records_of_the_torn_flush_never_come_back(disk: SimulatedDisk) -> None:
    """1 | 2 3: record 2 was torn, 3 was whole. A new 2 of the same length must not bring 3 back."""
    journal = filled(opened(disk), 1)
    filled(journal, 2)
    without_end_record(disk, FIRST)
    disk.rot(FIRST, offset(1) + 50, 1)
    journal = opened(disk)
    assert journal.last_index == 1
    filled(journal, 1)
    assert opened(disk).last_index == 2


def test_zeros_where_a_record_was_are_a_gap_too(disk: SimulatedDisk) -> None:
    filled(opened(disk), 3, flushes=3)
    content = disk.content(FIRST)
    for at in range(offset(1), offset(2)):
        disk.rot(FIRST, at, content[at])
    with pytest.raises(CorruptionError, match="records written after it was synced"):
        opened(disk)


def test_damage_in_an_earlier_segment_is_refused(disk: SimulatedDisk) -> None:
    """This includes its last record: the segment was synced before the next one was created."""
    filled(opened(disk), 5)
    disk.rot(FIRST, offset(3) + 50, 1)
    with pytest.raises(JournalDamageError, match="before the last segment") as caught:
        opened(disk)
    assert (caught.value.offset, caught.value.index) == (offset(3), 4)


def test_records_missing_at_the_end_of_an_earlier_segment(disk: SimulatedDisk) -> None:
    filled(opened(disk), 5)
    content = disk.content(FIRST)
    for at in range(offset(3), len(content)):
        disk.rot(FIRST, at, content[at])
    with pytest.raises(CorruptionError, match="records are missing before this segment"):
        opened(disk)


@pytest.mark.parametrize("at", [0, 8, 10, 14, 30, 200, HEADER_BYTES - 1])
def test_damaged_header_is_refused(disk: SimulatedDisk, at: int) -> None:
    filled(opened(disk), 5)
    disk.rot(SECOND, at, 0x40)
    with pytest.raises(CorruptionError, match=SECOND):
        opened(disk)


def test_missing_segment_is_named(disk: SimulatedDisk) -> None:
    filled(opened(disk), 12)
    disk.unlink(SECOND)
    with pytest.raises(CorruptionError, match=f"is missing: disk/{SECOND}"):
        opened(disk)


def test_segment_under_another_name_is_refused(disk: SimulatedDisk) -> None:
    filled(opened(disk), 5)
    disk.unlink(FIRST)
    disk.rename(SECOND, FIRST)
    with pytest.raises(CorruptionError, match="the file holds segment 2"):
        opened(disk)


def test_segment_of_another_journal_is_refused(disk: SimulatedDisk) -> None:
    filled(opened(disk), 5)
    other = SimulatedDisk(random.Random(2))
    filled(opened(other), 5)
    stray = other.content(SECOND)
    disk.unlink(SECOND)
    disk.open(SECOND, create=True).write(0, [stray])
    with pytest.raises(CorruptionError, match="belongs to another journal"):
        opened(disk)


def test_old_bytes_of_another_segment_are_no_records(disk: SimulatedDisk) -> None:
    """Records are bound to their segment: old bytes in a block used again mean nothing."""
    filled(opened(disk), 6)
    old = disk.content(FIRST)[offset(2) : offset(4)]
    disk.open(SECOND).write(offset(2), [old])
    journal = opened(disk)
    assert journal.last_index == 6
    assert journal.torn is not None
    assert journal.torn.garbage == len(old.rstrip(b"\0"))


def test_every_entry_gone_after_a_drop_is_damage(disk: SimulatedDisk) -> None:
    """Segments are dropped only if later entries are synced, so an empty log can't be a torn end."""
    journal = filled(opened(disk), 6)
    journal.drop_before(5)
    sweep = journal.begin_sweep()
    assert sweep is not None
    sweep.run()
    assert disk.names() == [SECOND]
    without_end_record(disk, SECOND)
    disk.rot(SECOND, offset(0) + 50, 1)
    with pytest.raises(CorruptionError, match="all entries of the log are missing"):
        opened(disk)


def test_unfinished_segment_is_swept_away(disk: SimulatedDisk) -> None:
    filled(opened(disk), 2)
    disk.open(SECOND.replace(".log", ".tmp"), create=True)
    disk.open("lock", create=True)
    assert opened(disk).last_index == 2
    assert disk.names() == ["lock", FIRST]


@pytest.mark.parametrize("seed", range(8))
def test_what_a_killed_process_left_unsynced_is_synced_before_use(seed: int) -> None:
    disk = SimulatedDisk(random.Random(seed))
    journal = opened(disk)
    journal.append(1, 1, b"x")
    flush = journal.begin_flush()
    assert flush is not None
    disk.stop_after(1)  # written, not synced
    with pytest.raises(PowerCutError):
        flush.run()
    assert opened(disk).durable_index == 1
    disk.power_cut()
    assert opened(disk).last_index == 1


def test_what_a_failed_sync_left_is_written_again(disk: SimulatedDisk) -> None:
    """The kernel returns the data and treats it as clean: only writing it again makes it durable."""
    journal = filled(opened(disk), 1)
    journal.append(2, 1, b"x")
    flush = journal.begin_flush()
    assert flush is not None
    disk.fail_syncs()
    with pytest.raises(DiskError):
        flush.run()
    assert opened(disk).durable_index == 2
    disk.power_cut()
    assert opened(disk).last_index == 2


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_process_left_a_segment_whose_name_is_not_durable(seed: int) -> None:
    disk = SimulatedDisk(random.Random(seed))
    journal = filled(opened(disk), 4)
    journal.append(5, 1, b"x" * 80)
    flush = journal.begin_flush()
    assert flush is not None
    disk.stop_after(6)  # old segment synced; created, allocated, header, synced, renamed
    with pytest.raises(PowerCutError):
        flush.run()
    filled(opened(disk), 1)
    disk.power_cut()
    assert opened(disk).last_index == 5


@pytest.mark.parametrize("seed", range(8))
def test_a_drop_cut_short_leaves_no_gap(seed: int) -> None:
    disk = SimulatedDisk(random.Random(seed))
    journal = filled(opened(disk), 40)
    journal.drop_before(35)
    disk.stop_after(1 + seed)
    sweep = journal.begin_sweep()
    assert sweep is not None
    with pytest.raises(PowerCutError):
        sweep.run()
    disk.power_cut()
    journal = opened(disk)
    assert journal.last_index == 40
    assert journal.first_index <= 33


@pytest.mark.parametrize("seed", range(8))
def test_relaxed_files_go_only_behind_synced_entries(seed: int) -> None:
    """Without a sync at each flush a power failure may lose new entries, but never the whole log."""
    disk = SimulatedDisk(random.Random(seed))
    journal = filled(Journal.open(disk, segment_bytes=SMALL, relaxed=True), 10)
    journal.drop_before(9)
    sweep = journal.begin_sweep()
    assert sweep is not None
    sweep.run()
    disk.power_cut()
    assert (opened(disk).first_index, opened(disk).last_index) == (9, 10)


def test_a_bigger_segment_size_counts_from_the_next_segment_on(disk: SimulatedDisk) -> None:
    """A start allocates no space on the disk, which may be full."""
    filled(opened(disk), 2)
    disk.kill()
    journal = Journal.open(disk, segment_bytes=4 * SMALL)
    assert journal.bytes_on_disk == len(disk.content(FIRST)) == SMALL
    filled(journal, 4)
    assert len(disk.content(SECOND)) == 4 * SMALL


def shortened(disk: SimulatedDisk, name: str, size: int) -> None:
    disk.kill()
    with contextlib.closing(disk.open(name)) as file:
        file.truncate(size)
        file.sync()


@pytest.mark.parametrize("size", [SMALL - 1, offset(3), offset(2) + 7, offset(0), HEADER_BYTES])
def test_last_segment_that_lost_its_end_is_refused(disk: SimulatedDisk, size: int) -> None:
    """If it is cut at the end of a record it looks complete: fewer entries, an earlier term, and no vote."""
    journal = opened(disk)
    journal.set_term(3, "b")
    flushed(journal)
    filled(journal, 3, flushes=3)
    shortened(disk, FIRST, size)
    with pytest.raises(
        JournalDamageError, match=f"was made {SMALL} bytes long and has {size}: its end is missing"
    ):
        opened(disk)


def test_torn_end_is_blanked_and_not_cut_off(disk: SimulatedDisk) -> None:
    """Otherwise a power failure at that moment would leave a file that looks as if it had lost its end."""
    filled(filled(opened(disk), 2), 2)
    without_end_record(disk, FIRST)
    disk.rot(FIRST, offset(2) + 50, 1)
    assert opened(disk).torn is not None
    content = disk.content(FIRST)
    assert len(content) == SMALL
    assert not content[offset(2) + RECORD_BYTES :].strip(b"\0")  # except the end record
    journal = opened(disk)
    assert (journal.torn, journal.last_index) == (None, 2)


def test_segment_of_an_earlier_release_says_no_size(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read, and the next segment states its size."""
    with monkeypatch.context() as patch:
        patch.setattr(Header, "encode", encode_as_before)
        filled(opened(disk), 3)
    journal = filled(opened(disk), 6, flushes=2)
    first, second = journal._writer.segments[:2]
    assert (first.header.capacity, second.header.capacity) == (None, SMALL)
    assert opened(disk).last_index == 9


def test_last_segment_of_an_earlier_release_is_not_written_any_more(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost end can't be detected while it is the last segment; the first write begins a new one."""
    with monkeypatch.context() as patch:
        patch.setattr(Header, "encode", encode_as_before)
        filled(opened(disk), 2)
    opened(disk).close()
    assert set(disk.names()) == {FIRST}  # a start takes no room
    journal = opened(disk)
    journal.set_term(3, "b")
    filled(journal, 1)
    assert (len(disk.content(FIRST)), len(disk.content(SECOND))) == (SMALL, SMALL)
    journal = opened(disk)
    assert (journal.torn, journal.last_index, journal.term, journal.voted_for) == (None, 3, 3, "b")
    assert [int(journal.payload_at(index)) for index in (1, 2, 3)] == [0, 1, 0]
    assert len(journal._writer.segments) == 2
    shortened(disk, FIRST, offset(1))
    with pytest.raises(CorruptionError, match="records are missing before this segment"):
        opened(disk)


def test_new_last_segment_behind_one_of_an_earlier_release_is_known_by_its_size(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Header, "encode", encode_as_before)
        filled(opened(disk), 2)
    filled(opened(disk), 1)
    shortened(disk, SECOND, SMALL - 1)
    with pytest.raises(JournalDamageError, match="its end is missing"):
        opened(disk)


def test_earlier_release_reads_a_header_that_says_a_size() -> None:
    header = Header(b"j" * 16, 7, 100, Index(50), Term(3), "b", (9, b"ab"), 1 << 30)
    unpacker = msgpack.Unpacker()
    unpacker.feed(header.encode()[18:])
    assert unpacker.unpack() == [b"j" * 16, 7, 100, 50, 3, "b", [9, b"ab"]]
    assert decode_header(header.encode()) == header


@pytest.mark.parametrize("number", [(1 << 24) - 1, (1 << 40) - 1])
def test_segment_numbers_do_not_run_out(disk: SimulatedDisk, number: int) -> None:
    """After 2**24 segments, 1 PiB of the default size, positions overflowed and every start failed."""
    header = Header(b"j" * 16, number, 1, Index(1), Term(0), None, None)
    first = Segment(disk, header, capacity=SMALL)
    first.create()
    writer = Writer(
        disk,
        [first],
        next_seq=1,
        end=first.start,
        segment_bytes=SMALL,
        relaxed=False,
        header=lambda number, seq: header,
        places=Places(number),
    )
    for index in (1, 2):
        writer.put(Kind.ENTRY, index, 1, b"%080d" % index)
    flush = writer.begin_flush(2)
    assert flush is not None
    flush.run()
    journal = filled(opened(disk), 12, flushes=4)
    assert journal._writer.segments[-1].number > number + 2
    journal = opened(disk)
    assert [journal.payload_at(index)[-2:] for index in (1, 2)] == [b"01", b"02"]
    journal.drop_before(8)
    flushed(filled(journal, 1))
    assert journal.first_index > 2
    assert journal.first_index_within(2 * SMALL) > journal.first_index
    assert opened(disk).last_index == 15


def test_long_logs_are_read_in_windows(disk: SimulatedDisk) -> None:
    """Records across the edges of the reading window, and one longer than the window."""
    journal = Journal.open(disk, segment_bytes=8 << 20)
    sizes = [400_000, 700_000, 5, 1_500_000, 0, 300_000, 1 << 20]
    for index, size in enumerate(sizes, start=1):
        journal.append(index, 1, b"%d" % index * size)
    flushed(journal)
    journal = opened(disk)
    assert journal.torn is None
    assert [p for _, _, p in journal.read(1, 1 << 30)] == [
        b"%d" % i * n for i, n in enumerate(sizes, start=1)
    ]
    without_end_record(disk, FIRST)
    disk.rot(FIRST, HEADER_BYTES + 3_000_000, 1)
    journal = opened(disk)
    assert journal.torn is not None
    assert (journal.last_index, journal.torn.next_index) == (6, 7)
    assert journal.torn.garbage == RECORD_BYTES + sizes[-1]
    assert opened(disk).torn is None
