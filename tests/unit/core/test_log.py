"""The message log: arrays in blocks."""

from __future__ import annotations

import pytest

from node.core.log import BLOCK_MESSAGES, Block, MessageLog
from node.errors import CorruptionError


def filled(count: int, *, step: int = 1) -> MessageLog:
    """Message n has size n and timestamp n * step."""
    log = MessageLog()
    for seq in range(1, count + 1):
        log.append([seq], seq * step)
    return log


def test_an_empty_log() -> None:
    """S2: nothing ever stored: the next is 1; monitoring shows 0/0."""
    log = MessageLog()
    assert (log.first, log.last, len(log), log.shown_first, log.bytes) == (1, 0, 0, 0, 0)
    assert log.first_at_or_after(0) == 1


def test_messages_keep_size_and_timestamp() -> None:
    """R27: across blocks, appended one by one or many together."""
    log = filled(3)
    log.append(list(range(4, 3000)), 77)
    log.append([3000, 3001], 80)
    assert (log.first, log.last) == (1, 3001)
    assert [log.size(seq) for seq in (1, 3, 4, 1024, 1025, 2048, 2049, 3001)] == [
        1,
        3,
        4,
        1024,
        1025,
        2048,
        2049,
        3001,
    ]
    assert [log.timestamp(seq) for seq in (3, 4, 2999, 3000)] == [3, 77, 77, 80]
    assert log.bytes == sum(range(1, 3002))


@pytest.mark.parametrize(
    "upto", [1, 2, BLOCK_MESSAGES, BLOCK_MESSAGES + 1, BLOCK_MESSAGES + 2, 2500, 3000, 3001]
)
def test_dropping_from_the_front(upto: int) -> None:
    """S1, S2: the rest is as it was, the sum of sizes right, and the sequence goes on after all are gone."""
    log = filled(3000)
    log.drop_before(upto)
    assert (log.first, log.last) == (upto, 3000)
    assert log.bytes == sum(range(upto, 3001))
    log.append([5], 9000)
    assert (log.last, log.size(3001), log.timestamp(3001)) == (3001, 5, 9000)
    assert log.shown_first == upto


def test_finding_by_time() -> None:
    """S6: the first with that timestamp or later; before all: the first; after all: the one to come."""
    log = filled(3000, step=10)
    assert log.first_at_or_after(0) == 1
    assert log.first_at_or_after(10) == 1
    assert log.first_at_or_after(11) == 2
    assert log.first_at_or_after(10240) == 1024
    assert log.first_at_or_after(10241) == 1025
    assert log.first_at_or_after(30000) == 3000
    assert log.first_at_or_after(30001) == 3001
    log.drop_before(1500)
    assert log.first_at_or_after(0) == 1500
    log.drop_before(3001)
    assert log.first_at_or_after(0) == 3001


def test_finding_by_size() -> None:
    """L1: what to keep so that the rest fits; the newest always."""
    log = filled(10)
    assert log.first_within(55) == 1
    assert log.first_within(54) == 2
    assert log.first_within(19) == 9
    assert log.first_within(9) == 10


@pytest.mark.parametrize("dropped", [1, 500, 1024, 1025, 3000])
def test_finding_by_size_in_whole_blocks(dropped: int) -> None:
    """R19: a block is taken off as one, and the answer is what adding up message by message gives."""
    log = filled(5000)
    log.drop_before(dropped)
    for bytes_max in (0, 1, 4999, 5000, 9_998, 1_000_000, 3_000_000, 8_000_000, 12_500_000, 20_000_000):
        first, size = dropped, log.bytes
        while size > bytes_max and first < 5000:
            size, first = size - first, first + 1
        assert log.first_within(bytes_max) == first
    log.drop_before(4000)
    assert log.bytes == sum(range(4000, 5001))
    again = Block.unpack(log.block(4).pack())  # type: ignore[union-attr]
    assert again.bytes == sum(range(4097, 5001))


def test_touched_blocks() -> None:
    """A checkpoint rewrites the block that grew and deletes those that went."""
    log = filled(3 * BLOCK_MESSAGES)
    log.dirty = {}
    log.append([1], 99999)
    assert list(log.dirty) == [3]
    log.dirty = {}
    log.drop_before(BLOCK_MESSAGES)
    assert list(log.dirty) == []
    log.drop_before(2 * BLOCK_MESSAGES + 5)
    assert list(log.dirty) == [0, 1]
    assert log.block(1) is None
    assert list(log.block_numbers()) == [2, 3]


def test_restoring() -> None:
    """Blocks come back as they were; what is missing is noticed."""
    log = filled(2500)
    log.drop_before(1100)
    packed = {number: log.block(number).pack() for number in log.block_numbers()}  # type: ignore[union-attr]
    again = MessageLog(log.first, log.last, log.bytes)
    for number, block in packed.items():
        again.restore_block(number, Block.unpack(block))
    again.check()
    assert [again.size(seq) for seq in range(1100, 2501)] == list(range(1100, 2501))
    again.append([1], 9999)
    assert again.size(2501) == 1
    with pytest.raises(CorruptionError, match="block 2 of a log follows"):
        MessageLog(log.first, log.last).restore_block(2, Block())
    lacking = MessageLog(log.first, log.last)
    with pytest.raises(CorruptionError, match="lacks some"):
        lacking.check()


def test_how_many_messages_make_so_many_bytes() -> None:
    """Message n has n bytes; what was dropped has none, and one is always among them."""
    log = filled(3000)
    assert log.count_within([], 10) == 0
    assert log.count_within(range(1, 5), 10) == 4
    assert log.count_within(range(1, 6), 10) == 4
    assert log.count_within([2000, 2001], 10) == 1
    assert log.count_within(range(1020, 1030), 10**6) == 10
    assert log.count_within(range(1020, 1030), 1020 + 1021 + 1022) == 3
    assert log.count_within([1, 1024, 3000], 1025) == 2
    log.drop_before(2500)
    assert log.count_within([1, 2, 2000], 0) == 3
    assert log.count_within([1, 2, 2499, 2500, 2501], 2500) == 4
    assert log.count_within([1, 2500], 10) == 1
    log.drop_before(3001)
    assert log.count_within([1, 3000], 0) == 2
