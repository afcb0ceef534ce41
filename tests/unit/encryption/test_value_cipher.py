"""Values: what opens, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.encryption import value_cipher as module
from node.encryption.keyring import Keyring
from node.encryption.value_cipher import OVERHEAD
from node.errors import CorruptionError

from .conftest import node, opened

CIPHERS = ["aes-256-gcm", "chacha20-poly1305"]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("value", [b"", b"x", b"value" * 100_000])
def test_an_encrypted_value_opens_again(tmp_path: Path, cipher: str, value: bytes) -> None:
    """Also out of LMDB's memory, also after a restart with the other cipher; its length tells no more."""
    value_cipher = opened(tmp_path, cipher=cipher, empty=True).value_cipher("store")
    stored = value_cipher.encrypt(value, b"place")
    assert len(stored) == len(value) + OVERHEAD
    assert len(value) < 4 or value not in stored
    assert value_cipher.decrypt(memoryview(stored), b"place") == value
    for other in CIPHERS:
        assert opened(tmp_path, cipher=other).value_cipher("store").decrypt(stored, b"place") == value


def test_a_value_belongs_to_its_place_and_purpose(keyring: Keyring) -> None:
    stored = keyring.value_cipher("store").encrypt(b"value", b"place")
    with pytest.raises(CorruptionError, match="for this place"):
        keyring.value_cipher("store").decrypt(stored, b"elsewhere")
    with pytest.raises(CorruptionError, match="for this place"):
        keyring.value_cipher("journal").decrypt(stored, b"place")


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_flipped_bit_and_every_missing_end_is_found(tmp_path: Path, cipher: str) -> None:
    value_cipher = opened(tmp_path, cipher=cipher, empty=True).value_cipher("store")
    stored = value_cipher.encrypt(b"value", b"")
    for at in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(CorruptionError):
            value_cipher.decrypt(bytes(damaged), b"")
    for size in range(len(stored)):
        with pytest.raises(CorruptionError):
            value_cipher.decrypt(stored[:size], b"")


@pytest.mark.parametrize("plain", [b"", b"plain text", b"\x01plain text" * 100, b"\x02" * 1000])
def test_what_is_not_encrypted_is_refused(keyring: Keyring, plain: bytes) -> None:
    """The reference takes it for plain text, and with it whatever anybody writes to the disk."""
    with pytest.raises(CorruptionError):
        keyring.value_cipher("store").decrypt(plain, b"")


def test_no_nonce_comes_twice(tmp_path: Path) -> None:
    """Not in one sealer, in one thread or several, nor in two; not after a restart or from a copy."""
    directory = tmp_path / "n1"
    directory.mkdir()
    sealers = [opened(directory, empty=True).value_cipher("store")]
    sealers += [opened(directory).value_cipher("store"), opened(directory).value_cipher("journal")]
    seen = set()
    for value_cipher in sealers:
        with ThreadPoolExecutor(2) as pool:
            stored = list(
                pool.map(lambda _, value_cipher=value_cipher: value_cipher.encrypt(b"v", b""), range(500))
            )
        seen |= {value[: OVERHEAD - 16] for value in stored}
    assert len(seen) == 1500
    assert len({nonce[1:9] for nonce in seen}) == 1, "one data key"
    assert len({nonce[9:21] for nonce in seen}) == 3, "a session for each sealer"


def test_derived_keys_are_bounded(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SESSIONS_MAX", 3)
    values = [keyring.value_cipher("store").encrypt(b"%d" % n, b"") for n in range(10)]
    reader = keyring.value_cipher("store")
    for _ in range(2):
        assert [reader.decrypt(value, b"") for value in values] == [b"%d" % n for n in range(10)]
    assert len(reader._readers) <= 3
    assert reader.decrypt(reader.encrypt(b"own", b""), b"") == b"own"


def test_two_directories_have_nothing_in_common(tmp_path: Path) -> None:
    """Equal pass phrases, other keys: no two nodes write under one."""
    one, two = node(tmp_path, "n1", "pass"), node(tmp_path, "n2", "pass")
    assert not set(one.key_ids) & set(two.key_ids)
    assert one._master != two._master
    with pytest.raises(CorruptionError, match=r"which sealing\.json doesn't have"):
        two.value_cipher("store").decrypt(one.value_cipher("store").encrypt(b"value", b""), b"")
