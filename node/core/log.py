"""The core's index of a channel's messages: their sequences, sizes and timestamps (rule R27).

Payloads are in the store, moved there by effects. Limits and start positions need only these 12 bytes per
message. They are kept in blocks of ``BLOCK_MESSAGES``, aligned to the sequence: block ``n`` holds sequences
``n * BLOCK_MESSAGES + 1`` to ``(n + 1) * BLOCK_MESSAGES``. So dropping a million messages drops a thousand
blocks, a timestamp is found by two bisections, and a checkpoint writes only changed blocks.

A block is deleted when its last message is dropped. Until then it still contains older dropped messages,
which are ignored.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence

from node.errors import CorruptionError
from node.units import Seq, Timestamp

BLOCK_MESSAGES = 1024


class Block:
    """Sizes (bytes) and timestamps (Unix ns) of up to ``BLOCK_MESSAGES`` consecutive messages."""

    __slots__ = ("bytes", "sizes", "times")

    def __init__(self) -> None:
        self.sizes = array("I")
        self.times = array("Q")
        self.bytes = 0
        """Sum of the sizes, including dropped messages. So whole blocks are dropped without reading each
        size."""

    def pack(self) -> bytes:
        """Return little-endian bytes: all sizes (4 bytes each), then all timestamps (8 bytes each)."""
        return _little_endian(self.sizes).tobytes() + _little_endian(self.times).tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> Block:
        block = cls()
        count = len(packed) // 12
        block.sizes.frombytes(packed[: 4 * count])
        block.times.frombytes(packed[4 * count :])
        block.sizes, block.times = _little_endian(block.sizes), _little_endian(block.times)
        block.bytes = sum(block.sizes)
        return block


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


class MessageLog:
    """Sequences ``first`` to ``last`` of a channel, without gaps. Empty if ``first == last + 1``.

    ``last`` never goes back, so a sequence is never used again. ``bytes`` is the sum of the sizes. ``dirty``
    has the numbers of blocks that changed or were deleted since the last checkpoint.
    """

    __slots__ = ("_blocks", "_first_block", "bytes", "dirty", "first", "last")

    def __init__(self, first: int = 1, last: int = 0, size: int = 0) -> None:
        self.first = Seq(first)
        self.last = Seq(last)
        self.bytes = size
        self.dirty: dict[int, None] = {}
        self._blocks: list[Block] = []
        self._first_block = (first - 1) // BLOCK_MESSAGES

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def shown_first(self) -> int:
        """The first sequence as monitoring shows it: 0 if nothing was ever stored (S2)."""
        return self.first if self.last else 0

    def append(self, sizes: Sequence[int], timestamp_ns: int) -> None:
        """Append messages stored at ``timestamp_ns``, which is not below that of the last message."""
        done, count = 0, len(sizes)
        while done < count:
            number = self.last // BLOCK_MESSAGES
            at = number - self._first_block
            if at == len(self._blocks):
                self._blocks.append(Block())
            block = self._blocks[at]
            part = sizes[done : done + BLOCK_MESSAGES - self.last % BLOCK_MESSAGES]
            block.sizes.extend(part)
            block.times.extend([timestamp_ns] * len(part))
            size = sum(part)
            block.bytes += size
            self.bytes += size
            self.dirty[number] = None
            self.last = Seq(self.last + len(part))
            done += len(part)

    def size(self, seq: int) -> int:
        """Return the size (bytes) of a message in the log."""
        number, place = divmod(seq - 1, BLOCK_MESSAGES)
        return self._blocks[number - self._first_block].sizes[place]

    def count_within(self, seqs: Sequence[int], bytes_max: int) -> int:
        """Return how many of ``seqs`` fit into ``bytes_max`` bytes together; at least one if there is any.

        ``seqs`` ascend, up to ``last`` at most. Dropped messages count as 0 bytes. Usually all are in one
        block and small enough: then the cost is that of one sum.
        """
        if not seqs:
            return 0
        first = max(seqs[0], self.first)
        number, place = divmod(first - 1, BLOCK_MESSAGES)
        end = place + seqs[-1] - first + 1
        if end <= place:
            return len(seqs)
        if end <= BLOCK_MESSAGES:
            sizes = self._blocks[number - self._first_block].sizes
            if sum(sizes[place:end]) <= bytes_max:
                return len(seqs)
        size = 0
        for count, seq in enumerate(seqs):
            size += self.size(seq) if seq >= first else 0
            if size > bytes_max:
                return max(count, 1)
        return len(seqs)

    def timestamp(self, seq: int) -> Timestamp:
        """Return the time at which a message in the log was stored."""
        number, place = divmod(seq - 1, BLOCK_MESSAGES)
        return Timestamp(self._blocks[number - self._first_block].times[place])

    def first_at_or_after(self, timestamp_ns: int) -> Seq:
        """Return the first message in the log stored at ``timestamp_ns`` or later; ``last + 1`` if none."""
        low, high = 0, len(self._blocks)
        while low < high:  # find the first block whose last message is late enough
            middle = (low + high) // 2
            times = self._blocks[middle].times
            if times[-1] < timestamp_ns:
                low = middle + 1
            else:
                high = middle
        if low == len(self._blocks):
            return Seq(self.last + 1)
        place = bisect_left(self._blocks[low].times, timestamp_ns)
        return Seq(max(self.first, (low + self._first_block) * BLOCK_MESSAGES + place + 1))

    def first_within(self, bytes_max: int) -> Seq:
        """Return the first message to keep so that the rest is at most ``bytes_max``; at most ``last``."""
        seq, size = self.first, self.bytes
        while size > bytes_max and seq < self.last:
            number, place = divmod(seq - 1, BLOCK_MESSAGES)
            block = self._blocks[number - self._first_block]
            end = seq + BLOCK_MESSAGES
            if place == 0 and end <= self.last and size - block.bytes > bytes_max:
                seq, size = Seq(end), size - block.bytes
            else:
                size -= block.sizes[place]
                seq = Seq(seq + 1)
        return seq

    def drop_before(self, seq: int) -> None:
        """Drop every message below ``seq``, which is at most ``last + 1``."""
        assert seq <= self.last + 1
        while self.first < seq:
            number, place = divmod(self.first - 1, BLOCK_MESSAGES)
            end = min(BLOCK_MESSAGES, place + seq - self.first)
            block = self._blocks[number - self._first_block]
            whole = place == 0 and end == BLOCK_MESSAGES
            self.bytes -= block.bytes if whole else sum(block.sizes[place:end])
            self.first = Seq(self.first + end - place)
        keep = (self.first - 1) // BLOCK_MESSAGES
        if keep > self._first_block:
            self.dirty.update(dict.fromkeys(range(self._first_block, keep)))
            del self._blocks[: keep - self._first_block]
            self._first_block = keep

    def block(self, number: int) -> Block | None:
        """Return the block of that number; None if all its messages were dropped."""
        at = number - self._first_block
        return self._blocks[at] if 0 <= at < len(self._blocks) else None

    def block_numbers(self) -> range:
        return range(self._first_block, self._first_block + len(self._blocks))

    def restore_block(self, number: int, block: Block) -> None:
        """Add a block of a checkpoint. Call it in order of block numbers.

        Raises:
            CorruptionError: a block before it is missing.
        """
        if number != self._first_block + len(self._blocks):
            raise CorruptionError(f"block {number} of a log follows block {self._first_block}")
        self._blocks.append(block)

    def check(self) -> None:
        """Check the log after all its blocks are restored.

        Raises:
            CorruptionError: the blocks don't contain exactly the log's sequences.
        """
        full, rest = divmod(self.last - self._first_block * BLOCK_MESSAGES, BLOCK_MESSAGES)
        wanted = [BLOCK_MESSAGES] * full + ([rest] if rest else [])
        if [len(block.sizes) for block in self._blocks] != wanted:
            raise CorruptionError(f"a log of sequences {self.first} to {self.last} lacks some of them")
