from __future__ import annotations

import sys
import zlib
from collections.abc import Callable

import pytest

from node.encryption.keyring import Keyring
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


def test_an_encrypted_block_gives_back_its_messages(keyring: Callable[..., Keyring]) -> None:
    """And shows nothing of them."""
    value_cipher = keyring("n1").value_cipher("store")
    messages = [b"one and more", b"", b"three" * 1000]
    key = blocks.key(7, 41)
    stored = blocks.encode(key, messages, value_cipher)
    assert b"one and more" not in stored
    assert b"threethree" not in stored
    assert blocks.decode(key, memoryview(stored), value_cipher).messages() == messages


def test_an_encrypted_block_is_bound_to_key_and_head(keyring: Callable[..., Keyring]) -> None:
    """With its checksum made right, elsewhere or with another count it doesn't open."""
    value_cipher = keyring("n1").value_cipher("store")
    key, other = blocks.key(7, 41), blocks.key(7, 42)
    body = blocks.encode(key, [b"a", b"b"], value_cipher)[4:]
    for block_key, moved in ((other, body), (key, body[:4] + b"\x01" + body[5:])):
        value = zlib.crc32(moved, zlib.crc32(block_key)).to_bytes(4, sys.byteorder) + moved
        with pytest.raises(CorruptionError, match=r"channel 7 from .*for this place"):
            blocks.decode(block_key, value, value_cipher)


def test_encrypted_and_plain_blocks_are_not_mixed(keyring: Callable[..., Keyring]) -> None:
    """A plain block could be anybody's; a sealed one is nothing without the key."""
    value_cipher = keyring("n1").value_cipher("store")
    key = blocks.key(1, 1)
    with pytest.raises(CorruptionError, match="not encrypted"):
        blocks.decode(key, blocks.encode(key, [b"a"]), value_cipher)
    with pytest.raises(CorruptionError, match="no key"):
        blocks.decode(key, blocks.encode(key, [b"a"], value_cipher))
