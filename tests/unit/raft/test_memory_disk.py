"""A journal in memory. The guarantees of a disk are tested in test_disk."""

from __future__ import annotations

from node.raft.journal import Journal
from node.raft.memory_disk import MemoryDisk


def flush(journal: Journal) -> None:
    job = journal.begin_flush()
    assert job is not None
    job.run()
    journal.end_flush(job)


def test_a_journal_in_memory_takes_no_more_than_what_it_holds() -> None:
    """Reserved space takes no memory, and dropped entries free theirs."""
    disk = MemoryDisk()
    journal = Journal.open(disk, segment_bytes=1 << 20, cache_bytes=0, relaxed=True)
    for index in range(1, 401):
        journal.append(index, 1, b"x" * 10_000)
        flush(journal)
    assert len(disk.names()) == 4
    assert journal.payload_at(1) == b"x" * 10_000
    journal.drop_before(400)
    sweep = journal.begin_sweep()
    assert sweep is not None
    sweep.run()
    assert len(disk.names()) == 1
    assert sum(len(content.written) for content in disk._files.values()) < 1 << 20
    journal.close()
