from __future__ import annotations

import pytest

from node.errors import CorruptionError
from node.store import blocks


def test_a_block_gives_back_its_messages() -> None:
    """One by one and all together, empty ones too."""
    messages = [b"one", b"", b"three" * 1000]
    key = blocks.key(7, 41)
    block = blocks.decode(key, blocks.encode(key, messages))
    assert (block.first, block.end) == (41, 44)
    assert [block.message(seq) for seq in range(41, 44)] == messages
    assert block.messages() == messages


def test_keys_sort_as_channel_and_sequence() -> None:
    """Big-endian: LMDB's order is theirs."""
    pairs = [(1, 1), (1, 255), (1, 256), (2, 1), (256, 1), (256, 1 << 40)]
    keys = [blocks.key(*pair) for pair in pairs]
    assert keys == sorted(keys)
    assert [blocks.split_key(key) for key in keys] == pairs


def test_a_block_under_another_key_is_refused() -> None:
    """The checksum covers the key: a value in the wrong place is damage."""
    value = blocks.encode(blocks.key(1, 1), [b"a"])
    with pytest.raises(CorruptionError, match="channel 1 from sequence 2"):
        blocks.decode(blocks.key(1, 2), value)


def test_every_flipped_bit_is_found() -> None:
    """In the head, the ends, the data; and so is a missing end."""
    key = blocks.key(1, 1)
    value = blocks.encode(key, [b"abc", b"de"])
    for at in range(len(value) * 8):
        damaged = bytearray(value)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(CorruptionError):
            blocks.decode(key, bytes(damaged))
    for size in range(len(value)):
        with pytest.raises(CorruptionError):
            blocks.decode(key, value[:size])
