from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from node.encryption.keyring import Keyring
from node.errors import CorruptionError
from node.store.values import Values, verified, with_checksum

PATH = Path("store")


def test_a_checksum_covers_key_and_value() -> None:
    stored = with_checksum(b"key", b"value")
    assert verified(PATH, b"key", stored) == b"value"
    for wrong in (stored[:-1], b"x" + stored[1:], stored[:-1] + b"?", b"", b"abc"):
        with pytest.raises(CorruptionError, match=r"store: .*checksum.*replace"):
            verified(PATH, b"key", wrong)
    with pytest.raises(CorruptionError, match="other"):
        verified(PATH, b"other", stored)


@pytest.mark.parametrize("value", [b"", b"value" * 1000])
def test_values_are_read_back(keyring: Callable[..., Keyring], value: bytes) -> None:
    """Plain or sealed; a sealed one by whoever opens the same keys later."""
    plain = Values(PATH)
    assert plain.decode(b"state", b"key", plain.encode(b"state", b"key", value)) == value
    stored = Values(PATH, keyring("n1").value_cipher("store")).encode(b"state", b"key", value)
    assert Values(PATH, keyring("n1").value_cipher("store")).decode(b"state", b"key", stored) == value


def test_an_encrypted_value_is_bound_to_its_place(keyring: Callable[..., Keyring]) -> None:
    """Even if whoever moves it makes its checksum right."""
    values = Values(PATH, keyring("n1").value_cipher("store"))
    stored = values.encode(b"state", b"key", b"value")
    moved = with_checksum(b"other", stored[:-4])
    with pytest.raises(CorruptionError, match=r"b'other': it isn't what was encrypted .*replace"):
        values.decode(b"state", b"other", moved)
    with pytest.raises(CorruptionError, match="for this place"):
        values.decode(b"floors", b"key", stored)


def test_a_plain_value_is_refused_where_all_are_encrypted(keyring: Callable[..., Keyring]) -> None:
    plain = Values(PATH).encode(b"state", b"key", b"value")
    with pytest.raises(CorruptionError, match="not encrypted"):
        Values(PATH, keyring("n1").value_cipher("store")).decode(b"state", b"key", plain)
